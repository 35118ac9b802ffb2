"""PNG without the metadata that nobody needs here, and that must not make good pixels unreadable."""

from __future__ import annotations

import io
import zlib

from PIL import Image, PngImagePlugin

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
#: The chunks that decide pixels; all others can be left out. Damage in these is damage.
_NEEDED = {b"IHDR", b"PLTE", b"IDAT", b"IEND"}
#: What is used where it is sound.
_USED = {b"tRNS", b"eXIf"}
_PROFILE_BYTES = 16_000_000  # unpacked; larger ones are ignored


def open_png(data: bytes) -> Image.Image:
    """Reads the header; text, gamma, resolution and broken metadata are skipped.

    Args:
        data: the whole file.

    Raises:
        Exception: anything, for broken files.
    """
    kept, profile = _sorted_out(data)
    image = PngImagePlugin.PngImageFile(io.BytesIO(kept))
    if profile:
        image.info["icc_profile"] = profile
    key, depth, gray = image.info.get("transparency"), kept[24], kept[25] == 0
    if gray and isinstance(key, int) and depth in (2, 4):
        # Pillow stretches the pixels and not the value to compare with.
        image.info["transparency"] = key % 2**depth * (255 // (2**depth - 1))
    elif isinstance(key, tuple) and depth == 16:  # of which Pillow keeps 8 bits
        image.info["transparency"] = tuple(value >> 8 for value in key)
    return image


def _sorted_out(data: bytes) -> tuple[bytes, bytes]:
    """The file with no more than is used, and its color profile."""
    view, at, profile = memoryview(data), len(_SIGNATURE), b""
    parts, begun = [view[:at]], at  # runs of chunks that are kept
    while at + 12 <= len(data):
        end = at + 12 + int.from_bytes(view[at : at + 4], "big")
        name = bytes(view[at + 4 : at + 8])
        if name not in _NEEDED:
            if not name.isalpha() or end > len(data):
                break  # the structure is lost: the decoder says so
            sound = zlib.crc32(view[at + 4 : end - 4]) == int.from_bytes(view[end - 4 : end], "big")
            if name == b"iCCP" and sound and not profile:
                profile = _profile(bytes(view[at + 8 : end - 4]))
            if not (sound and name in _USED):
                parts.append(view[begun:at])
                begun = end
        at = end
    if begun == len(_SIGNATURE):
        return data, profile  # no copy, as of most files
    parts.append(view[begun:])
    return b"".join(parts), profile


def _profile(chunk: bytes) -> bytes:
    """Unpacks a color profile; empty where it is broken or too large."""
    packed = chunk[chunk.find(b"\0") + 2 :]  # behind the name and the method
    unpacking = zlib.decompressobj()
    try:
        profile = unpacking.decompress(packed, _PROFILE_BYTES)
    except zlib.error:
        return b""
    return profile if unpacking.eof else b""
