"""TIFF files that Pillow misreads or refuses: any type, order and compression of samples, by tifffile."""

from __future__ import annotations

import io
import logging
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin

from clipseg_kfp.images.formats import ImageRejectedError

_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _CMYK, _YCBCR = 0, 1, 2, 5, 6  # photometric interpretations
_SPLIT = 2  # planar configuration: one band after the other
_ALPHA = (1, 2)  # extra samples that are opacity, premultiplied or not
_ORIENTATION, _PROFILE = 274, 34675
GDAL_NODATA = 42113
#: Compressions that Pillow's libtiff decodes: none, CCITT, LZW, JPEG, deflate, PackBits, LZMA, Zstandard.
_OF_PILLOW = {1, 2, 3, 4, 5, 6, 7, 8, 32773, 32946, 34925, 50000}
_BAND_VALUES = 3_000_000  # converted at once

logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # what is wrong with a file is told by its rejection


def open_tiff(data: bytes) -> Image.Image:
    """Reads the header, with Pillow where that will read the pixels right.

    Args:
        data: the whole file.

    Raises:
        ImageRejectedError: ``unsupported_format``, for samples that are no colors.
        Exception: anything, for broken files.
    """
    image: Image.Image | None = None
    problem: Exception | None = None
    try:
        image = TiffImagePlugin.TiffImageFile(io.BytesIO(data))
    except Exception as error:
        problem = error
    try:
        page = tifffile.TiffFile(io.BytesIO(data)).pages.first
    except Exception:
        page = None
    if image is not None and (page is None or _right_in_pillow(page)):
        return image
    if page is None:
        raise problem or ValueError("the file has no pages")
    return Samples(page, data)


def _right_in_pillow(page: Any) -> bool:
    kind = np.dtype(page.dtype) if page.dtype is not None else np.dtype(np.uint8)
    wide_bands = page.planarconfig == _SPLIT and page.samplesperpixel > 1 and kind.itemsize > 1
    return (
        int(page.compression) in _OF_PILLOW
        and not wide_bands
        and kind not in (np.dtype(np.uint32), np.dtype(np.int8))
        and not (kind.itemsize > 2 and page.samplesperpixel > 1)
    )


class Samples(Image.Image):
    """An opened TIFF; ``load`` makes its samples 8-bit gray, RGB or CMYK, with or without opacity.

    Values are scaled by the rules of ``decode_image``; pixels without data (GDAL's tag) are black and set no range.

    Attributes:
        bytes_per_pixel: that decoding takes.
        tag_v2: values by number, as Pillow has them.
    """

    def __init__(self, page: Any, data: bytes) -> None:
        super().__init__()
        self._page, self._data = page, data
        self._size = (int(page.imagewidth), int(page.imagelength))
        self.tag_v2 = {int(tag.code): tag.value for tag in page.tags}
        self._mode, self._colors, self._opacity = _mode_of(page)
        _check(page)
        profile = self.tag_v2.get(_PROFILE)
        if isinstance(profile, bytes):
            self.info["icc_profile"] = profile
        self.bytes_per_pixel = 12 + 2 * page.samplesperpixel * max(1, page.dtype.itemsize)
        self._done = False

    def getexif(self) -> Image.Exif:
        """Only the orientation."""
        exif = Image.Exif()
        exif[_ORIENTATION] = self.tag_v2.get(_ORIENTATION, 1)
        return exif

    def load(self) -> Any:
        """Decodes the samples, once."""
        if not self._done:
            self._done = True
            self.im = self._decoded().im
        return super().load()

    def _decoded(self) -> Image.Image:
        page, size = self._page, len(self._data)
        segments = zip(page.dataoffsets, page.databytecounts, strict=True)
        if any(count and offset + count > size for offset, count in segments):
            raise EOFError("a part of the pixels lies behind the end")
        values: NDArray[Any] = page.asarray(maxworkers=1)
        shape = (page.imagelength, page.imagewidth, page.samplesperpixel)
        if page.planarconfig == _SPLIT and page.samplesperpixel > 1:
            values = np.moveaxis(values.reshape(shape[2], *shape[:2]), 0, -1)
        values = values.reshape(shape)
        bands = [*range(self._colors), *([self._opacity] if self._opacity else [])]
        target = np.empty((*shape[:2], len(bands)), np.uint8)
        scale = _scale(page, values[..., : self._colors], no_data(self.tag_v2.get(GDAL_NODATA)))
        rows = max(1, _BAND_VALUES // (shape[1] * shape[2]))
        for top in range(0, shape[0], rows):
            part = slice(top, top + rows)
            target[part, :, : self._colors] = scale(values[part, :, : self._colors])
            if self._opacity:
                opaque = values[part, :, self._opacity].astype(np.float64)
                most = np.iinfo(values.dtype).max if values.dtype.kind in "iu" else 1.0
                target[part, :, -1] = np.round(np.nan_to_num(opaque / most).clip(0, 1) * 255)
        del values  # which are several times as large
        return Image.frombuffer(self._mode, self._size, target, "raw", self._mode, 0, 1)


def _mode_of(page: Any) -> tuple[str, int, int]:
    """The mode, the number of color bands, and the band of the opacity (0: none)."""
    samples, photometric = page.samplesperpixel, int(page.photometric)
    colors = {_WHITE_IS_ZERO: 1, _BLACK_IS_ZERO: 1, _RGB: 3, _YCBCR: 3, _CMYK: 4}.get(photometric, 0)
    if photometric == _YCBCR and int(page.compression) in _OF_PILLOW:
        colors = 0
    if not colors or samples < colors:
        raise _unsupported(
            f"its colors are {page.photometric!r} in {samples} bands".replace("<", "").replace(">", "")
        )
    extra = [int(kind) for kind in page.extrasamples] if page.extrasamples else []
    if colors == 1 and samples > 1 and not (samples == 2 and extra[:1] and extra[0] in _ALPHA):
        raise _unsupported(f"it has {samples} bands and does not say which are red, green and blue")
    opacity = colors if samples > colors and extra[:1] and extra[0] in _ALPHA and colors < 4 else 0
    return (
        {(1, 0): "L", (1, 1): "LA", (3, 0): "RGB", (3, 3): "RGBA", (4, 0): "CMYK"}[colors, opacity],
        colors,
        opacity,
    )


def _check(page: Any) -> None:
    if page.dtype is None or np.dtype(page.dtype).kind not in "uifb":
        raise _unsupported(f"its values are {page.dtype or 'of an unknown type'}")
    if page.imagedepth > 1:
        raise _unsupported("it is a volume")
    try:
        tifffile.TIFF.DECOMPRESSORS[page.compression]
    except KeyError:
        name = getattr(page.compression, "name", "")
        raise _unsupported(f"its compression is {name or 'number'} ({int(page.compression)})") from None


def _unsupported(why: str) -> ImageRejectedError:
    return ImageRejectedError("unsupported_format", f"This kind of TIFF is not read: {why}.")


def no_data(value: Any) -> float | None:
    """The value of pixels without data, from GDAL's tag; ``None`` where there is none."""
    try:
        return float(str(value).strip("\0 "))
    except ValueError:
        return None


def is_no_data(values: NDArray[Any], marker: float | None) -> NDArray[np.bool_]:
    """Which pixels have no data: as the marker says (written with few digits, for floats), or not a number."""
    missing = np.isnan(values)
    if marker is not None and math.isfinite(marker):
        close = abs(marker) * 1e-6 if values.dtype.kind == "f" else 0.0
        missing |= np.abs(values.astype(np.float64) - marker) <= close
    return np.asarray(missing)


class _scale:  # noqa: N801 (used as a function)
    """How colors become 8 bits."""

    def __init__(self, page: Any, values: NDArray[Any], marker: float | None) -> None:
        kind, bits = values.dtype, page.bitspersample
        self._marker = marker
        self._inverted = int(page.photometric) == _WHITE_IS_ZERO
        bits = int(bits if isinstance(bits, int) else bits[0])
        if kind.kind == "b":
            self._low, self._high = 0.0, 1.0
        elif kind.kind == "u" and bits <= 16:
            self._low, self._high = 0.0, float(2**bits - 1)
        else:
            self._low, self._high = value_range(_parts(values), kind.kind == "f", marker)

    def __call__(self, values: NDArray[Any]) -> NDArray[np.uint8]:
        share = (values.astype(np.float64) - self._low) / max(self._high - self._low, 1e-30)
        eight = np.round(np.nan_to_num(share, posinf=1, neginf=0).clip(0, 1) * 255).astype(np.uint8)
        eight = 255 - eight if self._inverted else eight
        eight[is_no_data(values, self._marker)] = 0
        return np.asarray(eight)


def _parts(values: NDArray[Any]) -> Iterator[NDArray[Any]]:
    rows = max(1, _BAND_VALUES // max(1, values.shape[1] * values.shape[2]))
    yield from (values[top : top + rows] for top in range(0, len(values), rows))


def value_range(parts: Iterator[NDArray[Any]], floats: bool, marker: float | None) -> tuple[float, float]:
    """What black and white are.

    The smallest of 0..1 (floats only), 0..255 and 0..65535 that holds all values, else their own range.

    Args:
        parts: the values.
        floats: whether they are.
        marker: the value of pixels without data.
    """
    low, high = math.inf, -math.inf
    for part in parts:
        measured = part[np.isfinite(part) & ~is_no_data(part, marker)]
        if measured.size:
            low, high = min(low, float(measured.min())), max(high, float(measured.max()))
    if low > high:
        return 0.0, 0.0
    tops = (1.0, 255.0, 65535.0) if floats else (255.0, 65535.0)
    top = next((top for top in tops if low >= 0 and high <= top), None)
    return (low, high) if top is None else (0.0, top)
