"""Work in threads with a bounded number of results waiting, in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar, cast

T = TypeVar("T")
R = TypeVar("R")

_END = object()


def prefetched(items: Iterable[T], ahead: int = 1) -> Iterator[T]:
    """Draws items in a thread of their own, so that making them and using them overlap.

    Args:
        items: drawn one by one, in order; what drawing raises is raised where the item would have come.
        ahead: items that may be waiting.
    """
    iterator = iter(items)
    with ThreadPoolExecutor(1) as pool:
        waiting: deque[Future[T | object]] = deque()
        try:
            while True:
                while len(waiting) <= ahead:
                    waiting.append(pool.submit(next, iterator, _END))
                item = waiting.popleft().result()
                if item is _END:
                    return
                yield cast(T, item)
        finally:
            for future in waiting:
                future.cancel()


def ordered_map(function: Callable[[T], R], items: Iterable[T], workers: int, ahead: int = 2) -> Iterator[R]:
    """Applies a function in threads and yields the results in the order of the items.

    Unlike ``Executor.map``, it draws only ``workers + ahead`` items at a time, so memory stays bounded
    however many there are; the first exception ends it and cancels what has not begun.

    Args:
        function: called in a thread.
        items: drawn as results are taken.
        workers: threads.
        ahead: results that may wait beside the running ones.
    """
    with ThreadPoolExecutor(workers) as pool:
        waiting: deque[Future[R]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) >= workers + ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
