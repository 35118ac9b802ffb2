"""What a local run shows of its steps' output, without running any."""

from __future__ import annotations

import builtins
import io
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from clipseg_kfp.local.runner import LocalRunError, _Screen, run_pipeline
from clipseg_kfp.results.summary import RunSummary, show
from clipseg_kfp.storage import open_folder


def shown(*lines: str) -> tuple[_Screen, str]:
    out = io.StringIO()
    with _Screen(io.StringIO(), Console(file=out, width=80)) as screen:
        for line in lines:
            screen.write(line + "\n")
    return screen, out.getvalue()


def test_of_two_failing_shards_the_first_is_told() -> None:
    screen, _ = shown(
        "    error: segment_images: first",
        "      remedy: do this",
        "      remedy: and that",
        "    error: segment_images: second",
        "      remedy: not this",
    )
    assert screen.problems == ["error: segment_images: first", "remedy: do this", "remedy: and that"]


def test_a_remedy_belongs_to_the_error_right_before_it() -> None:
    screen, _ = shown("remedy: of nothing", "error: first", "some other line", "remedy: of another")
    assert screen.problems == ["error: first"]


def test_long_lines_of_steps_do_not_wrap() -> None:
    path = "s3://bucket/" + "x" * 100
    _, text = shown(f"[publish_results] wrote {path}")
    assert text.splitlines() == [f"publish_results    wrote {path}"]


def failing(*lines: str) -> Callable[..., Any]:
    def pipeline() -> None:
        print("\n".join(lines))
        raise RuntimeError("failed")

    return pipeline


def test_the_work_folder_is_made_and_emptied(tmp_path: Path) -> None:
    work = tmp_path / "a" / "work"
    with pytest.raises(LocalRunError) as caught:
        run_pipeline(
            failing("error: x: first", "  remedy: do this", "error: x: second"),
            {},
            tmp_path / "log",
            work=work,
        )
    assert caught.value.message == "x: first"
    assert caught.value.remedy == f"do this (Log: {tmp_path / 'log'})"
    assert list(work.iterdir()) == []


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
