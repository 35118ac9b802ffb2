"""Killed at any write and run again: the same bytes in the end, nothing lost, nothing done twice."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import killed_chain
import pytest
from chain_fixtures import IMAGES, build_tiny, pool, source, task, tiny_model  # noqa: F401 - fixtures
from conftest import Tally
from kill_matrix import Trial, Undisturbed, again, try_all, under_another_name, undisturbed
from killed_chain import Task, run
from places import FolderPlace, committed


@pytest.fixture
def whole(task: Task, pool: ProcessPoolExecutor) -> Undisturbed:
    """What a run does that nothing happens to."""
    return pool.submit(undisturbed, task).result()


on_both = pytest.mark.parametrize("task", ["folder", "bucket"], indirect=True)
on_a_bucket = pytest.mark.parametrize("task", ["bucket"], indirect=True)


def check(trials: list[Trial], tally: Tally) -> None:
    """Counts, and fails where one trial did not end as it must."""
    bad = [trial for trial in trials if not trial.good]
    tally.add("faults_tried", len(trials))
    tally.add("faults_survived", len(trials) - len(bad))
    tally.add("objects_lost", sum(len(trial.difference.lost) for trial in trials))
    tally.add(
        "objects_duplicated", sum(len(trial.difference.duplicated) + trial.masks_twice for trial in trials)
    )
    assert bad == []


@pytest.mark.faults
@on_both
def test_every_write(task: Task, whole: Undisturbed, pool: ProcessPoolExecutor, tally: Tally) -> None:
    # The steps' own folders are the same whatever the results go to.
    points = [point for point in whole.points if point.writes_results or not task.output.remote]
    assert len(points) > 3 * len(whole.objects) - IMAGES
    check(try_all(pool, partial(again, task, whole), points), tally)


@pytest.mark.faults
@on_a_bucket
def test_the_next_run_after_every_write(
    task: Task, whole: Undisturbed, pool: ProcessPoolExecutor, tally: Tally
) -> None:
    points = [point for point in whole.points if point.writes_results]
    check(try_all(pool, partial(under_another_name, task, whole), points), tally)


def test_some_writes(task: Task, whole: Undisturbed, pool: ProcessPoolExecutor) -> None:
    """A few points of the matrix: about the first mask, a part, and the manifest."""
    points = [point for point in whole.points if point.writes_results]
    first = next(i for i, point in enumerate(points) if "/masks/" in point.boundary)
    part = next(i for i, point in enumerate(points) if "/parts/" in point.boundary)
    last = next(i for i, point in enumerate(points) if point.boundary.endswith("/manifest.json"))
    chosen = [points[i] for i in (first, first + 1, part, last, last + 1)]
    repeated = try_all(pool, partial(again, task, whole), chosen)
    assert [trial for trial in repeated if not trial.good] == []
    followed = try_all(pool, partial(under_another_name, task, whole), chosen[1::2])
    assert [trial for trial in followed if not trial.good] == []


def test_a_chain_that_hangs_is_ended_with_all_its_processes(
    task: Task, pool: ProcessPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(killed_chain, "SECONDS", 0.01)
    pool.submit(int).result()  # its own processes are there
    before = {process.pid for process in multiprocessing.active_children()}
    with pytest.raises(TimeoutError):
        run(task)
    assert {process.pid for process in multiprocessing.active_children()} <= before
    assert committed(task.output.read()) == {}


@on_a_bucket
def test_a_run_is_repeated_byte_by_byte(
    task: Task, whole: Undisturbed, pool: ProcessPoolExecutor, tmp_path: Path
) -> None:
    """Steps in processes of their own or in one, in a bucket or in a folder: it is the same."""
    (tmp_path / "alone").mkdir()
    alone = replace(task, work=tmp_path / "alone", output=FolderPlace(tmp_path / "out"))
    end = pool.submit(run, alone).result()
    assert (end.status, end.views) == (0, whole.views) == (0, IMAGES - 1)
    assert alone.output.read() == whole.objects
    assert len(committed(whole.objects)) == 1
