"""A local run whose processes are all killed between steps, and run again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from chain_fixtures import IMAGES, build_tiny, source, tiny_model  # noqa: F401 - fixtures
from conftest import Tally
from killed_chain import EPOCH
from places import FolderPlace, committed, compare, done_twice

#: Between listing and reading, between the shards' masks and the evaluation, and before the commit.
ENDED = ("fetch_dataset", "postprocess_masks", "evaluate_masks")


def start(folder: Path, model: Path, images: str) -> subprocess.Popen[bytes]:
    """Starts the real command in a process group of its own."""
    folder.mkdir(exist_ok=True)
    command = [
        sys.executable, "-m", "clipseg_kfp.cli", "local", "run", "--source", images,
        "--output", str(folder / "out"), "--model", str(model), "--prompt", "a circle",
        "--shard-size", "2", "--run-id", "one", "--backend", "torch", "--log", str(folder / "log"),
        "--work", str(folder / "work"),
    ]  # fmt: skip
    environment = {**os.environ, "SOURCE_DATE_EPOCH": EPOCH}
    with (folder / "said").open("wb") as said:
        return subprocess.Popen(
            command, stdout=said, stderr=subprocess.STDOUT, env=environment, start_new_session=True
        )


def finish(folder: Path, model: Path, images: str) -> None:
    process = start(folder, model, images)
    try:
        assert process.wait(180) == 0, (folder / "said").read_text()
    finally:
        kill(process)


def kill(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.faults
def test_a_kill_after_a_step(
    tmp_path: Path,
    source: str,
    tiny_model: Path,
    tally: Tally,
) -> None:
    finish(tmp_path / "undisturbed", tiny_model, source)
    whole = FolderPlace(tmp_path / "undisturbed" / "out").read()
    assert committed(whole)["one"]["counts"]["done"] == IMAGES - 1
    for step in ENDED:
        folder = tmp_path / step
        process, log, deadline = start(folder, tiny_model, source), folder / "log", time.monotonic() + 180
        while not (log.exists() and f"[{step}] took" in log.read_text("utf-8")):
            assert process.poll() is None, (folder / "said").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        kill(process)
        tally.add("faults_tried")
        place = FolderPlace(folder / "out")
        assert committed(place.read()) == {}
        finish(folder, tiny_model, source)
        found = place.read()
        difference = compare(whole, found)
        tally.add("objects_lost", len(difference.lost))
        tally.add("objects_duplicated", len(difference.duplicated) + done_twice(found))
        assert (difference.lost, difference.duplicated, done_twice(found)) == ([], [], 0)
        tally.add("faults_survived")
