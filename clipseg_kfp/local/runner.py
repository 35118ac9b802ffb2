"""Runs the real pipelines on this machine through kfp's own local runner: no cluster, no Docker."""

from __future__ import annotations

import builtins
import contextlib
import datetime as dt
import logging
import os
import secrets
import signal
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from clipseg_kfp.errors import ClipsegKfpError
from clipseg_kfp.local.monitor import LogWriter, Monitor, without_colors
from clipseg_kfp.naming import printable
from clipseg_kfp.options import over_own_defaults
from clipseg_kfp.pipelines.arguments import check_arguments
from clipseg_kfp.runtime import events
from clipseg_kfp.runtime.temporary import temporary_folder
from clipseg_kfp.runtime.workers import hide_process


class LocalRunError(ClipsegKfpError):
    """A local run that ended in a failed step; code, place and remedy are those of the step's error.

    Attributes:
        log: the log of the run.
        step: the step that failed; empty where that is not known, as for a process that was killed.
    """

    code = "step_ended"

    def __init__(
        self, message: str, remedy: str, log: Path, *, step: str = "", code: str = "", where: str = ""
    ) -> None:
        self.log = log
        self.step = step
        super().__init__(message, remedy, code=code, where=where)


@dataclass
class LocalRun:
    """A finished local run.

    Attributes:
        manifest: URI of the run's manifest.
        seconds: wall-clock seconds of each step, summed over its shards.
        log: everything that the runner and the steps wrote.
    """

    manifest: str
    seconds: dict[str, float]
    log: Path


def run_pipeline(
    pipeline: Callable[..., Any],
    parameters: dict[str, Any],
    log: Path,
    console: Console | None = None,
    work: Path | None = None,
) -> LocalRun:
    """Runs a pipeline of this suite.

    Args:
        pipeline: such as ``batch_segmentation``; its output is the manifest's URI.
        parameters: the pipeline's.
        log: file for the whole log.
        console: where progress is shown.
        work: folder for what the steps hand on; ``None`` takes the system's temporary folder. It is
            emptied, and what a killed run left there goes, too.

    Raises:
        LocalRunError: a step failed; message, remedy, code and place are those of the step's error.
    """
    from kfp import local

    log.parent.mkdir(parents=True, exist_ok=True)
    if work is not None:
        work.mkdir(parents=True, exist_ok=True)
    hide_process()  # the grandparent of the steps' workers, with the same credentials
    tempfile.gettempdir()  # looked up once in a process: not while TMPDIR names a folder that goes with the run
    console = _pinned(console)
    with (
        temporary_folder(work) as root,
        log.open("w", encoding="utf-8") as stream,
        Monitor(console) as monitor,
    ):
        (root / "tmp").mkdir()
        local.init(
            local.SubprocessRunner(use_venv=False),
            pipeline_root=str(root),
            workspace_root=str(root / "workspace"),  # or kfp makes one that it never removes
            raise_on_error=True,
        )
        # Secrets, limits and caching are for clusters; kfp warns of each.
        warnings.filterwarnings("ignore", message="Task .* have no effect in the current local runner")
        try:
            with (
                # kfp leaves a folder with the program of every task where temporary files go.
                _environment({"TMPDIR": str(root / "tmp"), events.VARIABLE: str(root / "events.jsonl")}),
                _ending_steps(),
                _same_print_and_log(),
                events.Listener(root / "events.jsonl", monitor.take),
                contextlib.redirect_stdout(LogWriter(stream)),
            ):
                task = pipeline(**parameters)
        except RuntimeError as error:
            console.print(
                printable(f"The log is in {log}"), markup=False, emoji=False, highlight=False, soft_wrap=True
            )
            raise _failed(monitor.error, error, log) from (None if monitor.error else error)
        return LocalRun(str(task.output), dict(monitor.seconds), log)


def _failed(event: events.Event | None, error: RuntimeError, log: Path) -> LocalRunError:
    """Makes the error of a failed run from the record that its step left, or from kfp's where it left none."""
    if event is None:
        remedy = f"Look at the end of {log}: a step that leaves no error of its own was killed, or ran out of memory."
        return LocalRunError(without_colors(str(error)), remedy, log)
    step = event["step"]
    return LocalRunError(
        f"{step}: {event['what']}", event["remedy"], log, step=step, code=event["code"], where=event["where"]
    )


@contextlib.contextmanager
def _same_print_and_log() -> Iterator[None]:
    """Puts ``print`` and the handlers of the root logger back.

    kfp replaces both in each of its threads, and two that end crosswise leave them so: what is logged later
    would go to a log that is closed.
    """
    root = logging.getLogger()
    before = builtins.print, root.level, list(root.handlers)
    try:
        yield
    finally:
        builtins.print = before[0]
        root.setLevel(before[1])
        root.handlers[:] = before[2]


def new_run_id() -> str:
    """Names a run after the time, with a few random digits behind it."""
    return f"{dt.datetime.now(dt.UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(2)}"


def run_batch(
    parameters: dict[str, Any], log: Path, console: Console | None = None, work: Path | None = None
) -> LocalRun:
    """Runs ``batch-segmentation``, or ``one-shot-segmentation`` where ``support`` is given.

    What can be seen to be wrong is said before anything starts.

    Args:
        parameters: the pipeline's.
        log: file for the whole log.
        console: where progress is shown.
        work: as for ``run_pipeline``.

    Raises:
        ParameterError: bad prompts or threshold, a URI of an unknown form, or one that is missing.
        LocalRunError: a step failed.
    """
    from clipseg_kfp.pipelines import batch_segmentation, one_shot_segmentation

    check_arguments(parameters)
    pipeline = one_shot_segmentation if parameters.get("support") else batch_segmentation
    return run_pipeline(pipeline, parameters, log, console, work)


def run_evaluation(
    parameters: dict[str, Any], log: Path, console: Console | None = None, work: Path | None = None
) -> LocalRun:
    """Runs ``prompt-evaluation``; arguments and errors as for ``run_batch``."""
    from clipseg_kfp.pipelines import prompt_evaluation

    declared = prompt_evaluation.component_spec.inputs["outputs"].default
    outputs = over_own_defaults(parameters.get("outputs", {}), "outputs", declared)
    parameters = {**parameters, "outputs": outputs}
    check_arguments(parameters)
    return run_pipeline(prompt_evaluation, parameters, log, console, work)


def _pinned(console: Console | None) -> Console:
    """Ties the console to today's standard output, which is taken over while kfp runs."""
    console = console or Console()
    console.file = console.file
    return console


@contextlib.contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _ending_steps() -> Iterator[None]:
    """Ends the steps' processes on an interrupt; kfp would leave them, and start those that wait.

    On a terminal Ctrl-C reaches them anyway; a signal to this process alone does not.
    """
    others, finished = _descendants(os.getpid()), threading.Event()  # a store, for one

    def end_all() -> None:
        number, deadline = signal.SIGTERM, time.monotonic() + 3
        while not finished.wait(0.05):
            if time.monotonic() > deadline:
                number = signal.SIGKILL
            for process in _descendants(os.getpid()) - others:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, number)

    def on_signal(number: int, frame: Any) -> None:
        threading.Thread(target=end_all, daemon=True).start()
        then = before[signal.Signals(number)]
        if callable(then):
            then(number, frame)
        else:
            raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        for number in before:
            signal.signal(number, on_signal)
        yield
    finally:
        finished.set()
        for number, handler in before.items():
            signal.signal(number, handler)


def _descendants(process: int) -> set[int]:
    """Processes below a process; none where the system does not tell (it is not Linux)."""
    found: set[int] = set()
    for path in Path("/proc").glob(f"{process}/task/*/children"):
        with contextlib.suppress(OSError):
            for child in map(int, path.read_text().split()):
                found |= {child} | _descendants(child)
    return found
