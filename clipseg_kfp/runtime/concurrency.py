"""Work in threads, with results in order and a limit on how many wait."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from itertools import count
from typing import TypeVar, cast

T = TypeVar("T")
R = TypeVar("R")


def prefetched(items: Iterable[T], ahead: int = 1) -> Generator[T, None, None]:
    """Draws items in another thread, so that making them and using them overlap.

    Args:
        items: drawn one by one, in order; an exception of theirs is raised in the item's place.
        ahead: items that may wait.
    """
    iterator, end = iter(items), object()
    with closing(ordered_map(lambda _: next(iterator, end), count(), 1, ahead)) as results:
        for item in results:
            if item is end:
                return
            yield cast(T, item)


def ordered_map(
    function: Callable[[T], R], items: Iterable[T], workers: int, ahead: int = 2
) -> Generator[R, None, None]:
    """Applies a function in threads and yields the results in the order of the items.

    Unlike ``Executor.map``, it draws only ``workers + ahead`` items at a time, so memory stays bounded. The first
    exception ends it and cancels what has not begun.

    Args:
        function: called in a thread.
        items: drawn as results are taken.
        workers: threads.
        ahead: results that may wait, beside those in work.
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
