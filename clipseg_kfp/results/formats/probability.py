"""Probability maps as grayscale PNGs of 8 or 16 bits."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Literal

import numpy as np
from numpy.typing import NDArray

_BAND = 1 << 20  # pixels at a time
Levels = NDArray[np.uint8] | NDArray[np.uint16]


def to_levels(probability: NDArray[np.float32], bits: Literal[8, 16]) -> Levels:
    """Rounds probabilities to levels: ``round(255 p)`` as uint8, or ``round(65535 p)`` as uint16.

    Args:
        probability: float32 (height, width) in 0 to 1.
        bits: 8 is off by 1/510 at most, 16 by 1/131,070.

    Raises:
        ValueError: values outside 0 to 1.
    """
    if not (probability.min() >= 0 and probability.max() <= 1):  # false for NaN, too
        raise ValueError("probabilities must be in 0 to 1")
    top = np.float64((1 << bits) - 1)  # float32 products would round some values the other way
    levels = np.empty(probability.shape, np.uint8 if bits == 8 else np.uint16)
    rows = max(1, _BAND // probability.shape[1])
    for start in range(0, len(levels), rows):
        levels[start : start + rows] = np.rint(probability[start : start + rows] * top)
    return levels


def encode_levels(levels: Levels) -> bytes:
    """Writes levels, uint8 or uint16 (height, width), as a grayscale PNG.

    Each pixel is written as its difference from the left one, which is small in maps; a band of rows at a time, to
    save memory. OpenCV's writer takes three times as long, and twice the file's size in memory.
    """
    height, width = levels.shape
    size = levels.itemsize
    packer = zlib.compressobj(level=1, memLevel=9)
    header = struct.pack(">2I5B", width, height, 8 * size, 0, 0, 0, 0)
    file = io.BytesIO(b"\x89PNG\r\n\x1a\n")  # hands out its bytes without a copy
    file.seek(0, io.SEEK_END)
    _add_chunk(file, b"IHDR", header)
    rows = max(1, _BAND // width)
    for start in range(0, height, rows):
        band = levels[start : start + rows]
        values = np.ascontiguousarray(band, band.dtype.newbyteorder(">")).view(np.uint8)
        lines = np.empty((len(band), 1 + size * width), np.uint8)
        lines[:, 0] = 1  # the filter "Sub"
        lines[:, 1:] = values
        lines[:, 1 + size :] -= values[:, :-size]
        if packed := packer.compress(lines.data):
            _add_chunk(file, b"IDAT", packed)
    _add_chunk(file, b"IDAT", packer.flush())
    _add_chunk(file, b"IEND", b"")
    return file.getvalue()


def _add_chunk(file: io.BytesIO, kind: bytes, data: bytes) -> None:
    file.write(struct.pack(">I", len(data)) + kind)
    file.write(data)
    file.write(struct.pack(">I", zlib.crc32(data, zlib.crc32(kind))))
