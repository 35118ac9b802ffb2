"""What a run takes and how it is split."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipseg_kfp.dataset.listing import Source
from clipseg_kfp.steps import sharding
from clipseg_kfp.steps.sharding import MAX_SHARDS, SHARD_BYTES, Selection, Sizes, split

PHOTO = Sizes(view=3 * 352**2 + 8 * 352**2 // 2)


def source(number: int, size: int = 1) -> Source:
    return Source(f"s3://in/{number}", str(number), f"s3://in/{number}", "1", size)


@given(
    sizes=st.lists(st.integers(1, SHARD_BYTES * 2), max_size=60),
    shard_size=st.integers(1, 100),
    limit=st.integers(0, 60),
    turns=st.lists(st.integers(0, 3), min_size=60, max_size=60),
)
def test_every_image_is_in_a_shard_or_counted(
    sizes: list[int], shard_size: int, limit: int, turns: list[int]
) -> None:
    weights = Sizes(view=0, tile=4, most_views=10**9)  # of so many bytes as the file has, nearly
    object.__setattr__(weights, "view", 1)
    selection = Selection(60)
    for number, size in enumerate(sizes):
        selection.add(turns[number], source(number, size))
    selection.lower(limit)
    taken = selection.take(weights)
    assert selection.taken == len(taken)
    assert len(taken) + selection.left + selection.waiting == len(sizes)
    new = sum(not turn for turn in turns[: len(sizes)])
    assert selection.left == new - (selection.taken - selection.again)
    assert not selection.left or not selection.again, "those that no run has seen come first"
    order = [(turns[int(one.key)], int(one.key)) for one in taken]
    assert order == sorted(order)
    assert order == sorted((turns[i], i) for i in range(len(sizes)))[: len(taken)]
    shards = split([weights(one.size) for one in taken], shard_size)
    assert sum(shards) == len(taken)
    assert 1 <= len(shards) <= MAX_SHARDS
    assert shards == [0] or all(shards)
    begin = 0
    for count in shards:
        held = [weights(one.size) for one in taken[begin : begin + count]]
        assert len(held) <= 1 or sum(held) <= SHARD_BYTES
        begin += count
    if len(taken) < min(limit, len(sizes)):  # then another would not have fitted
        full = sharding._filled(
            [weights(sizes[i]) for _, i in sorted(zip(turns, range(len(sizes)), strict=False))], 60
        )
        assert len(full) > MAX_SHARDS or sum(full[:MAX_SHARDS]) == len(taken)


@pytest.mark.parametrize(
    ("images", "shard_size", "shards", "largest"),
    [(0, 100, 1, 0), (1, 100, 1, 1), (240, 100, 3, 80), (2_400, 100, 24, 100), (2_401, 100, 24, 101),
     (7_000, 100, 24, 292), (3_000, 1_000, 6, 500)],
)  # fmt: skip
def test_shards_grow_as_they_must_and_no_further(
    images: int, shard_size: int, shards: int, largest: int
) -> None:
    found = split([PHOTO(100_000)] * images, shard_size)
    assert (len(found), max(found)) == (shards, largest)


def test_what_a_run_takes_of_photographs() -> None:
    """100 images with 8 prompts were 100 MB; so about 500 fit into a shard, and 12,000 into a run."""
    assert 0.8e6 < PHOTO(100_000) < 1.1e6
    assert 11_000 < PHOTO.most_images < 14_000
    assert PHOTO(10**9) == PHOTO(0), "without tiles the size of the file does not count"


def test_tiles_are_estimated_by_the_size_of_the_file() -> None:
    tiled = Sizes(view=1_000_000, tile=384**2, most_views=1001)
    assert tiled(0) < 1.1e6
    assert 25e6 < tiled(1_000_000) < 32e6, "4 megapixels, 27 tiles and the whole image"
    assert tiled(10**12) < 1.01e9, "one with more is set aside"


def test_no_more_are_kept_than_a_run_takes() -> None:
    selection = Selection(3)
    for number in range(1_000):
        selection.add(number % 2, source(number))
        assert len(selection._kept) <= 3
    assert [one.key for one in selection.take(PHOTO)] == ["0", "2", "4"]
    assert (selection.left, selection.waiting) == (497, 500)
