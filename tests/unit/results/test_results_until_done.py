"""Whether another run is needed."""

from __future__ import annotations

from codes import fails
from hypothesis import given
from hypothesis import strategies as st

from clipseg_kfp.results.until_done import Rest


def counts(done: int, left: int, skipped: int = 0, quarantined: int = 0) -> dict[str, int]:
    listed = done + skipped + quarantined
    return {"listed": listed, "done": done, "skipped": skipped, "quarantined": quarantined, "left": left}


def test_it_ends_where_nothing_is_left() -> None:
    rest = Rest()
    assert rest.after(counts(10, 15)) == 15
    assert rest.after(counts(0, 5, skipped=10, quarantined=10)) == 5, "bad images are dealt with, too"
    assert rest.after(counts(5, 0, skipped=10)) == 0
    assert Rest().after({"listed": 3, "done": 3, "skipped": 0, "quarantined": 0}) == 0, (
        "of an earlier version"
    )


def test_a_run_that_does_nothing_ends_it() -> None:
    with fails("no_progress"):
        Rest().after(counts(0, 5, skipped=10))


@given(images=st.integers(0, 300), room=st.integers(1, 50), late=st.lists(st.integers(0, 20), max_size=5))
def test_full_runs_end_when_all_had_their_turn(images: int, room: int, late: list[int]) -> None:
    rest, runs, total = Rest(full=True), 0, images
    while True:
        runs += 1
        done = min(room, total)
        left = rest.after(counts(done, 0, skipped=total - done))
        assert runs <= -(-images // room) or not images
        if not left:
            break
        total += late.pop() if late else 0
    assert runs == max(1, -(-images // room))
