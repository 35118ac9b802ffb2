"""PNG: metadata never makes pixels unreadable, and transparency of every kind goes over white."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms
from PIL.PngImagePlugin import PngInfo

from clipseg_kfp.images import guarded
from clipseg_kfp.images.decode import ImageRejectedError, decode_image, open_image

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def chunk(name: bytes, content: bytes, *, sound: bool = True) -> bytes:
    checksum = zlib.crc32(name + content) ^ (not sound)
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", checksum)


def png(width: int, depth: int, color: int, row: bytes, *chunks: bytes, behind: bytes = b"") -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, 1, depth, color, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(b"\0" + row)) + behind + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + pixels


def rgb(*chunks: bytes, behind: bytes = b"") -> list[Any]:
    return list(
        np.asarray(decode_image(png(2, 8, 2, bytes([9, 8, 7, 200, 100, 50]), *chunks, behind=behind)))[
            0
        ].tolist()
    )


BROKEN = {
    "iCCP without end": chunk(b"iCCP", b"name"),
    "iCCP no zlib": chunk(b"iCCP", b"name\0\0not packed"),
    "iCCP no profile": chunk(b"iCCP", b"name\0\0" + zlib.compress(bytes(500))),
    "iCCP method": chunk(b"iCCP", b"name\0\7" + zlib.compress(SRGB)),
    "iCCP empty": chunk(b"iCCP", b""),
    "iCCP of 100 MB": chunk(b"iCCP", b"name\0\0" + zlib.compress(bytes(100_000_000), 9)),
    "iCCP CRC": chunk(b"iCCP", b"name\0\0" + zlib.compress(SRGB), sound=False),
    "sRGB": chunk(b"sRGB", b""),
    "cHRM": chunk(b"cHRM", b"\0\1"),
    "gAMA": chunk(b"gAMA", b""),
    "pHYs": chunk(b"pHYs", b"\0"),
    "pHYs CRC": chunk(b"pHYs", bytes(9), sound=False),
    "zTXt": chunk(b"zTXt", b"key\0\0not packed"),
    "zTXt of 100 MB": chunk(b"zTXt", b"key\0\0" + zlib.compress(bytes(100_000_000), 9)),
    "tEXt CRC": chunk(b"tEXt", b"key\0text", sound=False),
    "iTXt": chunk(b"iTXt", b"key"),
    "eXIf": chunk(b"eXIf", b"\xff\xff"),
    "eXIf CRC": chunk(b"eXIf", b"MM", sound=False),
    "tIME": chunk(b"tIME", b""),
    "acTL": chunk(b"acTL", b"\0"),
    "private": chunk(b"prVt", bytes(3_000_000)),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_metadata(name: str) -> None:
    assert rgb(BROKEN[name]) == [[9, 8, 7], [200, 100, 50]]
    assert rgb(behind=BROKEN[name]) == [[9, 8, 7], [200, 100, 50]]


def test_large_metadata_in_a_worker() -> None:
    text = PngInfo()
    text.add_text("parameters", "x" * 90_000_000, zip=True)
    buffer = io.BytesIO()
    Image.new("RGB", (30, 20), "red").save(buffer, "PNG", pnginfo=text, icc_profile=SRGB + bytes(5_000_000))
    assert guarded.decode_image(buffer.getvalue()).size == (30, 20)


def test_a_profile_is_applied_whatever_its_size() -> None:
    lab_like = ImageCms.createProfile("XYZ")
    small = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert ImageCms.ImageCmsProfile(lab_like)
    pixels = [
        np.asarray(decode_image(_saved(profile))).tolist() for profile in (small, small + bytes(2_000_000))
    ]
    assert pixels[0] == pixels[1]


def _saved(profile: bytes) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (2, 2), (200, 90, 10)).save(buffer, "PNG", icc_profile=profile)
    return buffer.getvalue()


@pytest.mark.parametrize("name", [b"IHDR", b"IDAT", b"PLTE"])
def test_damage_where_it_matters_is_damage(name: bytes) -> None:
    palette = chunk(b"PLTE", bytes(range(6)))
    data = bytearray(png(2, 8, 3, bytes([0, 1]), palette))
    data[data.index(name) + 4] ^= 1
    with pytest.raises(ImageRejectedError):
        decode_image(bytes(data))


@pytest.mark.parametrize(
    ("depth", "row", "key", "expected"),
    [(1, b"\x40", 1, [0, 255]), (2, b"\x60", 2, [85, 255]), (4, b"\x35", 5, [51, 255]),
     (8, b"\x10\x40", 0x40, [16, 255]), (16, b"\x10\x10\x40\x00", 0x4000, [16, 255]),
     (16, b"\x10\x10\x40\x01", 0x4000, [16, 64])],
)  # fmt: skip
def test_transparent_gray_goes_over_white(depth: int, row: bytes, key: int, expected: list[int]) -> None:
    data = png(2, depth, 0, row, chunk(b"tRNS", struct.pack(">H", key)))
    assert np.asarray(decode_image(data))[0].tolist() == [[value] * 3 for value in expected]


def test_opacity_of_gray_with_16_bits() -> None:
    data = png(2, 16, 0, b"\x10\x10\x40\x00", chunk(b"tRNS", b"\x40\x00"))
    opacity = open_image(data).opacity()
    assert opacity is not None and np.asarray(opacity).tolist() == [[255, 0]]


@pytest.mark.parametrize("depth", [8, 16])
def test_a_transparent_color_goes_over_white(depth: int) -> None:
    kind = ">u2" if depth == 16 else "u1"
    row = (np.array([1, 2, 3, 4, 5, 6]) * (257 if depth == 16 else 1)).astype(kind).tobytes()
    key = struct.pack(">HHH", *(value * (257 if depth == 16 else 1) for value in (4, 5, 6)))
    data = png(2, depth, 2, row, chunk(b"tRNS", key))
    assert np.asarray(decode_image(data))[0].tolist() == [[1, 2, 3], [255, 255, 255]]


@pytest.mark.parametrize(
    ("bits", "masks", "pixel", "expected"),
    [(16, (0xF800, 0x7E0, 0x1F, 0), 0xF800, (255, 0, 0)), (16, (0x7C00, 0x3E0, 0x1F, 0), 0x1F, (0, 0, 255)),
     (16, (0xF00, 0xF0, 0xF, 0), 0xF00, None), (32, (0x3FF00000, 0xFFC00, 0x3FF, 0), 0x3FF, None)],
)  # fmt: skip
def test_bit_fields_of_bmp(bits: int, masks: Any, pixel: int, expected: tuple[int, ...] | None) -> None:
    row = pixel.to_bytes(bits // 8, "little").ljust(4, b"\0")
    header = struct.pack("<IiiHHIIiiII4I", 56, 1, 1, 1, bits, 3, 4, 0, 0, 0, 0, *masks)
    data = b"BM" + struct.pack("<IHHI", 74, 0, 0, 70) + header + row
    if expected is not None:
        assert decode_image(data).getpixel((0, 0)) == expected
        return
    with pytest.raises(ImageRejectedError) as caught:
        decode_image(data)
    assert caught.value.code == "unsupported_format"
