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

#: Lower-case suffixes of the files that ``decode_image`` reads, by format (Pillow's names, in the order in which they
#: are tried). MPO is read as the JPEG that it begins with.
SUFFIXES: dict[str, tuple[str, ...]] = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    "PNG": (".png", ".apng"),
    "WEBP": (".webp",),
    "TIFF": (".tif", ".tiff"),
    "BMP": (".bmp", ".dib"),
    "GIF": (".gif",),
    "AVIF": (".avif",),
    "HEIF": (".heic", ".heif", ".hif"),
    "JPEG2000": (".jp2", ".j2k", ".j2c", ".jpc", ".jpx", ".jpf"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "ICO": (".ico",),
    "TGA": (".tga",),
}
FORMATS = tuple(SUFFIXES)

#: All of them. Files with other suffixes are not images to the suite.
IMAGE_SUFFIXES: frozenset[str] = frozenset(suffix for suffixes in SUFFIXES.values() for suffix in suffixes)

# First bytes, what they are, and whether that is an image.
_SIGNATURES: tuple[tuple[bytes, str, bool], ...] = (
    (b"\x00\x00\x00\x0cJXL", "JPEG XL", True),
    (b"\xff\x0a", "JPEG XL", True),
    (b"8BPS", "Photoshop", True),
    (b"%!PS", "PostScript", True),
    (b"%PDF", "PDF", False),
    (b"PK\x03\x04", "a ZIP archive", False),
    (b"\x1f\x8b", "gzip data", False),
    (b"PAR1", "Parquet", False),
    (b"\x93NUMPY", "a NumPy array", False),
    (b"\x1a\x45\xdf\xa3", "a video", False),
)
_AVIF_BRANDS = {b"avif", b"avis"}
_HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"}
_TGA_FOOTER = b"TRUEVISION-XFILE.\x00"


def accepts(kind: str, data: bytes, name: str) -> bool:
    """Whether a file's first bytes are of a format.

    The content alone decides, but for TGA: that has no signature in its first version, so the name decides where the
    footer of the second is missing.

    Args:
        kind: of ``FORMATS``.
        data: the whole file.
        name: the file's name or key.
    """
    if kind in ("AVIF", "HEIF"):
        return _iso_kind(data) == kind
    if kind == "PPM":
        return re.match(rb"P[1-6fF]\s+[#0-9]", data[:32]) is not None
    if kind == "TGA":
        return data.endswith(_TGA_FOOTER) or PurePosixPath(name).suffix.lower() in SUFFIXES["TGA"]
    accept = Image.OPEN[kind][1]
    return accept is None or accept(data[:16]) is True


def _iso_kind(data: bytes) -> str:
    """AVIF or HEIF, by the brands of the first box; empty for anything else (videos have the same box)."""
    if data[4:8] != b"ftyp":
        return ""
    end = min(int.from_bytes(data[:4], "big"), 256)
    brands = [data[8:12], *(data[i : i + 4] for i in range(16, end - 3, 4))]
    if brands[0] in _AVIF_BRANDS or (brands[0] in _HEIF_BRANDS and _AVIF_BRANDS & set(brands)):
        return "AVIF"
    return "HEIF" if brands[0] in _HEIF_BRANDS else ""


class ImageRejectedError(Exception):
    """Bytes that cannot be used as an image.

    Attributes:
        code: ``empty``, ``not_an_image``, ``mislabelled`` (not an image, but named like one),
            ``unsupported_format``, ``truncated``, ``too_large``, ``damaged``, ``no_resolution``,
            ``failed`` (decoded, but too odd for what comes next); where images are decoded in workers also
            ``crashed`` and ``timeout``.
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
    guessed = kind == "TGA" and not data.endswith(_TGA_FOOTER)  # by its name alone
    if (what == "text" and kind == "BMP") or (guessed and what != "unknown data"):
        return not_an_image(data, name)  # "BM" starts words as well as bitmaps
    ended = re.search("truncated|but only got|requires a buffer", str(error), re.IGNORECASE)
    if ended or isinstance(error, EOFError) or _ends_early(data, kind):
        return ImageRejectedError("truncated", f"The {kind} file ends early, after {len(data):,} bytes.")
    if re.search("unsupported|not supported|unknown pixel mode", str(error), re.IGNORECASE):
        return ImageRejectedError("unsupported_format", f"This kind of {kind} is not read: {_words(error)}.")
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
    }.get(kind, False)


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
        return "a video", False
    for magic, what, is_image in _SIGNATURES:
        if head.startswith(magic):
            return what, is_image
    if head.startswith(b"P7\n"):
        return "PAM", True
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
