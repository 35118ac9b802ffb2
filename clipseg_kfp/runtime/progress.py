"""Progress of long work: a bar on a terminal, plain lines with rate and time left in a pod's log.

A step of a local run also tells its parent, which draws the bars (``clipseg_kfp.runtime.events``).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from clipseg_kfp.naming import printable, shown
from clipseg_kfp.runtime.events import tell

T = TypeVar("T")

LINE_SECONDS = 5.0  # plain lines come no faster than this
EVENT_SECONDS = 0.2


def say(step: str, text: str) -> None:
    """Prints one plain line of a step's log at once; characters that are not printable are spelled out."""
    text = shown(text)
    _print(step, text)
    tell("line", step=step, text=text, progress=False)


def _print(step: str, text: str) -> None:
    print(f"[{step}] {printable(text)}", flush=True)


def track(step: str, items: Iterable[T], total: int, unit: str = "images") -> Iterator[T]:
    """Passes items through and reports progress.

    Args:
        step: what is running.
        items: the work.
        total: how many there are.
        unit: what is counted.
    """
    if sys.stdout.isatty():
        yield from _bar(step, items, total, unit)
    else:
        yield from _lines(step, _reported(step, items, total, unit), total, unit)


def _bar(step: str, items: Iterable[T], total: int, unit: str) -> Iterator[T]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console()) as progress:
        task = progress.add_task(step, total=total, rate="")
        start = time.monotonic()
        for done, item in enumerate(items, start=1):
            yield item
            rate = done / max(time.monotonic() - start, 1e-9)
            progress.update(task, advance=1, rate=f"{rate:.1f} {unit}/s")


def _reported(step: str, items: Iterable[T], total: int, unit: str) -> Iterator[T]:
    """Tells the parent how far the work is, a few times per second."""

    def report(done: int) -> None:
        tell("progress", step=step, done=done, total=total, unit=unit)

    report(0)
    done, reported = 0, 0.0
    for item in items:
        yield item
        done += 1
        if time.monotonic() - reported >= EVENT_SECONDS:
            reported = time.monotonic()
            report(done)
    report(done)


def _lines(step: str, items: Iterable[T], total: int, unit: str) -> Iterator[T]:
    def line(text: str) -> None:
        _print(step, text)
        tell("line", step=step, text=text, progress=True)  # a parent that draws bars leaves it out

    start = last = time.monotonic()
    done = 0
    for done, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if now - last >= LINE_SECONDS and done < total:
            last = now
            rate = done / (now - start)
            left = (total - done) / rate
            line(f"{done:,}/{total:,} {unit}, {rate:.1f} {unit}/s, {_duration(left)} left")
    if done:
        seconds = max(time.monotonic() - start, 1e-9)
        line(f"{done:,}/{total:,} {unit} in {_duration(seconds)} ({done / seconds:.1f} {unit}/s)")


def _duration(seconds: float) -> str:
    if round(seconds) < 60:
        return f"{seconds:.0f} s" if round(seconds, 1) >= 10 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
