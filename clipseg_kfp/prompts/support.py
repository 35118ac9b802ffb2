"""Prepares support images: what a picture must look like to serve as a prompt.

CLIPSeg takes a picture in place of a text, but attends to all that it shows. The paper (section 3.5) found
that cropping to the thing, blurring and fading the rest help most together; its code works on normalized
images of the model's input size. Here the same is done at the resolution of the source, with the blur scaled
to it, so that the result does not depend on how many pixels a camera has.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clipseg_kfp.images.decode import to_model_input
from clipseg_kfp.prompts.entries import Engineering, SupportImage
from clipseg_kfp.prompts.files import unusable

_REACH = 7 / 3  # kernel radius in sigmas: 15 pixels at sigma 3


def region_of(support: SupportImage, width: int, height: int) -> NDArray[np.bool_]:
    """Draws a support image's box or polygons.

    Args:
        support: has one of the two.
        width: of the upright image in pixels.
        height: of the same.

    Returns:
        bool (height, width), with at least one pixel set.

    Raises:
        ParameterError: it reaches out of the image by more than a pixel, or holds no pixel.
    """
    scale = np.array([width, height] if support.units == "fractions" else [1, 1], float)
    size = np.array([width, height])
    if support.box is not None:
        corners = np.array([support.box[:2], np.add(support.box[:2], support.box[2:])]) * scale
        outlines = [corners]
    else:
        outlines = [np.array(polygon) * scale for polygon in support.polygons]
    for outline in outlines:
        if (outline < -1).any() or (outline > size + 1).any():
            what = "box" if support.box is not None else "polygon"
            (left, top), (right, bottom) = outline.min(0), outline.max(0)
            covered = f"x {left:g} to {right:g}, y {top:g} to {bottom:g}"
            problem = f"has {width} x {height} pixels; its {what} covers {covered}."
            remedy = "A box is x, y, width, height in pixels of the upright image."
            raise unusable("region_outside_image", support.image, problem, remedy)
    region = _drawn(support, outlines, width, height)
    if not region.any():
        problem = "has no pixel inside the box or polygon."
        raise unusable("region_empty", support.image, problem, "For fractions, write units: fractions.")
    return region


def _drawn(
    support: SupportImage, outlines: list[NDArray[np.float64]], width: int, height: int
) -> NDArray[np.bool_]:
    if support.box is not None:
        region = np.zeros((height, width), bool)
        left, top, right, bottom = np.rint(outlines[0]).astype(int).ravel()
        region[max(0, top) : bottom, max(0, left) : right] = True
        return region
    from pycocotools import mask as coco_mask

    runs = coco_mask.frPyObjects([outline.ravel().tolist() for outline in outlines], height, width)
    return np.asarray(coco_mask.decode(coco_mask.merge(runs)), dtype=bool)


def engineer(
    image: Image.Image,
    region: NDArray[np.bool_] | None,
    settings: Engineering,
    size: int,
    mean: tuple[float, float, float],
) -> NDArray[np.uint8]:
    """Makes a support image ready for the model.

    Args:
        image: RGB.
        region: where in the image the thing is, bool (height, width), not empty; ``None``: the whole image
            counts, and nothing is changed but its size (and padding, if it is asked for).
        settings: what to do.
        size: side of the model's input in pixels.
        mean: the model's mean color, each channel between 0 and 1.

    Returns:
        uint8 (size, size, 3). Without a region and padding, exactly what transformers' processor makes of it.

    Raises:
        ValueError: a region of another size, or without a pixel.
    """
    backdrop = np.array([255 * c for c in mean] if settings.backdrop == "mean" else [0, 0, 0], np.float32)
    if region is None:
        if not settings.pad:
            return to_model_input(image, size)
        pixels = np.asarray(image.resize(_fitting(image.size, size), Image.Resampling.BILINEAR), np.float32)
        return _padded(pixels, size, backdrop)
    if region.shape != (image.height, image.width) or not region.any():
        raise ValueError(f"region {region.shape} must fit an image of {image.size}, and must not be empty")
    box = _crop_box(region, settings.context) if settings.crop else (0, 0, image.width, image.height)
    cut = (box[2] - box[0], box[3] - box[1])
    pad = settings.pad is not False
    target = _fitting(cut, size) if pad else (size, size)
    pixels = np.asarray(image.crop(box).resize(target, Image.Resampling.BILINEAR), np.float32)
    mask = Image.fromarray(region.astype(np.uint8) * np.uint8(255)).crop(box)
    inside = np.asarray(mask.resize(target, Image.Resampling.BILINEAR), np.float32)[..., None]
    inside = inside / np.float32(255)
    sigma = settings.blur * max(image.size) / size  # in pixels of the source
    rest = _blurred(pixels, sigma * target[0] / cut[0], sigma * target[1] / cut[1])
    rest = backdrop + np.float32(settings.background) * (rest - backdrop)
    blended: NDArray[np.float32] = inside * pixels + (1 - inside) * rest
    return _padded(blended, size, backdrop)


def _crop_box(region: NDArray[np.bool_], context: float) -> tuple[int, int, int, int]:
    """The bounding box with its context: left, top, right, bottom."""
    ends = []
    for axis in (0, 1):
        places = np.flatnonzero(region.any(axis))
        low, high = int(places[0]), int(places[-1]) + 1
        margin = context * (high - low)
        ends.append((max(0, int(low - margin)), min(region.shape[1 - axis], int(high + margin))))
    (left, right), (top, bottom) = ends
    return left, top, right, bottom


def _fitting(size: tuple[int, int], side: int) -> tuple[int, int]:
    """Width and height scaled so that the longer one is ``side``."""
    longer = max(size)
    return max(1, round(size[0] * side / longer)), max(1, round(size[1] * side / longer))


def _blurred(pixels: NDArray[np.float32], sigma_x: float, sigma_y: float) -> NDArray[np.float32]:
    if min(sigma_x, sigma_y) <= 0:
        return pixels
    kernel = [2 * max(1, round(_REACH * sigma)) + 1 for sigma in (sigma_x, sigma_y)]
    return np.asarray(cv2.GaussianBlur(pixels, kernel, sigma_x, sigmaY=sigma_y), np.float32)


def _padded(pixels: NDArray[np.float32], size: int, backdrop: NDArray[np.float32]) -> NDArray[np.uint8]:
    canvas = np.empty((size, size, 3), np.float32)
    canvas[:] = backdrop
    top, left = (size - pixels.shape[0]) // 2, (size - pixels.shape[1]) // 2
    canvas[top : top + pixels.shape[0], left : left + pixels.shape[1]] = pixels
    return np.rint(canvas).clip(0, 255).astype(np.uint8)
