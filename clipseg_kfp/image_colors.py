"""Brings decoded pixels of every color mode to 8-bit RGB."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, TiffImagePlugin

_BAND_PIXELS = 1_000_000  # of wide values, converted at once
_PROFILE_MODES = {"RGB": "RGB", "CMYK": "CMYK", "GRAY": "L", "Lab": "LAB"}


def to_rgb(parts: list[Image.Image]) -> Image.Image:
    """Converts an image to sRGB.

    An embedded profile is applied (a broken one is ignored), transparency is laid over white, wide values
    are scaled to 8 bits.

    Args:
        parts: a list of one image, which is taken out of it so that its pixels can go early.

    Returns:
        An RGB image of the same size.
    """
    image = parts.pop()
    profile = image.info.get("icc_profile")
    if image.mode[0] in "IF":
        image = _eight_bit_gray(image)
    gray = image.mode in ("1", "L", "LA", "La")
    alpha = None
    if image.has_transparency_data:
        if image.mode == "La":
            image = image.convert("LA")
        if image.mode != "RGBA":
            image = image.convert("RGBA")
        alpha = image.getchannel("A")
    if image.mode not in _PROFILE_MODES.values():
        image = image.convert("L" if gray else "RGB")
    rgb = _to_srgb(image, profile)
    if alpha is None:
        return rgb
    del image
    canvas = Image.new("RGB", rgb.size, "white")
    canvas.paste(rgb, mask=alpha)
    return canvas


def _to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Converts mode L, RGB, CMYK or LAB to sRGB, by the profile where it is sound and fits."""
    target = ImageCms.createProfile("sRGB")
    if profile:
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            space = source.profile.xcolor_space.strip()
            fitting = image.convert("RGB") if (image.mode, space) == ("L", "RGB") else image
            if _PROFILE_MODES.get(space) == fitting.mode:
                converted = ImageCms.profileToProfile(fitting, source, target, outputMode="RGB")
                if converted is not None:
                    return converted
        except Exception:  # a broken profile: colors as if there were none
            pass
    if image.mode == "LAB":  # convert() knows no Lab
        converted = ImageCms.profileToProfile(image, ImageCms.createProfile("LAB"), target, outputMode="RGB")
        if converted is not None:
            return converted
    return image.convert("RGB")


def _eight_bit_gray(image: Image.Image) -> Image.Image:
    """Scales modes I;16*, I and F to L; ``convert`` would clip at 255."""
    scale = _scale_of_16_bits(image) if image.mode.startswith("I;16") else _scale_of_32_bits(image)
    gray = Image.new("L", image.size)
    for top, band in _bands(image):
        gray.paste(Image.fromarray(scale(band)), (0, top))
    return gray


def _scale_of_16_bits(image: Image.Image) -> Callable[[NDArray[Any]], NDArray[np.uint8]]:
    bits, inverted = 16, False
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        bits = min(16, image.tag_v2.get(TiffImagePlugin.BITSPERSAMPLE, (16,))[0])
        inverted = image.tag_v2.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 0
    steps = np.minimum(np.arange(65536) / (2**bits - 1), 1)
    table = np.round(255 * (1 - steps if inverted else steps)).astype(np.uint8)
    return lambda values: np.asarray(table[values])


def _scale_of_32_bits(image: Image.Image) -> Callable[[NDArray[Any]], NDArray[np.uint8]]:
    low, high = math.inf, -math.inf
    for _, band in _bands(image):
        finite = band[np.isfinite(band)]
        if finite.size:
            low, high = min(low, float(finite.min())), max(high, float(finite.max()))
    low, high = (low, high) if low <= high else (0.0, 0.0)
    tops = (1.0, 255.0, 65535.0) if image.mode == "F" else (255.0, 65535.0)
    top = next((t for t in tops if low >= 0 and high <= t), None)
    low, high = (low, high) if top is None else (0.0, top)

    def scale(values: NDArray[Any]) -> NDArray[np.uint8]:
        scaled = np.clip(values.astype(np.float32), low, high) - np.float32(low)
        scaled *= np.float32(255 / max(high - low, 1e-30))
        return np.asarray(np.round(np.nan_to_num(scaled)).clip(0, 255), dtype=np.uint8)

    return scale


def _bands(image: Image.Image) -> Iterator[tuple[int, NDArray[Any]]]:
    """Rows of a large image by the million pixels, each with its place: one array would be a copy of it."""
    rows = max(1, _BAND_PIXELS // image.width)
    for top in range(0, image.height, rows):
        yield top, np.asarray(image.crop((0, top, image.width, min(top + rows, image.height))))
