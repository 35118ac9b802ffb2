"""Which parts of an image the model looks at: all of it and, where it is large, overlapping tiles."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clipseg_kfp.errors import ParameterError
from clipseg_kfp.images.decode import ImageRejectedError, to_model_input

#: Left, top, right, bottom in pixels of the upright source; right and bottom are the first pixels outside.
Box = tuple[int, int, int, int]

SMALLEST_TILE = 32  # pixels: below, a tile shows the model nothing but blur
MOST_OVERLAP = 0.75  # of a tile's side: every pixel is then seen by 16 tiles


@dataclass(frozen=True)
class Tiling:
    """How images are cut into tiles; the default cuts none.

    Give a tile's side either in pixels of the source, or by what a pixel of the model shall cover on the
    ground, so that images of different resolutions show an object at one size.

    Attributes:
        size: side of a tile in source pixels; 0 leaves it to ``ground_resolution``.
        ground_resolution: meters that one pixel of the model covers; 0 leaves it to ``size``.
        overlap: least overlap of neighboring tiles as a part of their side, 0 to 0.75.
        whole: look at the whole image as well: what is larger than a tile is seen in there only.
        max_tiles: an image that needs more is rejected.

    Raises:
        ParameterError: a value outside of what its name allows, or both ways to give the side.
    """

    size: int = 0
    ground_resolution: float = 0.0
    overlap: float = 0.25
    whole: bool = True
    max_tiles: int = 1000

    def __post_init__(self) -> None:
        if self.size and self.size < SMALLEST_TILE:
            raise ParameterError(
                f"tile_size is {self.size}.", f"Give 0 for no tiles, or {SMALLEST_TILE} pixels or more."
            )
        if not 0 <= self.ground_resolution < float("inf"):
            raise ParameterError(
                f"tile_ground_resolution is {self.ground_resolution}.",
                "Give the meters that a pixel of the model shall cover, or 0.",
            )
        if self.size and self.ground_resolution:
            raise ParameterError(
                f"tile_size is {self.size} and tile_ground_resolution {self.ground_resolution:g}; each sets "
                "the side of a tile.",
                "Give one of them.",
            )
        if not 0 <= self.overlap <= MOST_OVERLAP:
            raise ParameterError(
                f"tile_overlap is {self.overlap}.", f"Give a part of a tile's side, 0 to {MOST_OVERLAP}."
            )
        if self.max_tiles < 1:
            raise ParameterError(f"max_tiles is {self.max_tiles}.", "Give 1 or more.")

    @property
    def on(self) -> bool:
        """Whether large images are cut at all."""
        return bool(self.size or self.ground_resolution)

    def side(self, model_size: int, meters_per_pixel: float = 0.0) -> int:
        """Returns the side of an image's tiles in its pixels; 0 when off.

        A tile of T source pixels is shown to the model at S pixels, so a pixel of the model covers T / S
        pixels of the source: T = S x (ground resolution wanted) / (ground resolution of the source).

        Args:
            model_size: side of the model's input in pixels.
            meters_per_pixel: what a pixel of this image covers on the ground; 0: not known.

        Raises:
            ImageRejectedError: ``no_resolution``, where the side follows from a resolution that is not known.
        """
        if not self.ground_resolution:
            return self.size
        if not 0 < meters_per_pixel < float("inf"):
            raise ImageRejectedError(
                "no_resolution",
                "tile_ground_resolution is set, and the file does not say how many meters a pixel covers; "
                "meters_per_pixel can say it.",
            )
        return max(SMALLEST_TILE, round(model_size * self.ground_resolution / meters_per_pixel))

    def plan(self, width: int, height: int, model_size: int, meters_per_pixel: float = 0.0) -> list[Box]:
        """Lists the views of an image: ``plan`` with this tiling's values."""
        return plan(
            width,
            height,
            tile=self.side(model_size, meters_per_pixel),
            overlap=self.overlap,
            whole=self.whole,
            max_tiles=self.max_tiles,
        )


def plan(
    width: int,
    height: int,
    *,
    tile: int = 0,
    overlap: float = 0.25,
    whole: bool = True,
    max_tiles: int = 1000,
) -> list[Box]:
    """Lists the views of an image: the whole first, then its tiles row by row.

    Tiles form a grid, are all of one size and lie inside the image. They are as few as cover it with the
    overlap, spread evenly, so that neighbors overlap at least by what is asked and nearly by the same
    everywhere. Where the image is narrower or lower than a tile, so are its tiles (and, like any view,
    stretched to the model's square).

    Args:
        width: of the upright image in pixels.
        height: of the upright image in pixels.
        tile: side of a tile in pixels; 0 for none.
        overlap: least overlap of neighbors as a part of the tile's side, 0 to 0.75.
        whole: include the whole image. One that fits into a tile is a whole view in any case.
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
    """How few intervals of ``tile`` pixels cover ``length``, neighbors overlapping by a part of them."""
    if length <= tile:
        return 1
    step = max(1, tile - int(np.ceil(overlap * tile)))
    return 1 - (tile - length) // step


def _starts(length: int, tile: int, count: int) -> list[int]:
    # Steps of an even spread, rounded down, differ by a pixel and never exceed the longest step allowed.
    return [i * (length - tile) // (count - 1) for i in range(count)] if count > 1 else [0]


def cut(image: Image.Image, box: Box, size: int) -> NDArray[np.uint8]:
    """Brings one view of an image to the model's square.

    The whole image becomes exactly ``images.to_model_input``. A tile is resampled likewise, without a copy of
    the crop: it is the very part that the box covers in an image scaled as a whole, so at its edges the
    filter reaches a little beyond the box and not against a border.

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
        uint8 (..., S, S): the mean, mirrored back; halves are rounded to the even level, like the levels
        themselves, so that averaging shifts no map upwards.
    """
    total = probabilities.astype(np.uint16) + flipped[..., ::-1]
    half = total >> 1
    return np.asarray(half + (total & half & 1), dtype=np.uint8)
