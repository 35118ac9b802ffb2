"""The image formats that are read, and why other files are rejected."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import PurePosixPath

from PIL import Image

#: Raised whenever more images can be read: those that an older reader has set aside are then tried again.
READER_VERSION = 1

#: Lower-case suffixes of the files that ``decode_image`` reads.
IMAGE_SUFFIXES: frozenset[str] = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif"}
)

#: Pillow's names of those formats, in the order in which they are tried.
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF")

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
        code: ``empty``, ``not_an_image``, ``mislabelled`` (not an image, but named like one),
            ``unsupported_format``, ``truncated``, ``too_large``, ``damaged``, ``no_resolution``; where images
            are decoded in workers also ``crashed`` and ``timeout``.
        detail: one sentence for people.
    """

    def __init__(self, code: str, detail: str) -> None:
        self.code = code
        self.detail = detail
        super().__init__(f"{code}: {detail}")

    def __reduce__(self) -> tuple[type[ImageRejectedError], tuple[str, str]]:
        """Makes it possible to pickle the error."""
        return type(self), (self.code, self.detail)


@contextmanager
def rejecting(data: bytes, kind: str, name: str) -> Iterator[None]:
    """Turns any exception of a reader into a rejection.

    Args:
        data: the whole file.
        kind: the format that it is read as, of ``FORMATS``.
        name: the file's name or key.

    Raises:
        ImageRejectedError: for any exception inside the context.
    """
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


def _failure(data: bytes, kind: str, name: str, error: Exception) -> ImageRejectedError:
    what, _ = _identify(data)
    if what == "text":  # "BM" starts words as well as bitmaps
        return not_an_image(data, name)
    ended = re.search("truncated|but only got|requires a buffer", str(error), re.IGNORECASE)
    if ended or isinstance(error, EOFError) or _ends_early(data, kind):
        return ImageRejectedError("truncated", f"The {kind} file ends early, after {len(data):,} bytes.")
    return ImageRejectedError("damaged", f"The {kind} file cannot be decoded: {_words(error)}.")


def _words(error: BaseException) -> str:
    words = " ".join(str(error).split()).rstrip(".")[:200]
    # Some of Pillow's messages are bare keys of tables, which tell people nothing.
    return words if re.search("[A-Za-z]{3}", words) else f"its structure is broken {words}".strip()


def _ends_early(data: bytes, kind: str) -> bool:
    """Whether a file that failed to decode lacks its end."""
    little, size = data[:1] != b"M", len(data)
    return {
        "JPEG": b"\xff\xd9" not in data[-4096:],
        "PNG": b"IEND" not in data[-64:],
        "GIF": not data.rstrip(b"\0").endswith(b";"),
        "WEBP": int.from_bytes(data[4:8], "little") + 8 > size,
        "BMP": int.from_bytes(data[2:6], "little") > size,
        "TIFF": int.from_bytes(data[4:8], "little" if little else "big") + 14 > size,
    }[kind]


def not_an_image(data: bytes, name: str) -> ImageRejectedError:
    """Makes the rejection of bytes in none of the formats."""
    what, is_image = _identify(data)
    if is_image:
        return ImageRejectedError(
            "unsupported_format", f"The file is {what}; supported are {', '.join(FORMATS)}."
        )
    suffix = PurePosixPath(name).suffix.lower()
    if suffix in IMAGE_SUFFIXES:
        return ImageRejectedError("mislabelled", f"The file is named {suffix} but holds {what}.")
    return ImageRejectedError("not_an_image", f"The file is not an image; it holds {what}.")


def _identify(data: bytes) -> tuple[str, bool]:
    """Names content in none of the formats, and whether it is an image in another one."""
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
    try:  # incrementally: the excerpt may end within a character
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return False
    return re.search(rb"[\x00-\x08\x0e-\x1f]", head) is None
