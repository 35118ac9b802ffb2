"""Side-by-side timing: what is compared runs in turns, and only ratios inside a turn count.

A machine's speed drifts: other work, heat, clocks. Timed in turns (A B A B ...), all contestants meet the
same drift, and the median over rounds forgets the odd one. This module knows nothing of what it times.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Mapping
from statistics import median
from typing import TypeVar

Name = TypeVar("Name", bound=Hashable)


def alternate(
    calls: Mapping[Name, Callable[[], object]], rounds: int, *, warm: bool = True
) -> dict[Name, list[float]]:
    """Calls everything once a round, in the same order.

    Args:
        calls: what to time, by name.
        rounds: how often.
        warm: one round more beforehand that does not count: first calls allocate and compile.

    Returns:
        Wall seconds of each call, in the order of rounds.
    """
    if warm:
        for call in calls.values():
            call()
    times: dict[Name, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - start)
    return times


def ratio(slower: list[float], faster: list[float]) -> float:
    """Median over rounds of the quotient of two contestants' times in the same round."""
    return median(a / b for a, b in zip(slower, faster, strict=True))


def summed(*series: list[float]) -> list[float]:
    """Adds the times of parts, round by round."""
    return [sum(parts) for parts in zip(*series, strict=True)]
