"""Which parts of an image the model looks at: the whole image and, where it is large, overlapping tiles."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clipseg_kfp.images.decode import ImageRejectedError, to_model_input
from clipseg_kfp.options import Views
from clipseg_kfp.options.groups import SMALLEST_TILE

#: Left, top, right, bottom in pixels of the upright source; right and bottom are the first pixels outside.
Box = tuple[int, int, int, int]

MAX_TILES = 1000  # of an image


def tile_side(views: Views, model_size: int, meters_per_pixel: float = 0.0) -> int:
    """Returns the side of an image's tiles in its own pixels; 0 for no tiles.

    A tile of T source pixels is shown to the model at S pixels, so a pixel of the model covers T / S pixels of the
    source: T = S x ``tile_ground_resolution`` / (ground resolution of the source).

    Args:
        views: how images are looked at.
        model_size: side of the model's input in pixels.
        meters_per_pixel: what the image's file says; 0: nothing. ``views.meters_per_pixel`` comes first.

    Raises:
        ImageRejectedError: ``no_resolution``, where the side depends on a resolution that is not known.
    """
    if not views.tile_ground_resolution:
        return views.tile_size
    meters = views.meters_per_pixel or meters_per_pixel
    if not 0 < meters < float("inf"):
        raise ImageRejectedError(
            "no_resolution",
            "tile_ground_resolution is set, and the file does not say how many meters a pixel covers; "
            "meters_per_pixel can say it.",
        )
    return max(SMALLEST_TILE, round(model_size * views.tile_ground_resolution / meters))


def plan_views(
    views: Views, width: int, height: int, model_size: int, meters_per_pixel: float = 0.0
) -> list[Box]:
    """Lists the views of an image: ``plan`` with these options; the arguments are those of both functions."""
    tile = tile_side(views, model_size, meters_per_pixel)
    return plan(width, height, tile=tile, overlap=views.tile_overlap)


def plan(
    width: int,
    height: int,
    *,
    tile: int = 0,
    overlap: float = 0.25,
    whole: bool = True,
    max_tiles: int = MAX_TILES,
) -> list[Box]:
    """Lists the views of an image: the whole first, then its tiles row by row.

    Tiles form a grid, have one size and lie inside the image. They are as few as cover it with the overlap, spread
    evenly, so that all neighbors overlap by at least that much and by nearly the same. Where the image is narrower
    or lower than a tile, so are its tiles (and, like any view, they are stretched to the model's square).

    Args:
        width: of the upright image in pixels.
        height: of the upright image in pixels.
        tile: side of a tile in pixels; 0 for none.
        overlap: least overlap of neighbors as a share of the tile's side, 0 to 0.75.
        whole: include the whole image. An image that fits into a tile is one whole view in any case.
        max_tiles: the most tiles.

    Returns:
        Boxes, of which the union is the image.

    Raises:
        ImageRejectedError: ``too_large``, where the image needs more than ``max_tiles``.
    """
    everything: Box = (0, 0, width, height)
    if not tile or (width <= tile and height <= tile):
        return [everything]
    columns, rows = _count(width, tile, overlap), _count(height, tile, overlap)
    if columns * rows > max_tiles:  # before any list is made: a header may claim any size
        raise ImageRejectedError(
            "too_large",
            f"{width} x {height} pixels need {columns * rows:,} tiles of {tile} pixels; "
            f"{max_tiles:,} are allowed: take larger tiles.",
        )
    tiles = [
        (left, top, left + min(tile, width), top + min(tile, height))
        for top in _starts(height, tile, rows)
        for left in _starts(width, tile, columns)
    ]
    return [everything, *tiles] if whole else tiles


def _count(length: int, tile: int, overlap: float) -> int:
    """The least number of intervals of ``tile`` pixels that cover ``length`` and overlap by a share of them."""
    if length <= tile:
        return 1
    step = max(1, tile - int(np.ceil(overlap * tile)))
    return 1 - (tile - length) // step


def _starts(length: int, tile: int, count: int) -> list[int]:
    # Steps of an even spread, rounded down, differ by a pixel and never exceed the longest step allowed.
    return [i * (length - tile) // (count - 1) for i in range(count)] if count > 1 else [0]


def cut(image: Image.Image, box: Box, size: int) -> NDArray[np.uint8]:
    """Brings one view of an image to the model's square.

    The whole image becomes exactly what ``to_model_input`` makes. A tile is resampled in the same way, without a
    copy of the crop: it is the part that the box covers in an image scaled as a whole, so at its edges the filter
    reaches a little beyond the box.

    Args:
        image: upright, RGB.
        box: of the view.
        size: side of the square in pixels.

    Returns:
        uint8 (size, size, 3).

    Raises:
        ValueError: the image is not RGB, or the box does not lie inside it.
    """
    if box == (0, 0, *image.size):
        return to_model_input(image, size)
    if image.mode != "RGB":
        raise ValueError(f"expected an RGB image, got mode {image.mode}")
    resized = image.resize((size, size), Image.Resampling.BILINEAR, box=box)
    return np.array(resized, dtype=np.uint8)


def mirrored(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Mirrors views left to right: uint8 (..., S, S, 3), contiguous, as the model takes them."""
    return np.ascontiguousarray(pixels[..., ::-1, :])


def averaged_with_flip(probabilities: NDArray[np.uint8], flipped: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Averages maps of views with the maps of their mirror images.

    Args:
        probabilities: uint8 (..., S, S), levels of 1 / 255.
        flipped: the same for ``mirrored`` views, as the model gave them.

    Returns:
        uint8 (..., S, S): the mean, mirrored back; halves are rounded to the even level, so that averaging does
        not shift maps upwards.
    """
    total = probabilities.astype(np.uint16) + flipped[..., ::-1]
    half = total >> 1
    return np.asarray(half + (total & half & 1), dtype=np.uint8)
