"""The chain of steps in processes of their own, which may be killed at any boundary of a write."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Any

import torch.nn.functional  # noqa: F401 - the library imports these late; the server that forks has them from the start
from boundaries import Boundaries
from places import Place
from transformers import CLIPSegForImageSegmentation, CLIPTokenizer  # noqa: F401

import clipseg_kfp.engine.torch_backend  # noqa: F401
from clipseg_kfp.engine import Engine
from clipseg_kfp.naming import digest
from clipseg_kfp.options import Inference, Limits, Outputs
from clipseg_kfp.options.groups import Format
from clipseg_kfp.steps import (
    encode_prompts,
    evaluate_masks,
    fetch_dataset,
    fetch_model,
    postprocess_masks,
    preprocess_images,
    publish_results,
    segment_images,
)
from clipseg_kfp.steps.artifacts import Listing
from clipseg_kfp.steps.running import running

PROMPTS = ["a circle", "red things"]
FORMATS: tuple[Format, ...] = ("yolo", "labelstudio", "csv")
EPOCH = "1700000000"  # of every run, so that two of them can be the same byte by byte
SECONDS = 120  # that one process may take: a few are usual, more is a hang


@dataclass(frozen=True)
class Task:
    """What one process does.

    Attributes:
        work: folder of what steps hand on; beside it lies a list of the steps that are done.
        model: checkpoint.
        source: URI of the images.
        output: where results go.
        run_id: of the run.
        kill_at: boundary to be killed at.
        steps: how many to do, at most; 0 for all that are left.
    """

    work: Path
    model: Path
    source: str
    output: Place
    run_id: str
    kill_at: str = ""
    steps: int = 0

    @property
    def record(self) -> Path:
        """The list of the steps that are done, in order."""
        return self.work.with_suffix(".done")

    @property
    def errors(self) -> Path:
        """What it writes to standard error; not beside ``work``, whose disk may be full."""
        return self.model.parent / f"{digest(str(self.work))}.err"

    def done(self) -> list[str]:
        """The steps that are done."""
        return self.record.read_text().split() if self.record.exists() else []


@dataclass(frozen=True)
class End:
    """How a process ended.

    Attributes:
        status: 0; 1 with an error of the suite; -9 where it was killed.
        error: what it wrote to standard error, where it failed.
        boundaries: that were met, in order.
        views: that went through the model.
    """

    status: int
    error: str
    boundaries: list[str]
    views: int


def run(task: Task) -> End:
    """Runs a task in a process of its own.

    The process is forked by multiprocessing's server, which has done nothing but import: this process
    may have some (pyarrow's, urllib3's), and a fork of it could wait for a lock that one of them held.

    Raises:
        TimeoutError: it did not end within ``SECONDS``; it was killed with all that it started.
    """
    notes = task.work.with_suffix(".notes")
    notes.unlink(missing_ok=True)
    process = serving().Process(target=_main, args=(task, notes))
    process.start()
    try:
        process.join(SECONDS)
        if process.exitcode is None:
            raise TimeoutError(
                f"{task.run_id} in {task.work}, killed at {task.kill_at!r}, hung after {task.done()}"
            )
    finally:  # also where the test's own time is up
        if process.exitcode is None:
            _kill(process)
    said = [json.loads(line) for line in notes.read_text("utf-8").splitlines()]
    return End(
        process.exitcode,
        task.errors.read_text("utf-8") if process.exitcode else "",
        [value for name, value in said if name == "boundary"],
        sum(value for name, value in said if name == "views"),
    )


def serving() -> ForkServerContext:
    """Where processes come from: a server that imports this module once, and does nothing else but fork."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["killed_chain"])
    return context


def _kill(process: ForkServerProcess) -> None:
    assert process.pid
    try:
        if os.getpgid(process.pid) == process.pid:  # not before it has a group of its own
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
    except ProcessLookupError:
        pass  # it has just ended
    process.join()


def _main(task: Task, notes: Path) -> None:
    os.setsid()  # a group of its own: killed with all the processes that it starts, as a pod is
    os.environ.update(task.output.environment, SOURCE_DATE_EPOCH=EPOCH)
    stream = notes.open("a", encoding="utf-8")

    def note(name: str, value: Any) -> None:
        stream.write(json.dumps([name, value]) + "\n")
        stream.flush()

    begin = Engine.begin

    def counted(engine: Engine, pixels: Any, embeddings: Any) -> Any:
        note("views", len(pixels))
        return begin(engine, pixels, embeddings)

    Engine.begin = counted
    roots = {"work": task.work, **task.output.roots}
    Boundaries(roots, task.output.remote, task.kill_at, lambda name: note("boundary", name)).start()
    with task.errors.open("w") as errors:
        os.dup2(errors.fileno(), 2)
    with Path(os.devnull).open("w") as nothing, redirect_stdout(nothing):
        _run_steps(task)


def _run_steps(task: Task) -> None:
    """Does what is not done yet, in the pipeline's order; a step that was cut short finds its leftovers."""
    before, finished = set(task.done()), 0
    for name, step in _steps(task):
        if name in before:
            continue
        with running(name):  # as the component does
            step()
        with task.record.open("a") as stream:
            stream.write(f"{name}\n")
        finished += 1
        if finished == task.steps:
            return


def _steps(task: Task) -> Iterator[tuple[str, Callable[[], Any]]]:
    def folder(name: str) -> Path:
        path = task.work / name
        path.mkdir(parents=True, exist_ok=True)
        return path

    model, prompts, dataset = folder("model"), folder("prompts"), folder("dataset")
    yield "fetch_model", lambda: fetch_model.run(model_uri=str(task.model), model=model)
    yield "encode_prompts", lambda: encode_prompts.run(model=model, encoded_prompts=prompts, prompts=PROMPTS)
    yield (
        "fetch_dataset",
        lambda: fetch_dataset.run(
            source_uri=task.source,
            encoded_prompts=prompts,
            dataset=dataset,
            output_uri=task.output.uri,
            limits=Limits(shard_size=2),
            outputs=Outputs(run_id=task.run_id),
        ),
    )
    masks: list[Path] = []
    for shard in Listing(dataset).summary().shards:
        views, maps, found = (folder(f"{shard}/{name}") for name in ("views", "maps", "masks"))
        masks.append(found)
        steps = _shard_steps(shard, dataset, prompts, model, (views, maps, found), task)
        for name, step in steps:
            yield f"{name}-{shard}", step
    evaluation = folder("evaluation")
    yield "evaluate_masks", lambda: evaluate_masks.run(masks=masks, evaluation=evaluation)
    yield (
        "publish_results",
        lambda: publish_results.run(
            masks=masks,
            dataset=dataset,
            encoded_prompts=prompts,
            evaluation=evaluation,
            report=folder("results") / "report.html",
            model_uri="file:///tiny",
            outputs=Outputs(run_id=task.run_id, formats=FORMATS),
            output_uri=task.output.uri,
        ),
    )


def _shard_steps(
    shard: str,
    dataset: Path,
    prompts: Path,
    model: Path,
    targets: tuple[Path, Path, Path],
    task: Task,
) -> Iterator[tuple[str, Callable[[], Any]]]:
    views, maps, found = targets
    yield (
        "preprocess_images",
        lambda: preprocess_images.run(dataset=dataset, shard=shard, encoded_prompts=prompts, views=views),
    )
    yield (
        "segment_images",
        lambda: segment_images.run(
            views=views,
            encoded_prompts=prompts,
            model=model,
            probabilities=maps,
            inference=Inference(backend="torch", device="cpu"),
        ),
    )
    yield (
        "postprocess_masks",
        lambda: postprocess_masks.run(
            views=views,
            probabilities=maps,
            encoded_prompts=prompts,
            masks=found,
            output_uri=task.output.uri,
            outputs=Outputs(run_id=task.run_id, probability_bits=8),
        ),
    )
