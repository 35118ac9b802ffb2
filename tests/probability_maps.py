"""Probability maps as tests read them back."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray


def read_probability(png: bytes) -> NDArray[np.float32]:
    """The map of a grayscale PNG of 8 or 16 bits, float32 (height, width) in 0 to 1."""
    levels = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED)
    assert levels is not None and levels.ndim == 2 and levels.dtype in (np.uint8, np.uint16)
    return np.asarray(levels.astype(np.float32) / np.float32(np.iinfo(levels.dtype).max))
