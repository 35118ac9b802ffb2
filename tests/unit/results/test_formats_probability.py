from __future__ import annotations

import io
from typing import Any, Literal

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from PIL import Image
from probability_maps import read_probability

from clipseg_kfp.results.formats.probability import encode_levels, to_levels

SHAPES = st.tuples(st.integers(1, 12), st.integers(1, 12))
FLOATS = st.floats(0, 1, width=32)


def encoded(probability: NDArray[np.float32], bits: Literal[8, 16] = 8) -> bytes:
    return encode_levels(to_levels(probability, bits))


@settings(deadline=None, max_examples=100)
@given(arrays(np.float32, SHAPES, elements=FLOATS), st.sampled_from([8, 16]))
def test_the_error_is_half_a_level_at_most(probability: NDArray[np.float32], bits: Literal[8, 16]) -> None:
    found = read_probability(encoded(probability, bits))
    assert found.dtype == np.float32
    assert found.shape == probability.shape
    error = np.abs(found.astype(np.float64) - probability).max()
    assert error <= 0.5 / (2**bits - 1) + 2**-24  # half a level, and float32's own rounding
    assert encoded(found, bits) == encoded(probability, bits)


@pytest.mark.parametrize(("bits", "mode", "top"), [(8, "L", 255), (16, "I;16", 65535)])
def test_other_readers_see_the_levels(bits: Any, mode: str, top: int) -> None:
    probability = np.random.default_rng(0).random((33, 47), dtype=np.float32)
    probability[0, :3] = 0, 1, 0.5
    levels = np.rint(probability.astype(np.float64) * top)
    png = encoded(probability, bits)
    with Image.open(io.BytesIO(png)) as image:
        assert (image.format, image.mode, image.size) == ("PNG", mode, (47, 33))
        assert (np.asarray(image) == levels).all()
    assert (cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED) == levels).all()


def test_levels_of_a_uint8_map_come_back() -> None:
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    png = encoded(levels / np.float32(255))
    assert (np.rint(read_probability(png) * 255) == levels).all()


@pytest.mark.parametrize("value", [1.5, -0.1, np.nan])
def test_what_is_no_probability_is_refused(value: float) -> None:
    with pytest.raises(ValueError):
        to_levels(np.array([[value]], np.float32), 8)


def test_levels_are_packed_small() -> None:
    """Maps are smooth: the differences of neighbors are what is written."""
    x, y = np.meshgrid(np.linspace(0, 3, 900), np.linspace(0, 4, 700))
    probability = (0.5 + 0.4 * np.sin(x) * np.cos(y)).astype(np.float32)
    assert len(encoded(probability, 8)) < 0.1 * probability.size
    assert len(encoded(probability, 16)) < 0.5 * 2 * probability.size


def test_more_rows_than_are_rounded_at_a_time() -> None:
    probability = np.random.default_rng(1).random((2_100, 1_000), dtype=np.float32)
    found = read_probability(encoded(probability, 16))
    assert np.abs(found - probability).max() < 1e-5
