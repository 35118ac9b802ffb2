"""The run lengths of Label Studio's brush masks.

Label Studio packs masks with rle-pack (https://github.com/thi-ng/umbrella/tree/develop/packages/rle-pack): a
stream of bits, the highest of a byte first, over the values of an RGBA picture, row by row.

    32 bits  number of values: 4 x width x height
     5 bits  bits of a value, less one
     4 x 4   the four sizes of a run's length, in bits, less one
    then, for every run:
     1 bit   1: one value, repeated
     2 bits  which of the four sizes
     s bits  the run's length, less one
     8 bits  the value
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from clipseg_kfp.masks.cleanup import Instance
from clipseg_kfp.masks.raster import Mask
from clipseg_kfp.results.formats.rows import run_edges

_CHANNELS = 4
_WORD = 8
_SIZES = np.array([3, 4, 8, 16])  # what Label Studio's own converter takes
_LONGEST = (1 << 16) // _CHANNELS  # pixels of one run
_HEADER_BITS = 32 + 5 + 4 * 4


def encode_brush(mask: Mask) -> list[int]:
    """Packs a mask as Label Studio's converter does: foreground is 255 in all four channels.

    The bytes are the converter's, except for masks with more than 16,384 equal pixels in succession: here the rest
    of a split run takes a shorter size.

    Args:
        mask: bool (height, width), of fewer than 2^30 pixels.

    Returns:
        Bytes as numbers, ready for JSON.

    Raises:
        ValueError: the mask is too large for the format, or has no pixel.
    """
    _check(mask.size)
    flat = mask.ravel()
    return _packed(np.append(np.flatnonzero(flat[1:] != flat[:-1]) + 1, flat.size), bool(flat[0]))


def encode_region(region: Instance, width: int, height: int) -> list[int]:
    """``encode_brush`` of one region, without a mask of the whole image."""
    _check(width * height)
    x, y, *_ = region.bbox
    changes = np.append(run_edges(region.mask, x, y, width), width * height)
    first = changes[0] == 0  # no background before the first pixel
    last = changes[-2] == changes[-1]
    return _packed(changes[int(first) : -1 if last else None], bool(first))


def _check(size: int) -> None:
    if not 0 < size < 1 << 30:
        raise ValueError(f"the format holds masks of 1 to 2^30 - 1 pixels, not of {size:,}")


def _packed(ends: NDArray[np.int64], foreground: bool) -> list[int]:
    """The bytes of runs that end before these pixels; the first is of the foreground or not."""
    lengths, values = _runs(ends, foreground)
    header = int(ends[-1]) * _CHANNELS
    for width, value in ((5, _WORD - 1), *((4, int(size) - 1) for size in _SIZES)):
        header = header << width | value
    shift = -_HEADER_BITS % 8
    head = np.unpackbits(np.frombuffer((header << shift).to_bytes((_HEADER_BITS + shift) // 8), np.uint8))
    bits = np.concatenate([head[:_HEADER_BITS], _pack(lengths * _CHANNELS, values)])
    # Like the converter's, the stream ends with a whole byte of zeros where nothing is left to fill.
    packed: list[int] = np.packbits(np.append(bits, np.zeros(8 - len(bits) % 8, np.uint8))).tolist()
    return packed


def _runs(ends: NDArray[np.int64], foreground: bool) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Lengths in pixels, none over ``_LONGEST``, and whether they are foreground."""
    lengths = np.diff(ends, prepend=0)
    values = (np.arange(len(ends)) + foreground) % 2
    pieces = -(-lengths // _LONGEST)
    if pieces.max() > 1:
        last = np.cumsum(pieces) - 1
        rest = lengths - (pieces - 1) * _LONGEST
        lengths, values = np.full(int(pieces.sum()), _LONGEST), np.repeat(values, pieces)
        lengths[last] = rest
    return lengths, values


def _pack(lengths: NDArray[np.int64], values: NDArray[np.int64]) -> NDArray[np.uint8]:
    """The runs as bits, one per byte."""
    kind = np.searchsorted(1 << _SIZES, lengths)
    size = _SIZES[kind]
    code = ((4 | kind) << size | lengths - 1) << _WORD | values * 255
    used = 3 + size + _WORD
    aligned = (code << 32 - used).astype(">u4")
    bits = np.unpackbits(aligned.view(np.uint8).reshape(-1, 4), axis=1)
    return np.asarray(bits[np.arange(32) < used[:, None]])
