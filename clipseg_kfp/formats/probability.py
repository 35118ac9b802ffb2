"""Probability maps as grayscale PNGs of 8 or 16 bits."""

from __future__ import annotations

from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

_BAND = 1 << 20  # pixels that are rounded at a time


def encode_probability(probability: NDArray[np.float32], *, bits: Literal[8, 16] = 8) -> bytes:
    """Writes a map as a grayscale PNG: ``round(255 p)``, or ``round(65535 p)``.

    Args:
        probability: float32 (height, width) in 0 to 1.
        bits: 8 is off by 1/510 at most, 16 by 1/131,070 (0.00001).

    Returns:
        The file's bytes.

    Raises:
        ValueError: the map is empty or not two-dimensional, or has values that are no probabilities.
    """
    if probability.ndim != 2 or not probability.size:
        raise ValueError(f"a probability map has height and width, not the shape {probability.shape}")
    if not (probability.min() >= 0 and probability.max() <= 1):  # false for NaN, too
        raise ValueError("probabilities must be in 0 to 1")
    top = np.float64((1 << bits) - 1)  # float32 products would round some values the other way
    levels = np.empty(probability.shape, np.uint8 if bits == 8 else np.uint16)
    rows = max(1, _BAND // probability.shape[1])
    for start in range(0, len(levels), rows):
        levels[start : start + rows] = np.rint(probability[start : start + rows] * top)
    done, encoded = cv2.imencode(".png", levels, [cv2.IMWRITE_PNG_COMPRESSION, 3])
    if not done:
        raise ValueError(f"no PNG of {levels.dtype} {levels.shape}")
    return bytes(encoded)


def decode_probability(png: bytes) -> NDArray[np.float32]:
    """Reads a map of ``encode_probability``; the number of bits is the file's.

    Returns:
        float32 (height, width) in 0 to 1.

    Raises:
        ValueError: the bytes are no grayscale PNG.
    """
    levels = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED) if png else None
    if levels is None or levels.ndim != 2 or levels.dtype not in (np.uint8, np.uint16):
        raise ValueError("the bytes are no grayscale PNG of 8 or 16 bits")
    top = 255 if levels.dtype == np.uint8 else 65535
    return np.asarray(levels.astype(np.float32) / np.float32(top), dtype=np.float32)
