"""Decodes untrusted image bytes; scales to model input and preview."""

from __future__ import annotations

import codecs
import io
import math
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, TiffImagePlugin
from PIL.ExifTags import Base as ExifTag

#: Lower-case name endings of what ``decode_image`` reads.
IMAGE_SUFFIXES: frozenset[str] = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif"}
)

_FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF")
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_BAND_PIXELS = 1_000_000  # of wide values, converted at once
_PROFILE_MODES = {"RGB": "RGB", "CMYK": "CMYK", "GRAY": "L", "Lab": "LAB"}

# First bytes, what they are, and whether that is an image.
_SIGNATURES: tuple[tuple[bytes, str, bool], ...] = (
    (b"\x00\x00\x00\x0cjP", "JPEG 2000", True),
    (b"\xff\x4f\xff\x51", "JPEG 2000", True),
    (b"\x00\x00\x00\x0cJXL", "JPEG XL", True),
    (b"\xff\x0a", "JPEG XL", True),
    (b"8BPS", "Photoshop", True),
    (b"\x00\x00\x01\x00", "ICO", True),
    (b"%!PS", "PostScript", True),
    (b"%PDF", "PDF", False),
    (b"PK\x03\x04", "a ZIP archive", False),
    (b"\x1f\x8b", "gzip data", False),
    (b"PAR1", "Parquet", False),
    (b"\x93NUMPY", "a NumPy array", False),
    (b"\x1a\x45\xdf\xa3", "a video", False),
)
_HEIF_BRANDS = {b"heic": "HEIC", b"heix": "HEIC", b"mif1": "HEIF", b"avif": "AVIF", b"avis": "AVIF"}


class ImageRejectedError(Exception):
    """Bytes that cannot be used as an image.

    Attributes:
        code: ``empty``, ``not_an_image``, ``mislabelled`` (no image, but an image's name),
            ``unsupported_format``, ``truncated``, ``too_large`` or ``damaged``.
        detail: one sentence for people.
    """

    def __init__(self, code: str, detail: str) -> None:
        """Keeps both parts; the message joins them."""
        self.code = code
        self.detail = detail
        super().__init__(f"{code}: {detail}")


class OpenedImage:
    """An image of which only the header has been read; ``decode`` does the rest, once.

    Attributes:
        width: as stored; the upright image may be turned.
        height: as stored.
    """

    def __init__(self, image: Image.Image, data: bytes, kind: str, name: str) -> None:
        """Made by ``open_image``."""
        self.width, self.height = image.size
        self._image: Image.Image | None = image
        self._mode, self._data, self._kind, self._name = image.mode, data, kind, name

    @property
    def peak_bytes(self) -> int:
        """What ``decode`` takes at its peak, at most: decoder's buffers, pixels and their converted copy."""
        plain = self._kind != "GIF" and self._mode in ("1", "L", "RGB")
        return self.width * self.height * (20 if self._kind == "WEBP" else 12 if plain else 16)

    def decode(self) -> Image.Image:
        """Decodes the pixels.

        Returns:
            An upright 8-bit RGB image without metadata.

        Raises:
            ImageRejectedError: for whatever is wrong with the bytes; nothing else is raised.
        """
        image, self._image = self._image, None
        if image is None:
            raise RuntimeError("An opened image is decoded once.")
        with _rejecting(self._data, self._kind, self._name):
            image.load()
            method = _UPRIGHT.get(_orientation(image))
            parts = [image]
            del image  # so that each copy of the pixels goes as soon as the next one is made
            rgb = _to_rgb(parts)
            rgb = rgb.transpose(method) if method is not None else rgb
            rgb.info.clear()  # or a later save would embed a profile that no longer applies
            return rgb


def open_image(data: bytes, name: str = "") -> OpenedImage:
    """Reads the header of an image; see ``decode_image``.

    Args:
        data: the whole file.
        name: the file's name or key; it only words the rejection of what is no image.

    Raises:
        ImageRejectedError: for whatever is wrong with the bytes; nothing else is raised.
    """
    if not data:
        raise ImageRejectedError("empty", "The file has no bytes.")
    for kind in _FORMATS:
        with _rejecting(data, kind, name):
            image = _open(data, kind)
            if image is not None:
                return OpenedImage(image, data, kind, name)
    raise _no_image(data, name)


def decode_image(data: bytes, name: str = "", max_pixels: int = 50_000_000) -> Image.Image:
    """Decodes the first frame of a JPEG, PNG, WebP, TIFF, BMP or GIF file.

    The content alone decides the format; a wrong ending of the name does no harm. EXIF orientation
    is applied, an embedded color profile is converted to sRGB (a broken one is ignored),
    transparency is laid over white. 16-bit gray is scaled from its full range; 32-bit integers and
    floats from the smallest of 0..1 (floats only), 0..255 and 0..65535 that holds them all, else
    from their own range.

    Args:
        data: the whole file.
        name: the file's name or key; it only words the rejection of what is no image.
        max_pixels: the most pixels, compared with the header before any pixel is decoded. (WebP
            and tiles of TIFF also stay below Pillow's ceiling, twice ``Image.MAX_IMAGE_PIXELS``.)

    Returns:
        An upright 8-bit RGB image without metadata.

    Raises:
        ImageRejectedError: for whatever is wrong with the bytes; nothing else is raised.
    """
    opened = open_image(data, name)
    if opened.width * opened.height > max_pixels:
        raise ImageRejectedError(
            "too_large",
            f"The header says {opened.width} x {opened.height} pixels; the limit is {max_pixels:,} pixels.",
        )
    return opened.decode()


@contextmanager
def _rejecting(data: bytes, kind: str, name: str) -> Iterator[None]:
    """Turns whatever a reader raises into a rejection."""
    try:
        yield
    except ImageRejectedError:
        raise
    except (Image.DecompressionBombError, MemoryError) as error:
        raise ImageRejectedError(
            "too_large", f"The {kind} file is too large to decode: {_words(error)}."
        ) from error
    except Exception as error:  # Pillow's readers raise nearly every built-in kind on damaged bytes
        raise _failure(data, kind, name, error) from error


def to_model_input(image: Image.Image, size: int) -> NDArray[np.uint8]:
    """Stretches an image to the model's square, as ``ViTImageProcessorPil`` does before rescaling.

    Args:
        image: RGB, of any size.
        size: side of the square in pixels.

    Returns:
        uint8 array (size, size, 3).

    Raises:
        ValueError: if the image is not RGB.
    """
    if image.mode != "RGB":
        raise ValueError(f"expected an RGB image, got mode {image.mode}")
    return np.array(image.resize((size, size), Image.Resampling.BILINEAR), dtype=np.uint8)


def decode_mask(data: bytes, name: str = "") -> NDArray[np.bool_]:
    """Decodes a ground-truth mask, however it marks the foreground.

    Foreground is what lies above half of the largest value: 255 of 0/255 files, 1 of 0/1 files, and no
    compression noise of a JPEG.

    Args:
        data: content of the file, in one of the formats that ``decode_image`` takes.
        name: of the object, for messages.

    Returns:
        bool (height, width).

    Raises:
        ImageRejectedError: for the reasons of ``decode_image``.
    """
    gray = np.asarray(decode_image(data, name).convert("L"))
    return np.asarray(gray > gray.max() / 2) if gray.max() else np.zeros(gray.shape, bool)


def preview_jpeg(image: Image.Image, long_side: int = 512) -> bytes:
    """Returns an RGB image as a JPEG of at most ``long_side`` pixels a side; never enlarges."""
    scale = long_side / max(image.size)
    small = image
    if scale < 1:
        width, height = (max(1, round(side * scale)) for side in image.size)
        small = image.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=2.0)
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=85, optimize=True)
    return buffer.getvalue()


def _open(data: bytes, kind: str) -> Image.Image | None:
    """Reads the header if the first bytes are of this format.

    This is ``Image.open(file, formats=[kind])`` less its check of the size, which compares with a
    global setting: it would warn or raise on images that ``max_pixels`` allows.
    """
    Image.init()  # registers the formats once; later calls return at once
    factory, accept = Image.OPEN[kind]
    if accept is not None and accept(data[:16]) is not True:
        return None
    return factory(io.BytesIO(data), "")


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ExifTag.Orientation, 1))
    except Exception:  # damaged metadata do not make the pixels unusable
        return 1


def _to_rgb(parts: list[Image.Image]) -> Image.Image:
    """Converts the one image of the list, and takes it out so that its pixels can go early."""
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


def _failure(data: bytes, kind: str, name: str, error: Exception) -> ImageRejectedError:
    what, _ = _identify(data)
    if what == "text":  # "BM" starts words as well as bitmaps
        return _no_image(data, name)
    ended = re.search("truncated|but only got|requires a buffer", str(error), re.IGNORECASE)
    if ended or isinstance(error, EOFError) or _ends_early(data, kind):
        return ImageRejectedError("truncated", f"The {kind} file ends early, after {len(data):,} bytes.")
    return ImageRejectedError("damaged", f"The {kind} file cannot be decoded: {_words(error)}.")


def _words(error: BaseException) -> str:
    words = " ".join(str(error).split()).rstrip(".")[:200]
    # Pillow passes on bare table keys and the like, which tell people nothing.
    return words if re.search("[A-Za-z]{3}", words) else f"its structure is broken {words}".strip()


def _ends_early(data: bytes, kind: str) -> bool:
    """Says whether a file that failed to decode lacks its end."""
    little, size = data[:1] != b"M", len(data)
    return {
        "JPEG": b"\xff\xd9" not in data[-4096:],
        "PNG": b"IEND" not in data[-64:],
        "GIF": not data.rstrip(b"\0").endswith(b";"),
        "WEBP": int.from_bytes(data[4:8], "little") + 8 > size,
        "BMP": int.from_bytes(data[2:6], "little") > size,
        "TIFF": int.from_bytes(data[4:8], "little" if little else "big") + 14 > size,
    }[kind]


def _no_image(data: bytes, name: str) -> ImageRejectedError:
    what, is_image = _identify(data)
    if is_image:
        return ImageRejectedError(
            "unsupported_format", f"The file is {what}; supported are {', '.join(_FORMATS)}."
        )
    suffix = PurePosixPath(name).suffix.lower()
    if suffix in IMAGE_SUFFIXES:
        return ImageRejectedError("mislabelled", f"The file is named {suffix} but holds {what}.")
    return ImageRejectedError("not_an_image", f"The file is no image; it holds {what}.")


def _identify(data: bytes) -> tuple[str, bool]:
    """Names content that is none of the formats; says whether it is an image all the same."""
    head = data[:1024]
    if head[4:8] == b"ftyp":
        brand = _HEIF_BRANDS.get(head[8:12], "")
        return brand or "a video", bool(brand)
    for magic, what, is_image in _SIGNATURES:
        if head.startswith(magic):
            return what, is_image
    if re.match(rb"P[1-7]\s+[#0-9]", head):
        return "PNM", True
    markup = head.removeprefix(codecs.BOM_UTF8).lstrip().lower()
    if markup.startswith(b"<") and b"<svg" in markup:
        return "SVG", True
    for magic, what in ((b"<!doctype html", "HTML"), (b"<html", "HTML"), (b"<?xml", "XML")):
        if markup.startswith(magic):
            return what, False
    return ("text" if _is_text(head) else "unknown data"), False


def _is_text(head: bytes) -> bool:
    try:  # incrementally, for the excerpt may end within a character
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return False
    return re.search(rb"[\x00-\x08\x0e-\x1f]", head) is None
