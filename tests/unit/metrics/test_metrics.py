from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from clipseg_kfp.metrics import Confusion

SHAPES = st.tuples(st.integers(1, 12), st.integers(1, 12))
PAIR = SHAPES.flatmap(lambda shape: st.tuples(arrays(bool, shape), arrays(bool, shape)))


def compare(predicted: list[int], truth: list[int]) -> Confusion:
    found = Confusion()
    found.add(np.array([predicted], bool), np.array([truth], bool))
    return found


def test_by_hand() -> None:
    found = compare([1, 1, 1, 0, 0, 0], [1, 1, 0, 1, 0, 0])
    assert found == Confusion(tp=2, fp=1, fn=1, tn=2, images=1)
    assert found.iou == 2 / 4
    assert found.iou_background == 2 / 4
    assert found.precision == found.recall == 2 / 3


@pytest.mark.parametrize(
    ("predicted", "truth", "iou", "background", "precision", "recall"),
    [
        ([0, 0], [0, 0], 1, 1, 1, 1),  # nothing to find, nothing found
        ([1, 1], [1, 1], 1, 1, 1, 1),
        ([1, 1], [0, 0], 0, 0, 0, 1),
        ([0, 0], [1, 1], 0, 0, 1, 0),
        ([1, 0], [0, 1], 0, 0, 0, 0),
        ([1, 1], [1, 0], 0.5, 0, 0.5, 1),
    ],
)
def test_corners(
    predicted: list[int], truth: list[int], iou: float, background: float, precision: float, recall: float
) -> None:
    found = compare(predicted, truth)
    assert (found.iou, found.iou_background) == (iou, background)
    assert (found.precision, found.recall) == (precision, recall)


def test_sums_over_images_and_not_means() -> None:
    """As in the paper: a large image counts for more than a small one."""
    total = compare([1] * 9, [1] * 9) + compare([1], [0])
    assert total.images == 2
    assert total.iou == 0.9


@given(st.lists(PAIR, max_size=4))
def test_against_counting_pixel_by_pixel(pairs: list[tuple[NDArray[np.bool_], NDArray[np.bool_]]]) -> None:
    found = Confusion()
    counts = {(p, t): 0 for p in (False, True) for t in (False, True)}
    for predicted, truth in pairs:
        found.add(predicted, truth)
        for pixel in zip(predicted.ravel().tolist(), truth.ravel().tolist(), strict=True):
            counts[pixel] += 1
    expected = Confusion(
        counts[True, True], counts[True, False], counts[False, True], counts[False, False], len(pairs)
    )
    assert found == expected
    assert sum((compare_arrays(*pair) for pair in pairs), Confusion()) == expected
    for value in (found.iou, found.iou_background, found.precision, found.recall):
        assert 0 <= value <= 1


def compare_arrays(predicted: NDArray[np.bool_], truth: NDArray[np.bool_]) -> Confusion:
    found = Confusion()
    found.add(predicted, truth)
    return found


def test_sizes_must_agree() -> None:
    with pytest.raises(ValueError):
        Confusion().add(np.zeros((2, 3), bool), np.zeros((3, 2), bool))


def test_large_counts_do_not_overflow() -> None:
    total = Confusion()
    for _ in range(50):
        total += Confusion(tp=2**40, fp=2**40)
    assert total.iou == 0.5
