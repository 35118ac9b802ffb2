"""Threads with a bounded number of results waiting."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future

import pytest

from clipseg_kfp.runtime.concurrency import ordered_map, prefetched


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


def test_the_first_exception_ends_it_and_cancels_what_has_not_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    source, ran, taken = Source(100), [], []
    waiting = 10  # results ahead of the one that fails
    calls: list[Future[int]] = []
    all_cancelled = threading.Event()
    cancel = Future.cancel

    def counted(future: Future[int]) -> bool:
        done = cancel(future)
        calls.append(future)
        if len(calls) == waiting:
            all_cancelled.set()
        return done

    def work(i: int) -> int:
        ran.append(i)
        if i == 2:
            raise ValueError("item 2")
        if i > 2:  # keeps the only worker busy meanwhile
            assert all_cancelled.wait(10)
        return i

    monkeypatch.setattr(Future, "cancel", counted)
    results = ordered_map(work, source, workers=1, ahead=waiting)
    with pytest.raises(ValueError) as caught:
        for result in results:
            taken.append(result)
    assert caught.value.args == ("item 2",)
    assert taken == [0, 1]
    assert source.drawn == 3 + waiting
    assert ran[:3] == [0, 1, 2]
    assert len(ran) <= 4, "one item may have been running; the others never did"
    assert list(results) == []


def test_an_exception_of_the_items_comes_through() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise InterruptedError

    with pytest.raises(InterruptedError):
        list(ordered_map(str, items(), workers=2))


def test_leaving_early_stops_the_work() -> None:
    source, ran = Source(1000), []
    before = threading.active_count()
    results = ordered_map(ran.append, source, workers=2, ahead=2)
    next(results)
    results.close()
    assert source.drawn <= 5
    assert len(ran) <= 5
    assert threading.active_count() == before


@pytest.mark.parametrize("ahead", [0, 1, 5])
@pytest.mark.parametrize("count", [0, 1, 2, 30])
def test_prefetched_items_keep_their_order(count: int, ahead: int) -> None:
    assert list(prefetched(Source(count), ahead)) == list(range(count))


def test_items_are_made_while_others_are_used() -> None:
    second_drawn = threading.Event()

    def items() -> Iterator[int]:
        yield 0
        second_drawn.set()
        yield 1

    source = prefetched(items())
    assert next(source) == 0
    assert second_drawn.wait(10), "the second item is drawn while the first is in use"
    assert list(source) == [1]


@pytest.mark.parametrize("ahead", [0, 1, 3])
def test_no_more_items_than_allowed_wait(ahead: int) -> None:
    source = Source(50)
    for used, _ in enumerate(prefetched(source, ahead), start=1):
        assert source.drawn <= used + ahead + 1
    assert source.drawn == 50


def test_items_are_drawn_one_by_one_in_a_thread_of_their_own() -> None:
    threads: list[int] = []

    def items() -> Iterator[int]:
        for i in range(20):
            threads.append(threading.get_ident())
            yield i

    assert len(list(prefetched(items(), 4))) == 20
    assert len(set(threads)) == 1
    assert threads[0] != threading.get_ident()


def test_what_drawing_raises_comes_in_its_place() -> None:
    def items() -> Iterator[int]:
        yield from range(3)
        raise KeyError("broken")

    taken = []
    with pytest.raises(KeyError) as caught:
        for item in prefetched(items(), 5):
            taken.append(item)
    assert caught.value.args == ("broken",)
    assert taken == [0, 1, 2]


def test_leaving_early_ends_the_thread() -> None:
    before = threading.active_count()
    source = prefetched(Source(1000), 2)
    next(source)
    source.close()
    assert threading.active_count() == before
