"""Polygons and run lengths of annotation files: checked and bounded before anything is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from clipseg_kfp.masks.raster import Mask

MAX_PIXELS = 50_000_000  # of a picture whose size nobody has checked
MAX_NUMBERS = 1_000_000  # of one segmentation
MAX_TEXT = 2_000_000  # characters of packed run lengths
MAX_SIDE = 1 << 31
MARGIN = 1.0  # of the picture's size: how far outside a polygon may reach; what lies outside is clipped
MAX_OUTLINE = 1_000_000  # pixels along one polygon; drawing takes about 120 bytes of each
MAX_OUTLINES = 20_000_000  # of all polygons of a mask
_AT_ONCE = 1000  # polygons that are drawn together
_FORMS = (
    "It takes polygons [[x1, y1, x2, y2, x3, y3, …], …], or run lengths {size: [height, width], counts: …}"
)


class ShapeError(ValueError):
    """A segmentation that cannot be used.

    Attributes:
        code: ``truth_shape_malformed``: another form, or numbers that are none. ``truth_shape_outside``: it reaches
            far out of the picture. ``truth_shape_too_large``: drawing it would take too much memory or time.
            ``truth_shape_empty``: it covers no pixel. ``truth_too_large``: its picture has too many pixels.
        index: of the shape that was to be drawn, where it is one of several.
    """

    def __init__(self, message: str, code: str = "truth_shape_malformed", index: int | None = None) -> None:
        self.code, self.index = code, index
        super().__init__(message)


@dataclass(frozen=True)
class Polygons:
    """The union of some polygons.

    Attributes:
        rings: each float64 (points, 2), x and y in pixels, all finite; at least three points.
    """

    rings: tuple[NDArray[np.float64], ...]


@dataclass(frozen=True)
class Runs:
    """Run lengths of a picture, down its columns, background first.

    Attributes:
        height: of the picture in pixels.
        width: of the picture in pixels.
        counts: int64, not negative; their sum is the number of pixels.
    """

    height: int
    width: int
    counts: NDArray[np.int64]


def parse(value: Any) -> Polygons | Runs:
    """Checks a segmentation of COCO's.

    Args:
        value: a list of flat polygons ``[x1, y1, x2, y2, …]``, or run lengths with ``counts`` (a list, or text) and
            ``size``; as JSON gives them.

    Raises:
        ShapeError: any other form or number.
    """
    if isinstance(value, dict):
        return _runs(value)
    if not isinstance(value, list) or not value or not all(isinstance(ring, list) for ring in value):
        what = f"{len(value)} values that are no polygons" if isinstance(value, list) else _kind(value)
        raise ShapeError(f"a segmentation is {what}. {_FORMS}")
    if sum(map(len, value)) > MAX_NUMBERS:
        raise ShapeError(f"a segmentation has more than {MAX_NUMBERS:,} numbers", "truth_shape_too_large")
    return Polygons(tuple(map(_ring, value)))


def size_of(value: Any, max_pixels: float = MAX_PIXELS) -> tuple[int, int]:
    """Checks a height and a width.

    Raises:
        ShapeError: not two whole, positive numbers, or of too many pixels.
    """
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) != 2:
        raise ShapeError(f"a size is {_kind(value)}, and not [height, width]")
    height, width = (_whole(side) for side in value)
    if not (0 < height < MAX_SIDE and 0 < width < MAX_SIDE):
        raise ShapeError(f"a size is {_short(value[0])} x {_short(value[1])}")
    if height * width > max_pixels:
        raise ShapeError(
            f"{width} x {height} pixels are more than the limit of {max_pixels:,.0f}", "truth_too_large"
        )
    return height, width


def draw(shapes: Sequence[Any], height: int, width: int, max_pixels: float = MAX_PIXELS) -> Mask:
    """Draws the union of segmentations.

    Polygons are clipped to the picture.

    Args:
        shapes: what ``parse`` takes.
        height: in pixels.
        width: in pixels.
        max_pixels: of the picture.

    Returns:
        bool (height, width).

    Raises:
        ShapeError: a shape of another kind or size, or one that covers nothing.
    """
    height, width = size_of((height, width), max_pixels)
    canvas = np.zeros((height, width), bool)
    rings: list[NDArray[np.float64]] = []
    explicit, outlines = False, 0.0
    for index, value in enumerate(shapes):
        try:
            shape = parse(value)
            if isinstance(shape, Runs):
                if (shape.height, shape.width) != (height, width):
                    raise ShapeError(
                        f"run lengths for {shape.width} x {shape.height} pixels in a picture of {width} x {height}"
                    )
                explicit = True
                canvas |= _filled(shape)
                continue
            outlines += sum(_outline(ring, height, width) for ring in shape.rings)
            if outlines > MAX_OUTLINES:
                raise ShapeError(
                    f"the polygons are longer than {MAX_OUTLINES:,} pixels", "truth_shape_too_large"
                )
        except ShapeError as error:
            error.index = index
            raise
        rings.extend(shape.rings)
        if len(rings) >= _AT_ONCE:
            canvas |= _inside(rings, height, width)
            rings = []
    if rings:
        canvas |= _inside(rings, height, width)
    if shapes and not explicit and not canvas.any():
        raise ShapeError("the polygons cover no pixel of the picture", "truth_shape_empty", 0)
    return canvas


def _ring(values: list[Any]) -> NDArray[np.float64]:
    if not set(map(type, values)) <= {int, float}:
        raise ShapeError(f"a polygon has values that are no numbers. {_FORMS}")
    if len(values) < 6 or len(values) % 2:
        raise ShapeError(f"a polygon has {len(values)} numbers: it takes x and y of at least three points")
    numbers = _floats(values)
    if not np.isfinite(numbers).all():
        raise ShapeError("a polygon has a coordinate that is not finite")
    return numbers.reshape(-1, 2)


def _runs(value: dict[str, Any]) -> Runs:
    # The size is that of a picture that is checked before anything is drawn: here, only the numbers count.
    height, width = size_of(value.get("size"), MAX_SIDE**2)
    counts = value.get("counts")
    if isinstance(counts, str):
        runs = _unpack(counts)
    elif isinstance(counts, list):
        if len(counts) > MAX_NUMBERS:
            raise ShapeError(f"there are more than {MAX_NUMBERS:,} run lengths", "truth_shape_too_large")
        if not set(map(type, counts)) <= {int, float}:
            raise ShapeError("a run length is no number")
        numbers = _floats(counts)
        if not np.isfinite(numbers).all() or (numbers != np.floor(numbers)).any():
            raise ShapeError("a run length is no whole number")
        runs = np.clip(numbers, -1, 2.0**62).astype(np.int64)
    else:
        raise ShapeError(f"counts of run lengths are {_kind(counts)}, and neither a list nor text")
    pixels = height * width
    if not runs.size or runs.min() < 0 or runs.max() > pixels or int(runs.sum()) != pixels:
        wrong = "one is negative" if runs.size and runs.min() < 0 else "they do not add up to it"
        raise ShapeError(f"run lengths for {width} x {height} pixels: {wrong}")
    return Runs(height, width, runs)


def _unpack(text: str) -> NDArray[np.int64]:
    """COCO's text: groups of five bits from the lowest on, with a sign; from the third on, less the last but one."""
    if len(text) > MAX_TEXT:
        raise ShapeError(f"run lengths have more than {MAX_TEXT:,} characters", "truth_shape_too_large")
    codes = np.frombuffer(text.encode("ascii", "replace"), np.uint8).astype(np.int64) - 48
    if not codes.size or codes.min() < 0 or codes.max() > 63 or codes[-1] & 32:
        raise ShapeError("the text of run lengths is damaged")
    ends = np.flatnonzero((codes & 32) == 0)
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    if lengths.max() > 7:  # a number of more than 32 bits
        raise ShapeError("the text of run lengths is damaged")
    shifts = 5 * (np.arange(codes.size) - np.repeat(starts, lengths))
    values = np.add.reduceat((codes & 31) << shifts, starts)
    values -= np.where(codes[ends] & 16, 1 << (5 * lengths), 0)
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return values


def _filled(runs: Runs) -> Mask:
    values = np.arange(runs.counts.size) % 2 == 1
    return np.repeat(values, runs.counts).reshape(runs.width, runs.height).T


def _outline(ring: NDArray[np.float64], height: int, width: int) -> float:
    """The length of a polygon in pixels, along the longer axis of each side; drawing takes memory for each."""
    sides = np.array([width, height])
    if ((ring < -MARGIN * sides) | (ring > (1 + MARGIN) * sides)).any():
        far = ring.ravel()[np.abs(ring).argmax()]
        raise ShapeError(
            f"a polygon's coordinate {far:g} lies far outside the picture of {width} x {height} pixels",
            "truth_shape_outside",
        )
    length = float(np.abs(ring - np.roll(ring, 1, axis=0)).max(axis=1).sum())
    if length > MAX_OUTLINE:
        raise ShapeError(f"a polygon is longer than {MAX_OUTLINE:,} pixels", "truth_shape_too_large")
    return length


def _inside(rings: list[NDArray[np.float64]], height: int, width: int) -> Mask:
    encoded = coco_mask.frPyObjects([ring.ravel().tolist() for ring in rings], height, width)
    return np.asarray(coco_mask.decode(coco_mask.merge(encoded)), dtype=bool)


def _floats(values: list[Any]) -> NDArray[np.float64]:
    try:
        return np.array(values, np.float64)
    except OverflowError as error:  # a whole number of hundreds of digits
        raise ShapeError("a number is too large") from error


def _whole(value: Any) -> int:
    """A whole number; 0, which is no size, for everything else."""
    if type(value) is int or (type(value) is float and value.is_integer()):
        return int(value)
    return 0


def _kind(value: Any) -> str:
    names = {type(None): "missing", str: "text", bool: "true or false", dict: "an object", list: "a list"}
    return names.get(type(value)) or _short(value)


def _short(value: Any) -> str:
    return f"{value:g}" if type(value) is float else (str(value) if abs(_whole(value)) < 1 << 63 else "huge")
