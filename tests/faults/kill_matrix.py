"""Kills the chain at every boundary, runs it again, and tells what was lost or done twice."""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pyarrow.parquet as pq
from killed_chain import End, Task, run, serving
from places import Difference, Objects, committed, compare, done_twice

KEPT = {"fetch_model", "encode_prompts"}  # steps that Kubeflow caches: the next run takes their outputs


@dataclass(frozen=True)
class Point:
    """Where a run is killed.

    Attributes:
        step: name of the step.
        boundary: in it.
        work: the work folder as it was when the step began; the list of finished steps lies beside it.
        before: the output at that time.
    """

    step: str
    boundary: str
    work: Path
    before: Objects

    @property
    def writes_results(self) -> bool:
        """Whether it is a write of the output, and not one of the step's own folder."""
        return " work/" not in self.boundary


@dataclass(frozen=True)
class Undisturbed:
    """A run that nothing happened to.

    Attributes:
        points: all boundaries, in order.
        objects: the output at its end.
        views: that went through the model.
    """

    points: list[Point]
    objects: Objects
    views: int


@dataclass(frozen=True)
class Trial:
    """One kill and what came after.

    Attributes:
        point: name of step and boundary.
        killed: whether the process was killed there.
        problem: what is wrong at the end; empty where all is well.
        difference: between the output and that of the undisturbed run.
        masks_twice: masks that two committed runs have.
    """

    point: str
    killed: bool
    problem: str
    difference: Difference
    masks_twice: int = 0

    @property
    def good(self) -> bool:
        """Whether it was killed, and then all ended as it must."""
        return self.killed and self == Trial(self.point, True, "", Difference([], []))


@contextmanager
def processes(workers: int = 0) -> Iterator[ProcessPoolExecutor]:
    """Processes with everything imported, each of which has chains run and looks at what they left."""
    here = Path(__file__).parent
    wanted = {"PYTHONPATH": str(here), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        with ProcessPoolExecutor(workers or os.cpu_count(), serving()) as pool:
            yield pool
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def undisturbed(task: Task) -> Undisturbed:
    """Runs the chain a step at a time, each in a process of its own, and keeps what lies between them."""
    points: list[Point] = []
    views = 0
    while True:
        done = task.done()
        if "publish_results" in done:
            return Undisturbed(points, task.output.read(), views)
        start = replace(task, work=task.work.with_name(f"before-{len(done)}"))
        _copy_work(task, start)
        before = task.output.read()
        end = run(replace(task, steps=1))
        assert end.status == 0, end
        views += end.views
        (step,) = task.done()[len(done) :]
        points += [Point(step, boundary, start.work, before) for boundary in end.boundaries]


def again(task: Task, whole: Undisturbed, number: int, point: Point) -> Trial:
    """Kills a run, and repeats the step and all behind it where it left them."""
    task = _prepared(task, f"again-{number}", point)
    end = run(replace(task, kill_at=point.boundary))
    problem = _seen_by_a_reader(task.output.read(), whole)
    end_again = run(task)
    found = task.output.read()
    problem = problem or _seen_by_a_reader(found, whole) or end_again.error
    return _trial(task, point, end, problem, compare(whole.objects, found), done_twice(found))


def under_another_name(task: Task, whole: Undisturbed, number: int, point: Point) -> Trial:
    """Kills a run, and starts the next one, as a scheduler does: it shares nothing but the output."""
    task = _prepared(task, f"other-{number}", point)
    end = run(replace(task, kill_at=point.boundary))
    killed = task.output.read()
    problem = _seen_by_a_reader(killed, whole)
    there = bool(committed(killed))
    following = replace(task, run_id="following", work=task.work.with_name(f"{task.work.name}-next"))
    following.work.mkdir()
    for name in ("model", "prompts"):
        shutil.copytree(Path(point.work.parent, "before-2", name), following.work / name)
    following.record.write_text("\n".join(KEPT) + "\n")
    end_next = run(following)
    found = task.output.read()
    problem = problem or end_next.error or _seen_by_a_reader(found, whole)
    # What is in whole parts is taken over.
    expected = 0 if there else whole.views - _images_in_parts(killed)
    if end_next.views != expected:
        problem = problem or f"{end_next.views} views went through the model, not {expected}"
    done = sum(manifest["counts"]["done"] for manifest in committed(found).values())
    if done != whole.views:
        problem = problem or f"{done} of {whole.views} images are done"
    # The files of both runs, and the pointer to the last one, are not those of the undisturbed run; nor are the parts,
    # where other shards were made of what was left to do.
    runs = ("/runs/", "/latest.json", "/parts/")
    shared = [
        {key: data for key, data in objects.items() if not any(part in key for part in runs)}
        for objects in (whole.objects, found)
    ]
    difference = compare(*shared)
    shutil.rmtree(following.work)
    return _trial(task, point, end, problem, difference, done_twice(found))


def _images_in_parts(objects: Objects) -> int:
    """How many images whole parts have."""
    names = [key.removesuffix(".parquet") for key in objects if "/parts/" in key and ".images." not in key]
    tables = {key.partition(".images.")[0]: data for key, data in objects.items() if ".images." in key}
    return sum(pq.read_metadata(io.BytesIO(tables[name])).num_rows for name in names)


def try_all(pool: ProcessPoolExecutor, trial: partial[Trial], points: Sequence[Point]) -> list[Trial]:
    """Tries all points, several at once."""
    return list(pool.map(trial, range(len(points)), points))


def _prepared(task: Task, name: str, point: Point) -> Task:
    """A task that begins where the point's step begins."""
    task = replace(task, work=task.work.with_name(name), output=task.output.beside(f"out-{name}"))
    _copy_work(replace(task, work=point.work), task)
    task.output.fill(point.before)
    return task


def _copy_work(task: Task, target: Task) -> None:
    shutil.copytree(task.work, target.work)
    if task.record.exists():
        shutil.copyfile(task.record, target.record)


def _trial(task: Task, point: Point, end: End, problem: str, difference: Difference, twice: int) -> Trial:
    shutil.rmtree(task.work)
    task.output.clear()
    return Trial(f"{point.step}: {point.boundary}", end.status == -9, problem, difference, twice)


def _seen_by_a_reader(objects: Objects, whole: Undisturbed) -> str:
    """What is wrong for someone who follows manifests; empty where all is well."""
    try:
        manifests = committed(objects)
    except AssertionError as error:
        return str(error)
    quarantined = {manifest["counts"]["quarantined"] for manifest in committed(whole.objects).values()}
    for manifest in manifests.values():
        if {manifest["counts"]["quarantined"]} != quarantined:
            return f"the run {manifest['run']} has {manifest['counts']}"
    return ""
