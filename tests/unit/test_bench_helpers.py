"""The pure functions of the benchmark: what is counted, and how times become ratios."""

from __future__ import annotations

import pytest
from bench.roofline import encoder_flops, shape_flops
from bench.timing import alternate, ratio, summed

from clipseg_kfp.engine.dimensions import Dimensions

FULL_SIZE = Dimensions(
    image_size=352, tokens=485, hidden=768, intermediate=3072, heads=12, reduced=64,
    decoder_intermediate=2048, decoder_heads=4, activations=3, patch=16,
)  # fmt: skip


@pytest.mark.parametrize(("blocks", "expected"), [(10, 76.5e9), (12, 91.6e9)])
def test_encoder_flops_of_the_full_size_model(blocks: int, expected: float) -> None:
    assert encoder_flops(FULL_SIZE, blocks) == pytest.approx(expected, rel=1e-3)


def test_flops_of_a_multiplication() -> None:
    assert shape_flops((4096, 4096, 4096)) == pytest.approx(137.4e9, rel=1e-3)


def test_contestants_take_turns_after_a_warm_round() -> None:
    order: list[str] = []
    times = alternate({name: lambda name=name: order.append(name) for name in "ab"}, rounds=3)
    assert order == list("ab" * 4)
    assert {name: len(series) for name, series in times.items()} == {"a": 3, "b": 3}
    assert all(seconds >= 0 for series in times.values() for seconds in series)


def test_ratio_cancels_what_slows_a_whole_round() -> None:
    fast = [1.0, 1.0, 1.0, 1.0, 1.0]
    drift = [1.0, 3.0, 0.5, 7.0, 2.0]
    slow = [4.0 * factor for factor in drift]
    assert ratio(slow, [a * b for a, b in zip(fast, drift, strict=True)]) == pytest.approx(4.0)


def test_ratio_forgets_one_odd_round() -> None:
    assert ratio([2.0, 2.0, 2.0], [1.0, 1.0, 0.01]) == pytest.approx(2.0)


def test_parts_are_added_round_by_round() -> None:
    assert summed([1.0, 2.0], [10.0, 20.0], [100.0, 200.0]) == [111.0, 222.0]
    with pytest.raises(ValueError, match="shorter"):
        summed([1.0, 2.0], [1.0])
