"""Output names from source keys: keys are data, names must be safe and never collide.

Every character outside ``A-Z a-z 0-9 . _ -`` becomes ``~`` and two hex digits a byte (``~`` is not
special in URLs, unlike ``%``). A leading dot is encoded too, so neither ``..`` nor a hidden file can come
out; so are a trailing one and the first letter of a device's name, which Windows would drop and take.
Names that grow too long keep their head and get a digest of the whole behind ``~~``, which no other
encoded name contains.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable
from typing import Any

MAX_SEGMENT = 120  # characters; file systems stop at 255 bytes, and suffixes come behind it
MAX_KEY = 600  # characters; object stores stop at 1,024 bytes for the whole key

_UNSAFE = re.compile(rb"[^A-Za-z0-9._-]")
#: Controls (terminals obey them), lone surrogates, and the marks that reverse or hide text. Joiners stay:
#: emoji need them.
_UNPRINTABLE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ufffe\uffff\ud800-\udfff]"
)
_SURROGATE = re.compile(r"[\ud800-\udfff]|\\ud[89a-f][0-9a-f]{2}")
# https://learn.microsoft.com/windows/win32/fileio/naming-a-file
_DEVICE = re.compile(r"(CON|PRN|AUX|NUL|COM[0-9]|LPT[0-9])(\.|$)", re.IGNORECASE)


def digest(value: Any, length: int = 16) -> str:
    """Returns the first ``length`` hex digits of the sha256 of bytes, text or a JSON value."""
    if isinstance(value, str):
        value = value.encode("utf-8", "surrogatepass")
    elif not isinstance(value, bytes | bytearray | memoryview):
        value = json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
    return hashlib.sha256(value).hexdigest()[:length]


def spell_out(text: str) -> str:
    """Writes lone surrogates, which names in file systems and archives may hold, as escapes.

    Where there are any, or what looks like one written out, backslashes are doubled: distinct texts stay so.
    """
    if _SURROGATE.search(text):
        text = text.replace("\\", "\\\\")
    return text.encode("utf-8", "backslashreplace").decode()


def printable(text: str, keep: str = "") -> str:
    r"""Spells out what a terminal would obey and what hides or reorders text, as JSON does (``\u001b``).

    Keys, prompts and messages of servers are other people's data: shown raw, they could clear a screen, set
    its title or forge a line of a log.

    Args:
        text: to show.
        keep: characters that stay, such as a newline.
    """
    return _UNPRINTABLE.sub(lambda found: found[0] if found[0] in keep else f"\\u{ord(found[0]):04x}", text)


def safe_segment(text: str) -> str:
    """Encodes one path segment; distinct texts give distinct results."""
    raw = text.encode("utf-8", "surrogatepass")
    encoded = _UNSAFE.sub(lambda match: b"~%02X" % match[0][0], raw).decode("ascii")
    if encoded.startswith(".") or _DEVICE.match(encoded):
        encoded = f"~{ord(encoded[0]):02X}{encoded[1:]}"
    if encoded.endswith("."):
        encoded = encoded[:-1] + "~2E"
    if not encoded:
        return "~"  # an empty segment, as in "a//b"; no encoded text is a lone tilde
    if len(encoded) > MAX_SEGMENT:
        return f"{_whole(encoded[: MAX_SEGMENT - 18])}~~{digest(raw)}"
    return encoded


def safe_key(key: str) -> str:
    """Encodes a slash-separated key segment by segment; distinct keys give distinct results."""
    segments = [safe_segment(segment) for segment in key.split("/")]
    encoded = "/".join(segments)
    if len(encoded) <= MAX_KEY:
        return encoded
    # Whole segments from the front, the last one, and a digest between them. No other name has a
    # segment that begins with two tildes.
    head = encoded[: MAX_KEY - MAX_SEGMENT - 36].rpartition("/")[0]
    return f"{head}/~~{digest(key, 32)}/{segments[-1]}"


def _whole(encoded: str) -> str:
    """Cuts an escape that a truncation has left half."""
    return re.sub(r"~[0-9A-F]?$", "", encoded)


def distinct_segments(texts: Iterable[str]) -> list[str]:
    """Encodes the names of one folder; they stay apart where case does not count, as on some file systems."""
    names = {text: safe_segment(text) for text in texts}
    shared = Counter(name.lower() for name in names.values())
    return [
        name if shared[name.lower()] == 1 else f"{_whole(name[: MAX_SEGMENT - 18])}~~{digest(text)}"
        for text, name in names.items()
    ]


def image_folder(key: str, version: str) -> str:
    """The folder of one source version's masks below ``masks/``.

    The digest covers key and version, so names that differ in case only stay apart on file systems that
    ignore case, and a replaced image gets new names.
    """
    return f"{safe_key(key)}/{digest([key, version], 12)}"
