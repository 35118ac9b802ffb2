"""What a local run shows of its steps' output, without running any."""

from __future__ import annotations

import builtins
import io
import logging
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from codes import fails
from rich.console import Console

from clipseg_kfp.local.monitor import LogWriter, Monitor
from clipseg_kfp.local.runner import LocalRunError, run_pipeline
from clipseg_kfp.results.summary import RunSummary, show
from clipseg_kfp.runtime.events import tell
from clipseg_kfp.storage import open_folder

LINE = {"kind": "line", "step": "publish_results", "progress": False}


def shown(*events: dict[str, Any], terminal: bool = False) -> tuple[Monitor, str]:
    out = io.StringIO()
    with Monitor(Console(file=out, width=80, force_terminal=terminal)) as monitor:
        for event in events:
            monitor.take(event)
    return monitor, out.getvalue()


def error(what: str) -> dict[str, Any]:
    return {"step": "segment_images", "code": "c", "what": what, "where": "w", "remedy": "r"}


def test_of_two_failing_shards_the_first_counts() -> None:
    first = {"kind": "error", **error("first")}
    assert shown(first, {"kind": "error", **error("second")})[0].error == first


def test_times_of_a_step_are_summed_over_its_shards() -> None:
    times = [
        {"kind": "time", "step": step, "seconds": seconds}
        for step, seconds in (("a", 1.25), ("b", 2), ("a", 0.5))
    ]
    assert shown(*times)[0].seconds == {"a": 1.75, "b": 2}


def test_long_lines_of_steps_do_not_wrap() -> None:
    path = "s3://bucket/" + "x" * 100
    _, text = shown({**LINE, "text": f"wrote {path}"})
    assert text.splitlines() == [f"publish_results    wrote {path}"]


@pytest.mark.parametrize("terminal", [False, True])
def test_a_terminal_gets_bars_in_place_of_lines_of_progress(terminal: bool) -> None:
    bar = {"kind": "progress", "step": "s", "process": 1, "done": 3, "total": 7, "unit": "views"}
    other = {**bar, "process": 2, "done": 1, "total": 2}
    _, text = shown(
        bar, other, {**LINE, "text": "5/7", "progress": True}, {**LINE, "text": "x"}, terminal=terminal
    )
    assert ("5/7" in text, "4/9" in text) == (not terminal, terminal)
    assert "publish_results    x" in text


def test_the_log_has_all_lines_without_colors_and_nothing_that_a_terminal_obeys() -> None:
    log = io.StringIO()
    LogWriter(log).write("\x1b[31mred\x1b[0m\n\n  \n a\tb\x1b[2J\n")
    assert log.getvalue() == "red\n a\tb\\u001b[2J\n"


def test_the_work_folder_is_made_and_emptied_and_the_steps_error_is_raised(tmp_path: Path) -> None:
    def pipeline() -> None:
        print("error: not this")
        tell("error", **error("first"))
        tell("error", **error("second"))
        raise RuntimeError("failed")

    work = tmp_path / "a" / "work"
    with fails("c", where="w") as caught:
        run_pipeline(pipeline, {}, tmp_path / "log", work=work)
    assert isinstance(caught.value, LocalRunError)
    assert (caught.value.step, caught.value.log) == ("segment_images", tmp_path / "log")
    assert (caught.value.message, caught.value.remedy) == ("segment_images: first", "r")
    assert list(work.iterdir()) == []


def test_a_step_that_leaves_no_error_is_told_by_kfps(tmp_path: Path) -> None:
    def pipeline() -> None:
        print("error: not this\n  remedy: nor that")
        raise RuntimeError("\x1b[31mTask failed\x1b[0m")

    with fails("step_ended") as caught:
        run_pipeline(pipeline, {}, tmp_path / "log")
    assert caught.value.message == "Task failed"


def test_what_a_pipeline_leaves_behind_in_this_process_is_put_back(tmp_path: Path) -> None:
    """kfp's threads may leave their print and their handler, which writes to the log that is closed by then."""
    printing, handlers = print, list(logging.getLogger().handlers)

    def pipeline() -> Any:
        builtins.print = lambda *_: None
        logging.getLogger().addHandler(logging.StreamHandler(sys.stdout))
        (Path(os.environ["TMPDIR"]) / "program").touch()
        return SimpleNamespace(output="file:///manifest")

    before = os.environ.get("TMPDIR")
    run_pipeline(pipeline, {}, tmp_path / "log", work=tmp_path / "work")
    assert print is printing and logging.getLogger().handlers == handlers
    assert list((tmp_path / "work").iterdir()) == [] and os.environ.get("TMPDIR") == before


TWO_RUNS = """
import sys, tempfile
from pathlib import Path
from types import SimpleNamespace
from clipseg_kfp.local.runner import run_pipeline

folder = Path(sys.argv[1])
for name in ("one", "two"):
    def pipeline():
        with tempfile.TemporaryFile():
            return SimpleNamespace(output="file:///manifest")
    run_pipeline(pipeline, {}, folder / name, work=folder / "work")
"""


def test_two_runs_in_one_process_leave_nothing_where_temporary_files_go(tmp_path: Path) -> None:
    (tmp_path / "tmp").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", TWO_RUNS, str(tmp_path)],
        env={**os.environ, "TMPDIR": str(tmp_path / "tmp")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "tmp").iterdir()) == [] == list((tmp_path / "work").iterdir())


def summary(tmp_path: Path, **counts: int) -> str:
    every = {"listed": 0, "done": 0, "skipped": 0, "quarantined": 0, "masks": 0, **counts}
    run_id = "20260101T000000Z-with-a-name-that-is-longer-than-the-table"
    manifest = {"run": run_id, "counts": every}
    absent = {"iou": None, "precision": 0.0, "recall": None, "images": 3, "false_alarm_images": 2}
    metrics: dict[str, Any] = {"mean_iou": None, "per_prompt": {"a [red] cup": absent}}
    row = {"key": "broken.png", "reason": "damaged", "detail": "It is broken."}
    folder = open_folder(str(tmp_path))
    out = io.StringIO()
    show(
        RunSummary(f"{folder.uri}/c/runs/r/manifest.json", folder, manifest, metrics, [row]),
        Console(file=out, width=60),
    )
    assert f"Run {run_id}" in out.getvalue().splitlines()
    alarms = "a [red] cup: not in the ground truth; false alarms in 2 of 3 images"
    assert alarms in out.getvalue().splitlines()
    return out.getvalue()


def test_a_run_without_anything_new_says_so(tmp_path: Path) -> None:
    assert "Nothing new: 3 images were done" in summary(tmp_path, listed=3, skipped=3)
    some = summary(tmp_path, listed=4, skipped=3, quarantined=1)
    assert "Nothing new" in some and "1 still cannot be used." in some
    assert "Nothing new" not in summary(tmp_path, listed=4, done=1, skipped=3)
    assert "Nothing new" not in summary(tmp_path, listed=1, quarantined=1)
    assert "There were no images." in summary(tmp_path)
