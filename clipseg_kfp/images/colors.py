"""Brings decoded pixels of every color mode to 8-bit RGB."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, PpmImagePlugin, TiffImagePlugin

from clipseg_kfp.images.tiff import GDAL_NODATA, is_no_data, no_data, value_range

_BAND_PIXELS = 1_000_000  # converted at once
_PROFILE_MODES = {"RGB": "RGB", "CMYK": "CMYK", "GRAY": "L", "Lab": "LAB"}


def to_rgb(holder: list[Image.Image]) -> Image.Image:
    """Converts an image to sRGB.

    An embedded profile is applied (a broken one is ignored), transparent pixels are laid over white, wide values
    are scaled to 8 bits. Pixels that need no conversion (the usual case) are not copied; others are converted band
    by band, so that memory holds only them and the result.

    Args:
        holder: a list with the image, which is taken out of it so that its pixels can be freed early.

    Returns:
        An RGB image of the same size.
    """
    image = holder.pop()
    profile = image.info.get("icc_profile")
    wide = image.mode[0] in "IF"
    gray = image.mode in ("1", "L", "LA", "La") or wide
    transparent = image.has_transparency_data and not wide
    if image.mode == "RGB" and not transparent:
        plain = image._new(image.im)  # shares the pixels, without the file
        del image
        apply = _profile_transform("RGB", profile)
        if apply is not None:
            ImageCms.applyTransform(plain, apply, inPlace=True)
        return plain
    eight_bits = _eight_bits(image) if wide else None
    key = image.info.get("transparency") if wide else None  # the gray value that is transparent, in PNG
    transform: Callable[[Image.Image], Image.Image] | None = None
    canvas = Image.new("RGB", image.size)
    for top, part in _bands(image):
        band = part
        if eight_bits is not None:
            values = np.asarray(part)
            gray_levels = eight_bits(values)
            if key is not None:
                gray_levels[values == key] = 255
            band = Image.fromarray(gray_levels)
        alpha = None
        if transparent:
            band, alpha = _split_alpha(band)
        if band.mode not in _PROFILE_MODES.values():
            band = band.convert("L" if gray else "RGB")
        transform = transform or _to_srgb(band.mode, profile)
        rgb = transform(band)
        if alpha is not None:
            white = Image.new("RGB", rgb.size, "white")
            white.paste(rgb, mask=alpha)
            rgb = white
        canvas.paste(rgb, (0, top))
    return canvas


def _split_alpha(image: Image.Image) -> tuple[Image.Image, Image.Image]:
    """Separates the opacity of an image that has any kind of it."""
    if image.mode == "La":
        image = image.convert("LA")
    if image.mode != "RGBA":
        image = image.convert("RGBA")
    return image, image.getchannel("A")


def _to_srgb(mode: str, profile: bytes | None) -> Callable[[Image.Image], Image.Image]:
    """How mode L, RGB, RGBA, CMYK or LAB becomes sRGB: by the profile if it is valid and fits."""
    for taken in ("L", "RGB") if mode == "L" else (mode,):
        transform = _profile_transform(taken, profile)
        if transform is not None:
            return partial(_apply, transform, taken)
    if mode == "LAB":  # convert() cannot read Lab
        lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        return partial(_apply, ImageCms.buildTransform(lab, srgb, "LAB", "RGB"), "LAB")
    return lambda image: image.convert("RGB")


def _profile_transform(mode: str, profile: bytes | None) -> ImageCms.ImageCmsTransform | None:
    """What a profile does to pixels of this mode; ``None`` if it is broken or of another color space."""
    if not profile:
        return None
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if _PROFILE_MODES.get(source.profile.xcolor_space.strip()) != mode:
            return None
        return ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
    except Exception:  # a broken profile is ignored
        return None


def _apply(transform: ImageCms.ImageCmsTransform, mode: str, image: Image.Image) -> Image.Image:
    converted = ImageCms.applyTransform(image if image.mode == mode else image.convert(mode), transform)
    assert converted is not None  # it is None only for work in place
    return converted


def _eight_bits(image: Image.Image) -> Callable[[NDArray[Any]], NDArray[np.uint8]]:
    """How values of modes I;16*, I and F become 8 bits; ``convert`` would clip at 255."""
    of_16 = image.mode.startswith("I;16") or (
        image.mode == "I" and isinstance(image, PpmImagePlugin.PpmImageFile)
    )
    return _scale_of_16_bits(image) if of_16 else _scale_of_32_bits(image)


def _scale_of_16_bits(image: Image.Image) -> Callable[[NDArray[Any]], NDArray[np.uint8]]:
    bits, inverted = 16, False
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        bits = min(16, image.tag_v2.get(TiffImagePlugin.BITSPERSAMPLE, (16,))[0])
        inverted = image.tag_v2.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 0
    steps = np.minimum(np.arange(65536) / (2**bits - 1), 1)
    table = np.round(255 * (1 - steps if inverted else steps)).astype(np.uint8)
    return lambda values: np.asarray(table[values])


def _scale_of_32_bits(image: Image.Image) -> Callable[[NDArray[Any]], NDArray[np.uint8]]:
    tags = image.tag_v2 if isinstance(image, TiffImagePlugin.TiffImageFile) else {}
    marker = no_data(tags.get(GDAL_NODATA))
    low, high = value_range((np.asarray(part) for _, part in _bands(image)), image.mode == "F", marker)

    def scale(values: NDArray[Any]) -> NDArray[np.uint8]:
        scaled = np.clip(values.astype(np.float32), low, high) - np.float32(low)
        scaled *= np.float32(255 / max(high - low, 1e-30))
        eight = np.asarray(np.round(np.nan_to_num(scaled)).clip(0, 255), dtype=np.uint8)
        eight[is_no_data(values, marker)] = 0
        return eight

    return scale


def _bands(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """Bands of about a million pixels, each with its top row; one piece would be a copy of the image."""
    rows = max(1, _BAND_PIXELS // image.width)
    for top in range(0, image.height, rows):
        yield top, image.crop((0, top, image.width, min(top + rows, image.height)))
