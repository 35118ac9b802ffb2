"""Work in threads with a bounded number of results waiting, in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


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
