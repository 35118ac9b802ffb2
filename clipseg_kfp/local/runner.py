"""Runs the real pipelines on this machine through kfp's own local runner: no cluster, no Docker."""

from __future__ import annotations

import builtins
import contextlib
import datetime as dt
import io
import json
import logging
import os
import re
import secrets
import signal
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from clipseg_kfp.errors import ClipsegKfpError
from clipseg_kfp.local.parameters import check_parameters
from clipseg_kfp.naming import printable
from clipseg_kfp.runtime.progress import EVENT_PREFIX, EVENT_VARIABLE
from clipseg_kfp.runtime.temporary import scratch_folder

_LINE = re.compile(r"^\s*\[(?P<step>[a-z_]+)\] (?P<text>.*)$")
_TOOK = re.compile(r"took (?P<seconds>[\d.]+) s$")


class LocalRunError(ClipsegKfpError):
    """A local run that ended in a failed step."""


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
        LocalRunError: a step failed; the message is the step's own.
    """
    from kfp import local

    log.parent.mkdir(parents=True, exist_ok=True)
    if work is not None:
        work.mkdir(parents=True, exist_ok=True)
    tempfile.gettempdir()  # looked up once in a process: not while TMPDIR names a folder that goes with the run
    with (
        scratch_folder(work) as root,
        log.open("w", encoding="utf-8") as stream,
        _Screen(stream, _pinned(console)) as screen,
        # kfp leaves a folder with the program of every task where temporary files go.
        _environment({"TMPDIR": str(root / "tmp"), **({EVENT_VARIABLE: "events"} if screen.live else {})}),
        _ending_steps(),
        _same_print_and_log(),
    ):
        (root / "tmp").mkdir()
        # Secrets, limits and caching are for clusters; kfp warns of each.
        warnings.filterwarnings("ignore", message="Task .* have no effect in the current local runner")
        local.init(
            local.SubprocessRunner(use_venv=False),
            pipeline_root=str(root),
            workspace_root=str(root / "workspace"),  # or kfp makes one that it never removes
            raise_on_error=True,
        )
        try:
            with contextlib.redirect_stdout(screen):
                task = pipeline(**parameters)
        except RuntimeError as error:
            if not screen.problems:
                raise LocalRunError(f"{_plain(str(error))}", f"The whole log is in {log}.") from error
            message, *remedy = screen.problems
            raise LocalRunError(
                message.removeprefix("error: "),
                f"{' '.join(line.strip().removeprefix('remedy: ') for line in remedy)} (Log: {log})".strip(),
            ) from None
        return LocalRun(str(task.output), dict(screen.seconds), log)


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
    """Runs ``batch-segmentation``, or ``one-shot-segmentation`` where ``support_uri`` is given.

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

    check_parameters(parameters)
    pipeline = one_shot_segmentation if "support_uri" in parameters else batch_segmentation
    return run_pipeline(pipeline, parameters, log, console, work)


def run_evaluation(
    parameters: dict[str, Any], log: Path, console: Console | None = None, work: Path | None = None
) -> LocalRun:
    """Runs ``prompt-evaluation``; arguments and errors as for ``run_batch``."""
    from clipseg_kfp.pipelines import prompt_evaluation

    check_parameters(parameters)
    return run_pipeline(prompt_evaluation, parameters, log, console, work)


def _pinned(console: Console | None) -> Console:
    """Ties the console to today's standard output, which is taken over while kfp runs."""
    console = console or Console()
    console.file = console.file
    return console


def _plain(text: str) -> str:
    return re.sub(r"\x1b\[\d+m", "", text)


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


@dataclass
class _Bar:
    task: TaskID
    start: float
    counts: dict[int, tuple[int, int]] = field(default_factory=dict)


class _Screen(io.TextIOBase):
    """Stands in for standard output while kfp runs: all to the log, what matters to people to the console.

    Two shards may run at once, each in a thread that writes whole lines.
    """

    def __init__(self, log: TextIO, console: Console) -> None:
        self.live = console.is_terminal
        self.seconds: dict[str, float] = {}
        self.problems: list[str] = []  # the first error, and what to do about it
        self._in_problem = False
        self._log, self._console, self._lock = log, console, threading.Lock()
        self._bars: dict[str, _Bar] = {}
        self._progress = Progress(
            TextColumn("{task.description:<18}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            console=console,
            disable=not self.live,
        )

    def __enter__(self) -> _Screen:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return False

    def write(self, text: str) -> int:
        with self._lock:
            for line in text.splitlines():
                self._line(line)
        return len(text)

    def _line(self, line: str) -> None:
        stripped = line.strip()
        if stripped.startswith(EVENT_PREFIX.strip()):
            self._event(json.loads(stripped[len(EVENT_PREFIX) - 1 :]))
            return
        if not stripped:
            return
        line = printable(_plain(line), keep="\t")  # a step's child or a library may have written anything
        stripped = line.strip()
        self._log.write(line + "\n")
        self._log.flush()
        first = stripped.startswith("error: ") and not self.problems
        self._in_problem = first or (self._in_problem and stripped.startswith("remedy: "))
        if self._in_problem:
            self.problems.append(stripped)
        elif match := _LINE.match(line):
            if took := _TOOK.match(match["text"]):
                seconds = self.seconds.get(match["step"], 0.0) + float(took["seconds"])
                self.seconds[match["step"]] = round(seconds, 1)
            else:
                self._console.print(
                    f"{match['step']:<18}", match["text"], markup=False, highlight=False, soft_wrap=True
                )

    def _event(self, event: dict[str, Any]) -> None:
        name = event["step"]
        if name not in self._bars:
            task = self._progress.add_task(name, total=event["total"], rate="")
            self._bars[name] = _Bar(task, time.monotonic())
        bar = self._bars[name]
        bar.counts[event["process"]] = (event["done"], event["total"])
        done, total = (sum(column) for column in zip(*bar.counts.values(), strict=True))
        rate = done / max(time.monotonic() - bar.start, 1e-9)
        self._progress.update(
            bar.task, completed=done, total=total, rate=f"{rate:.1f} {event['unit']}/s" if done else ""
        )
