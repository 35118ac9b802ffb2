"""Local runs as whole processes: two at once, and one that is killed at the end of each of its steps."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from chain_fixtures import IMAGES, build_tiny, source, tiny_model  # noqa: F401 - fixtures
from conftest import Tally
from killed_chain import EPOCH
from places import FolderPlace, committed, compare, done_twice

STEPS = (
    "fetch_model",
    "encode_prompts",
    "fetch_dataset",
    "preprocess_images",
    "segment_images",
    "postprocess_masks",
    "evaluate_masks",
)
SECONDS = 120  # that a run may take; no more than a stop to what hangs


def start(
    folder: Path, model: Path, images: str, name: str = "", end_after: str = ""
) -> subprocess.Popen[bytes]:
    """Starts the real command in a process group of its own; all of it is killed at the end of a step."""
    folder.mkdir(exist_ok=True)
    command = [
        sys.executable, "-m", "clipseg_kfp.cli", "local", "run", "--source", images,
        "--output", str(folder / "out"), "--model", str(model), "--prompt", "a circle",
        "--set", "limits.shard_size=2", "--set", "inference.backend=torch", "--run-id", "one",
        "--log", str(folder / f"log{name}"),
        "--work", str(folder / f"work{name}"),
    ]  # fmt: skip
    hook = str(Path(__file__).parent / "ending_steps")
    path = os.pathsep.join(filter(None, [hook, os.environ.get("PYTHONPATH")]))
    ending = {"PYTHONPATH": path, "CLIPSEG_KFP_TEST_END_AFTER": end_after}
    environment = {**os.environ, "SOURCE_DATE_EPOCH": EPOCH, **(ending if end_after else {})}
    with (folder / f"said{name}").open("wb") as said:
        return subprocess.Popen(
            command, stdout=said, stderr=subprocess.STDOUT, env=environment, start_new_session=True
        )


def finish(*processes: subprocess.Popen[bytes]) -> list[int]:
    """Waits for processes; returns their statuses. None outlives this."""
    try:
        return [process.wait(SECONDS) for process in processes]
    finally:
        for process in processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def said(folder: Path) -> str:
    return "\n".join(path.read_text() for path in folder.glob("said*"))


@pytest.mark.faults
def test_two_at_once_and_kills_after_each_step(
    tmp_path: Path,
    source: str,
    tiny_model: Path,
    tally: Tally,
) -> None:
    """Two of one name end in one run; the killed one commits nothing before its end, and then the same."""
    both, folder = tmp_path / "both", tmp_path / "killed"
    statuses = finish(*(start(both, tiny_model, source, name) for name in ("-1", "-2")))
    assert 0 in statuses and set(statuses) <= {0, 1}, said(both)
    if statuses != [0, 0]:  # one was so late that the other was done
        assert "The run 'one' exists already" in said(both)
    whole = FolderPlace(both / "out").read()
    assert committed(whole)["one"]["counts"]["done"] == IMAGES - 1
    assert done_twice(whole) == 0

    place = FolderPlace(folder / "out")
    for step in STEPS:
        assert finish(start(folder, tiny_model, source, end_after=step)) == [-signal.SIGKILL], said(folder)
        tally.add("faults_tried")
        assert committed(place.read()) == {}
    assert finish(start(folder, tiny_model, source)) == [0], said(folder)
    found = place.read()
    # What was done before a kill is taken over, so the tables have another order, and the report fewer pictures.
    objects = [
        {
            key: data
            for key, data in place.items()
            if not any(part in key for part in ("/runs/", "/parts/", "/latest"))
        }
        for place in (whole, found)
    ]
    difference = compare(*objects)
    assert committed(found)["one"]["counts"] == committed(whole)["one"]["counts"]
    tally.add("objects_lost", len(difference.lost))
    tally.add("objects_duplicated", len(difference.duplicated) + done_twice(found))
    assert (difference.lost, difference.duplicated, done_twice(found)) == ([], [], 0)
    tally.add("faults_survived", len(STEPS))
