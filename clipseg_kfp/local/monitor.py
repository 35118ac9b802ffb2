"""Shows a local run: the log of all that is printed, and on the console what its steps tell as data."""

from __future__ import annotations

import io
import re
import time
from dataclasses import dataclass, field
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from clipseg_kfp.naming import printable
from clipseg_kfp.runtime.events import Event


def without_colors(text: str) -> str:
    """The text without the codes that color a terminal."""
    return re.sub(r"\x1b\[\d+m", "", text)


class LogWriter(io.TextIOBase):
    """Stands in for standard output: writes lines to the log that no terminal obeys.

    Args:
        log: the log file. Threads may write to it at once; kfp prints whole lines.
    """

    def __init__(self, log: TextIO) -> None:
        self._log = log

    def writable(self) -> bool:
        """It is: ``TextIOBase`` says no."""
        return True

    def write(self, text: str) -> int:
        """Writes the lines that are not empty, at once; returns the number of characters of ``text``."""
        lines = [printable(without_colors(line), keep="\t") for line in text.splitlines() if line.strip()]
        self._log.write("".join(line + "\n" for line in lines))
        self._log.flush()
        return len(text)


@dataclass
class _Bar:
    task: TaskID
    start: float
    counts: dict[int, tuple[int, int]] = field(default_factory=dict)


class Monitor:
    """Takes the events of a run's steps, shows them, and keeps what matters after the run.

    Args:
        console: a terminal gets bars, anything else plain lines.

    Attributes:
        seconds: of each step, summed over its shards.
        error: the first event of kind ``error``; ``None`` as long as there is none.
    """

    def __init__(self, console: Console) -> None:
        self.seconds: dict[str, float] = {}
        self.error: Event | None = None
        self._console = console
        self._bars: dict[str, _Bar] = {}
        self._progress = Progress(
            TextColumn("{task.description:<18}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
        )

    def __enter__(self) -> Monitor:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def take(self, event: Event) -> None:
        """Takes one event of a step."""
        match event["kind"]:
            case "line" if not (event["progress"] and self._console.is_terminal):
                text = f"{event['step']:<18} {printable(event['text'])}"
                self._console.print(text, markup=False, emoji=False, highlight=False, soft_wrap=True)
            case "progress":
                self._draw(event)
            case "time":
                seconds = self.seconds.get(event["step"], 0.0) + event["seconds"]
                self.seconds[event["step"]] = round(seconds, 2)
            case "error":
                self.error = self.error or event

    def _draw(self, event: Event) -> None:
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
