"""Output names from source keys: keys are data, names must be safe and never collide.

Every byte of a character outside ``A-Z a-z 0-9 . _ -`` becomes ``~`` and two hex digits (``~`` is not special in
URLs, unlike ``%``). A leading dot is encoded, too, so the result is never ``..`` or a hidden file; so are a
trailing dot, which Windows drops, and the first letter of the name of a Windows device. Long names keep their
beginning and get ``~~`` and a digest of the whole name, which no other encoded name contains.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable
from typing import Any

MAX_SEGMENT = 120  # characters; file systems allow 255 bytes, and suffixes follow
MAX_KEY = 600  # characters; object stores allow 1,024 bytes for the whole key

_UNSAFE = re.compile(rb"[^A-Za-z0-9._-]")
#: Control characters (terminals obey them), lone surrogates, and marks that reverse or hide text. Joiners are
#: allowed: emoji need them.
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
    """Writes lone surrogates, which names in file systems and archives may have, as escapes.

    In texts with surrogates or with what looks like such an escape, backslashes are doubled, so that distinct
    texts give distinct results.
    """
    if _SURROGATE.search(text):
        text = text.replace("\\", "\\\\")
    return text.encode("utf-8", "backslashreplace").decode()


def printable(text: str, keep: str = "") -> str:
    r"""Escapes control characters and marks that hide or reorder text, as JSON does (``\u001b``).

    Keys, prompts and messages of servers are other people's data: shown raw, they could clear a screen or forge
    a line of a log. Logins and signatures of URIs are redacted.

    Args:
        text: to show.
        keep: characters to leave as they are, such as a newline.
    """
    return _UNPRINTABLE.sub(
        lambda match: match[0] if match[0] in keep else f"\\u{ord(match[0]):04x}", redacted(text)
    )


#: A login in a URI's authority; names of hosts have no "@". Also "s3://key:secret@bucket".
_LOGIN = re.compile(r"(?<=://)[^/?#\s'\"<>]*@")
#: Parameters that are a key or a signature: S3 (V2 and V4), Azure SAS, Google, and what others call theirs.
_SIGNED = re.compile(
    r"(?i)([?&;#](?:amp;)?(?:x-(?:amz|goog)-(?:signature|credential|security-token)|signature|sig|token|[a-z0-9_.-]*[_-]token"
    r"|awsaccesskeyid|googleaccessid|[a-z_-]*(?:password|passwd|secret|api_?-?key|access_?-?key)[a-z_-]*|auth|key-pair-id"
    r"|policy|code|pwd)=)[^&\s'\"<>#;]*"
)
REDACTED = "***"
MAX_SHOWN = 2_000  # characters of a message, a place or a line of a log


def redacted(text: str) -> str:
    """Replaces logins and signatures of the URIs in a text by ``***``.

    >>> redacted("https://ann:pw@host/a.zip?sig=abc&part=1")
    'https://***@host/a.zip?sig=***&part=1'
    """
    if "://" in text:
        text = _LOGIN.sub(f"{REDACTED}@", text)
    if "=" in text:
        text = _SIGNED.sub(rf"\1{REDACTED}", text)
    return text


def shown(text: str, limit: int = MAX_SHOWN) -> str:
    """A text for a message: redacted, and no longer than ``limit``, with its middle left out."""
    if len(text) > limit + 4096:  # what follows takes time that grows with the length
        text = f"{text[: limit + 2048]}{text[-2048:]}"
    text = redacted(text)
    return text if len(text) <= limit else f"{text[: limit * 2 // 3]}…{text[-(limit // 3 - 1) :]}"


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
        return f"{_without_half_escape(encoded[: MAX_SEGMENT - 18])}~~{digest(raw)}"
    return encoded


def safe_key(key: str) -> str:
    """Encodes a slash-separated key segment by segment; distinct keys give distinct results."""
    segments = [safe_segment(segment) for segment in key.split("/")]
    encoded = "/".join(segments)
    if len(encoded) <= MAX_KEY:
        return encoded
    # The first segments, a digest, and the last segment. No other name has a segment that begins with two tildes.
    head = encoded[: MAX_KEY - MAX_SEGMENT - 36].rpartition("/")[0]
    return f"{head}/~~{digest(key, 32)}/{segments[-1]}"


def _without_half_escape(encoded: str) -> str:
    """Removes an escape at the end that a truncation has cut."""
    return re.sub(r"~[0-9A-F]?$", "", encoded)


def distinct_segments(texts: Iterable[str]) -> list[str]:
    """Encodes the names of one folder; the results differ in more than case, for file systems that ignore it."""
    names = {text: safe_segment(text) for text in texts}
    shared = Counter(name.lower() for name in names.values())
    return [
        name
        if shared[name.lower()] == 1
        else f"{_without_half_escape(name[: MAX_SEGMENT - 18])}~~{digest(text)}"
        for text, name in names.items()
    ]


def image_folder(key: str, version: str) -> str:
    """The folder of the masks of one version of a source, below ``masks/``.

    The digest covers key and version: a replaced image gets new names, and names that differ only in case stay
    apart on file systems that ignore case.
    """
    return f"{safe_key(key)}/{digest([key, version], 12)}"
