"""Threads with a bounded number of results waiting."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from clipseg_kfp.concurrency import ordered_map


class Source:
    """Counts what was drawn from it."""

    def __init__(self, count: int) -> None:
        self.count, self.drawn = count, 0

    def __iter__(self) -> Iterator[int]:
        for i in range(self.count):
            self.drawn += 1
            yield i


def test_results_come_in_the_order_of_the_items() -> None:
    second_ran = threading.Event()

    def late_first(i: int) -> int:
        if i == 0:
            assert second_ran.wait(10), "the second item runs while the first one does"
        if i == 1:
            second_ran.set()
        return i * i

    assert list(ordered_map(late_first, range(50), workers=4)) == [i * i for i in range(50)]


@pytest.mark.parametrize("count", [0, 1, 3])
def test_few_items_are_no_exception(count: int) -> None:
    assert list(ordered_map(str, range(count), workers=8)) == [str(i) for i in range(count)]


@pytest.mark.parametrize(("workers", "ahead"), [(1, 0), (1, 2), (4, 0), (4, 2), (3, 5)])
def test_no_more_items_are_drawn_than_workers_and_waiting_results(workers: int, ahead: int) -> None:
    source = Source(100)
    results = ordered_map(lambda i: i, source, workers, ahead)
    assert source.drawn == 0, "nothing begins before the first result is asked for"
    for taken, result in enumerate(results, start=1):
        assert result == taken - 1
        assert source.drawn - (taken - 1) <= workers + ahead
    assert source.drawn == 100


def test_all_workers_run_at_once() -> None:
    together = threading.Barrier(4, timeout=10)
    assert len(list(ordered_map(lambda _i: together.wait(), range(4), workers=4, ahead=0))) == 4


def test_the_first_exception_ends_it_and_cancels_what_has_not_begun() -> None:
    source, ran = Source(100), []
    failed = threading.Event()

    def work(i: int) -> int:
        ran.append(i)
        if i == 2:
            failed.set()
            raise ValueError("item 2")
        if i == 3:  # keeps the only worker busy until the consumer has seen the failure
            assert seen.wait(10)
        return i

    seen = threading.Event()
    results = ordered_map(work, source, workers=1, ahead=10)
    taken: list[int] = []
    # The pool is left only when the running item has ended, so it is let go from a thread of its own.
    threading.Thread(target=lambda: (failed.wait(10), threading.Timer(0.05, seen.set).start())).start()
    with pytest.raises(ValueError, match="item 2"):
        taken.extend(results)
    assert taken == [] or taken == [0, 1]
    assert source.drawn <= 13
    assert len(ran) <= 5, "items that waited in the queue never ran"
    with pytest.raises(StopIteration):
        next(results)


def test_an_exception_of_the_items_comes_through() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise OSError("the listing failed")

    with pytest.raises(OSError, match="the listing failed"):
        list(ordered_map(str, items(), workers=2))


def test_leaving_early_stops_the_work() -> None:
    source, ran = Source(1000), []
    results = ordered_map(ran.append, source, workers=2, ahead=2)
    next(results)
    results.close()  # type: ignore[attr-defined]
    assert source.drawn <= 5
    assert len(ran) <= 5
    assert not [t for t in threading.enumerate() if t.name.startswith("ThreadPoolExecutor") and t.is_alive()]
