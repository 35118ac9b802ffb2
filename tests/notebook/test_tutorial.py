"""The tutorial notebook runs from a clean kernel on what a notebook server has, and reads well as committed."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

nbformat = pytest.importorskip(
    "nbformat", reason="needs nbformat and nbclient: pip install 'clipseg-kfp[test]'"
)

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "examples" / "zero_shot_segmentation.ipynb"
LIMIT = 4_000_000_000  # bytes, with the kernel's pipeline run and all its processes


def cells(path: Path) -> list[Any]:
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


def memory(process: int) -> int:
    """Bytes of a process and all below it; pages that they share count once."""
    total = 0
    try:
        for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1]) * 1024
        for children in Path(f"/proc/{process}/task").glob("*/children"):
            total += sum(map(memory, map(int, children.read_text().split())))
    except OSError:  # it has ended
        pass
    return total


def test_what_is_committed_has_its_outputs() -> None:
    text = NOTEBOOK.read_text("utf-8")
    assert len(text) < 2_000_000
    assert str(ROOT) not in text and str(Path.home()) + "/" not in text
    for number, cell in enumerate(cells(NOTEBOOK), 1):
        assert cell.execution_count == number, "run `make notebook` and commit what it writes"
        assert not any(output.output_type == "error" for output in cell.outputs)
        assert not any(output.get("name") == "stderr" for output in cell.outputs), "a warning is no output"
    outputs = [o.get("data", {}) for cell in cells(NOTEBOOK) for o in cell.outputs]
    assert sum("image/jpeg" in data for data in outputs) >= 10, "plots, and the pipeline's overlays"
    (report,) = [page for data in outputs if "<iframe" in (page := data.get("text/html", ""))]
    assert 'sandbox="allow-scripts"' in report and "Run details" in report, (
        "the pipeline's report, as Kubeflow frames it"
    )


@pytest.mark.slow
def test_it_runs_within_two_cpus_and_four_gigabytes(tmp_path: Path) -> None:
    out = tmp_path / "out.ipynb"
    two = set(sorted(os.sched_getaffinity(0))[:2])
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CLIPSEG_")}
    started = subprocess.Popen(
        [sys.executable, "-m", "tools.notebook", NOTEBOOK, "--out", out],
        env=environment | {"CLIPSEG_KFP_CACHE": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"},
        preexec_fn=lambda: os.sched_setaffinity(0, two),  # noqa: PLW1509 - before any thread is started here
    )
    peak = 0

    def watch() -> None:
        nonlocal peak
        while started.poll() is None:
            peak = max(peak, memory(started.pid))
            time.sleep(0.2)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        assert started.wait(timeout=600) == 0
    finally:
        started.kill()
        watcher.join()
    print(f"peak memory {peak / 1e6:,.0f} MB")
    assert 200_000_000 < peak < LIMIT
    found, committed = cells(out), cells(NOTEBOOK)
    for one, other in zip(found, committed, strict=True):
        assert one.source == other.source
        assert {o.output_type for o in one.outputs} == {o.output_type for o in other.outputs}
    said = [o.text for cell in found for o in cell.outputs if o.output_type == "stream"]
    assert any("the stored embedding gives the same mask: True" in text for text in said)
    assert any("'done': 6" in text for text in said)
