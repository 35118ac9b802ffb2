"""Killed at any write and run again: the same bytes in the end, nothing lost, nothing done twice."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import pytest
from conftest import Tally
from fixtures import build_tiny, picture, tiny_model  # noqa: F401 - fixtures
from kill_matrix import Trial, Undisturbed, again, processes, try_all, under_another_name, undisturbed
from killed_chain import Task, run
from places import BucketPlace, FolderPlace, Place, committed, compare

IMAGES = 4


@pytest.fixture(scope="module")
def pool() -> ProcessPoolExecutor:
    with processes() as pool:
        yield pool


@pytest.fixture
def source(tmp_path: Path) -> str:
    """Images for two shards, one of them damaged."""
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(IMAGES - 1):
        picture(40, 30, number).save(folder / f"{number}.png")
    (folder / "damaged.png").write_bytes(b"no image")
    return str(folder)


@pytest.fixture(params=["folder", "bucket"])
def task(request: pytest.FixtureRequest, tmp_path: Path, source: str, tiny_model: Path) -> Task:  # noqa: F811
    place: Place = FolderPlace(tmp_path / "out")
    if request.param == "bucket":
        environment = request.getfixturevalue("store").environment()
        place = BucketPlace(environment, request.getfixturevalue("bucket"), "out")
    (tmp_path / "work").mkdir()
    return Task(tmp_path / "work", tiny_model, source, place, "first")


def check(trials: list[Trial], tally: Tally) -> None:
    """Counts, and fails where one trial did not end as it must."""
    tally.add("faults_tried", len(trials))
    lost = {trial.point: trial.difference.lost for trial in trials if trial.difference.lost}
    twice = {
        trial.point: (trial.difference.duplicated, trial.twice)
        for trial in trials
        if trial.difference.duplicated or trial.twice
    }
    problems = {trial.point: trial.problem for trial in trials if trial.problem}
    bad = {*lost, *twice, *problems}
    tally.add("faults_survived", sum(trial.killed and trial.point not in bad for trial in trials))
    tally.add("objects_lost", sum(map(len, lost.values())))
    tally.add("objects_duplicated", sum(len(names) + rows for names, rows in twice.values()))
    assert not lost
    assert not twice
    assert not problems
    assert [trial.point for trial in trials if not trial.killed] == []


@pytest.fixture
def whole(task: Task, pool: ProcessPoolExecutor) -> Undisturbed:
    return pool.submit(undisturbed, task).result()


@pytest.mark.faults
def test_every_write(task: Task, whole: Undisturbed, pool: ProcessPoolExecutor, tally: Tally) -> None:
    print(len(whole.points), "boundaries")
    check(try_all(pool, partial(again, task, whole), whole.points), tally)


@pytest.mark.faults
def test_the_next_run_after_every_write(
    task: Task, whole: Undisturbed, pool: ProcessPoolExecutor, tally: Tally
) -> None:
    points = [point for point in whole.points if point.writes_results]
    print(len(points), "boundaries")
    check(try_all(pool, partial(under_another_name, task, whole), points), tally)
