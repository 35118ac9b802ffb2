"""Decoding: every color mode, every rejection, and never any other exception."""

from __future__ import annotations

import io
import random
import struct
import warnings
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageFile
from PIL.ExifTags import Base as ExifTag

from clipseg_kfp.images.decode import (
    IMAGE_SUFFIXES,
    ImageRejectedError,
    decode_image,
    open_image,
    preview_jpeg,
    to_model_input,
)


def encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def decode(image: Image.Image, kind: str, **options: Any) -> NDArray[np.int64]:
    """Encodes and decodes; checks what holds for every result."""
    result = decode_image(encode(image, kind, **options))
    assert type(result) is Image.Image
    assert result.mode == "RGB"
    assert result.info == {}
    return np.asarray(result, dtype=np.int64)


def rejection(data: bytes, name: str = "", **options: Any) -> ImageRejectedError:
    with pytest.raises(ImageRejectedError) as caught:
        decode_image(data, name, **options)
    assert caught.value.detail.endswith(".")
    assert caught.value.code in str(caught.value)
    return caught.value


def noise(width: int = 20, height: int = 12) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def quadrants() -> Image.Image:
    """48 x 32, four colors in blocks that JPEG keeps apart: no two orientations look the same."""
    image = Image.new("RGB", (48, 32), (200, 40, 40))
    image.paste((40, 200, 40), (24, 0, 48, 16))
    image.paste((40, 40, 200), (0, 16, 24, 32))
    image.paste((220, 220, 220), (24, 16, 48, 32))
    return image


# --- formats and modes --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "options"),
    [("PNG", {}), ("BMP", {}), ("TIFF", {}), ("TIFF", {"compression": "tiff_lzw"}),
     ("TIFF", {"compression": "tiff_adobe_deflate"}), ("WEBP", {"lossless": True})],
)  # fmt: skip
def test_lossless_formats_come_back_exactly(kind: str, options: dict[str, Any]) -> None:
    assert np.array_equal(decode(noise(), kind, **options), np.asarray(noise()))


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_lossy_formats_come_back_nearly(kind: str) -> None:
    assert np.abs(decode(quadrants(), kind, quality=95) - np.asarray(quadrants())).mean() < 4


def test_the_content_decides_not_the_name() -> None:
    data = encode(quadrants(), "JPEG")
    assert decode_image(data, "photo.png").tobytes() == decode_image(data, "photo.jpg").tobytes()
    assert decode_image(data, "photo.txt").size == (48, 32)


@pytest.mark.parametrize("mode", ["1", "L"])
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP", "GIF"])
def test_bilevel_and_gray(mode: str, kind: str) -> None:
    image = noise().convert(mode)
    assert np.array_equal(decode(image, kind), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_gray_is_scaled_not_clipped(kind: str) -> None:
    ramp = np.arange(0, 65536, 257, dtype=np.uint16).reshape(16, 16)
    pixels = decode(Image.fromarray(ramp), kind)
    assert np.array_equal(pixels[..., 0].ravel(), np.arange(256))


def test_16_bit_gray_tiff_where_zero_is_white() -> None:
    ramp = np.arange(0, 65536, 257, dtype=np.uint16).reshape(16, 16)
    pixels = decode(Image.fromarray(ramp), "TIFF", tiffinfo={262: 0})
    assert np.array_equal(pixels[..., 0].ravel(), np.arange(256)[::-1])


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([[0, 100, 255]], np.int32), [0, 100, 255]),
        (np.array([[0, 25700, 65535]], np.int32), [0, 100, 255]),
        (np.array([[-1000, 0, 1000]], np.int32), [0, 128, 255]),
        (np.array([[0.0, 0.4, 1.0]], np.float32), [0, 102, 255]),
        (np.array([[0.0, 100.0, 255.0]], np.float32), [0, 100, 255]),
        (np.array([[-2.0, 0.5, 8.0]], np.float32), [0, 64, 255]),
        (np.array([[np.nan, 0.4, np.inf]], np.float32), [0, 102, 255]),
        (np.array([[np.nan, np.nan, np.nan]], np.float32), [0, 0, 0]),
        (np.array([[-3.0, -3.0, -3.0]], np.float32), [0, 0, 0]),
    ],
)
def test_32_bit_integers_and_floats(values: NDArray[Any], expected: list[int]) -> None:
    assert np.abs(decode(Image.fromarray(values), "TIFF")[0, :, 0] - expected).max() <= 1


def png_chunk(kind: bytes, body: bytes) -> bytes:
    crc = struct.pack(">I", zlib.crc32(kind + body))
    return struct.pack(">I", len(body)) + kind + body + crc


def raw_png(
    width: int, height: int, depth: int, color: int, rows: bytes, *chunks: tuple[bytes, bytes]
) -> bytes:
    """A PNG written by hand; ``rows`` include each row's filter byte."""
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    body = (*chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    parts = [png_chunk(kind, content) for kind, content in ((b"IHDR", header), *body)]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def test_16_bit_rgb_png() -> None:
    pixels = struct.pack(">6H", 0, 25700, 65535, 51400, 257, 128 * 257)
    image = decode_image(raw_png(2, 1, 16, 2, b"\0" + pixels))
    assert np.asarray(image).tolist() == [[[0, 100, 255], [200, 1, 128]]]


@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("color", [0, 2])
def test_a_png_with_one_transparent_color_decodes(depth: int, color: int) -> None:
    samples = 3 if color == 2 else 1
    key = struct.pack(f">{samples}H", *[7] * samples)
    rows = b"\0" + bytes(2 * samples * depth // 8)
    assert decode_image(raw_png(2, 1, depth, color, rows, (b"tRNS", key))).mode == "RGB"


def test_transparent_color_becomes_white() -> None:
    rows = b"\0" + bytes([7, 7, 7, 9, 9, 9])
    image = decode_image(raw_png(2, 1, 8, 2, rows, (b"tRNS", struct.pack(">3H", 7, 7, 7))))
    assert np.asarray(image).tolist() == [[[255] * 3, [9] * 3]]


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_alpha_is_laid_over_white(kind: str) -> None:
    image = Image.new("RGBA", (3, 1))
    for x, alpha in enumerate((0, 128, 255)):
        image.putpixel((x, 0), (200, 0, 0, alpha))
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    expected = [[255, 255, 255], [227, 127, 127], [200, 0, 0]]
    assert np.abs(decode(image, kind, **options)[0] - expected).max() <= 1


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_gray_with_alpha(kind: str) -> None:
    image = Image.new("LA", (2, 1), (50, 255))
    image.putpixel((1, 0), (50, 0))
    assert decode(image, kind).tolist() == [[[50, 50, 50], [255, 255, 255]]]


@pytest.mark.parametrize("transparency", [1, bytes([255, 0, 255])])
def test_palette_with_transparency(transparency: int | bytes) -> None:
    image = Image.new("P", (3, 1))
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    for x in range(3):
        image.putpixel((x, 0), x)
    pixels = decode(image, "PNG", transparency=transparency)
    assert pixels.tolist() == [[[255, 0, 0], [255, 255, 255], [0, 0, 255]]]


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_cmyk(kind: str) -> None:
    """Pillow writes CMYK JPEGs as Adobe does, inverted, with the marker that says so."""
    image = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    data = encode(image, kind)
    assert (b"Adobe" in data) == (kind == "JPEG")
    assert np.abs(np.asarray(decode_image(data), dtype=int) - [255, 0, 0]).max() <= 4


def test_lab_tiff() -> None:
    lab = ImageCms.profileToProfile(
        noise(), ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
    )
    assert lab is not None
    # Eight bits of Lab are coarse where colors are strong, so single pixels may be far off.
    assert np.abs(decode(lab, "TIFF") - np.asarray(noise())).mean() < 2


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_first_frame_of_several(kind: str) -> None:
    frames = [Image.new("RGB", (16, 16), color) for color in ("red", "lime", "blue")]
    pixels = decode(frames[0], kind, save_all=True, append_images=frames[1:])
    assert np.abs(pixels - [255, 0, 0]).max() <= 4


# --- orientation --------------------------------------------------------------------------------

# What a viewer has to do to the stored picture, written with arrays instead of with Pillow.
_VIEWER: dict[int, Callable[[NDArray[Any]], NDArray[Any]]] = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: np.rot90,
}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_exif_orientation(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[ExifTag.Orientation] = orientation
    expected = _VIEWER[orientation](np.asarray(quadrants(), dtype=int))
    pixels = decode(quadrants(), kind, exif=exif)
    assert pixels.shape == expected.shape
    assert np.abs(pixels - expected).mean() < 8


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_senseless_orientation_is_ignored(orientation: int) -> None:
    exif = Image.Exif()
    exif[ExifTag.Orientation] = orientation
    assert np.array_equal(decode(quadrants(), "PNG", exif=exif), np.asarray(quadrants()))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.parametrize("exif", [b"Exif\0\0garbage", b"Exif\0\0MM\0*\xff\xff\xff\xff"])
def test_broken_exif_is_survived(exif: bytes) -> None:
    assert decode(quadrants(), "JPEG", exif=exif).shape == (32, 48, 3)


# --- color profiles -----------------------------------------------------------------------------

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def icc_profile(kind: bytes, space: bytes, pcs: bytes, tags: dict[bytes, bytes]) -> bytes:
    """A minimal ICC version 2 profile."""
    offset, table, bodies = 132 + 12 * len(tags), b"", b""
    for name, body in tags.items():
        table += name + struct.pack(">II", offset + len(bodies), len(body))
        bodies += body + bytes(-len(body) % 4)
    rest = struct.pack(">I", len(tags)) + table + bodies
    header = struct.pack(">I4xI4s4s4s12x4s", 128 + len(rest), 0x02400000, kind, space, pcs, b"acsp")
    white = struct.pack(">3i", *(round(v * 65536) for v in (0.9642, 1.0, 0.8249)))
    return (header.ljust(68, b"\0") + white).ljust(128, b"\0") + rest


def test_srgb_profile_changes_nothing() -> None:
    assert np.abs(decode(noise(), "PNG", icc_profile=SRGB) - np.asarray(noise())).max() <= 1


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "JPEG"])
def test_other_rgb_profile_is_converted(kind: str) -> None:
    """In a profile whose red and blue primaries are exchanged, stored red means blue."""
    swapped = SRGB.replace(b"rXYZ", b"????").replace(b"bXYZ", b"rXYZ").replace(b"????", b"bXYZ")
    pixels = decode(Image.new("RGB", (16, 16), (255, 0, 0)), kind, icc_profile=swapped)
    assert np.abs(pixels - [0, 0, 255]).max() <= 6


def test_profile_and_alpha_together() -> None:
    swapped = SRGB.replace(b"rXYZ", b"????").replace(b"bXYZ", b"rXYZ").replace(b"????", b"bXYZ")
    image = Image.new("RGBA", (2, 1), (255, 0, 0, 255))
    image.putpixel((1, 0), (255, 0, 0, 0))
    pixels = decode(image, "PNG", icc_profile=swapped)
    assert np.abs(pixels[0] - [[0, 0, 255], [255, 255, 255]]).max() <= 2


@pytest.mark.parametrize("mode", ["L", "LA", "I;16"])
def test_gray_profile(mode: str) -> None:
    """A linear gray of one half is 188 in sRGB."""
    linear = icc_profile(b"mntr", b"GRAY", b"XYZ ", {b"kTRC": b"curv" + bytes(8)})
    if mode == "I;16":
        image = Image.fromarray(np.full((2, 2), 128 * 257, np.uint16))
    else:
        image = Image.new(mode, (2, 2), 128 if mode == "L" else (128, 255))
    assert np.abs(decode(image, "PNG", icc_profile=linear) - 188).max() <= 1


def test_cmyk_profile() -> None:
    """A profile of a printer with four gray inks: cyan at full strength is a light gray."""
    inks = np.indices((2, 2, 2, 2)).sum(axis=0).ravel()
    table = np.stack([255 - 60 * inks, 0 * inks + 128, 0 * inks + 128], axis=1).astype(np.uint8)
    ramp = bytes(range(256))
    identity = struct.pack(">9i", *(65536 * (i % 4 == 0) for i in range(9)))
    lut = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + identity
    profile = icc_profile(b"prtr", b"CMYK", b"Lab ", {b"A2B0": lut + ramp * 4 + table.tobytes() + ramp * 3})
    cyan = Image.new("CMYK", (16, 16), (255, 0, 0, 0))
    for kind in ("JPEG", "TIFF"):
        plain, converted = decode(cyan, kind), decode(cyan, kind, icc_profile=profile)
        assert np.ptp(plain[8, 8]) > 200
        assert np.ptp(converted[8, 8]) <= 4
        assert 150 < converted[8, 8, 0] < 220


@pytest.mark.parametrize(
    "profile",
    [b"garbage", SRGB[:200], SRGB[:-300] + bytes(300), bytes(128), SRGB.replace(b"RGB ", b"CMYK")],
)
def test_broken_profile_is_survived(profile: bytes) -> None:
    assert np.array_equal(decode(noise(), "PNG", icc_profile=profile), np.asarray(noise()))


def test_profile_of_another_color_space_is_ignored() -> None:
    cmyk = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    assert np.abs(decode(cmyk, "JPEG", icc_profile=SRGB) - [255, 0, 0]).max() <= 4


# --- rejections ---------------------------------------------------------------------------------


def test_empty() -> None:
    assert rejection(b"", "a.jpg").code == "empty"


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"just some notes\n", "text"),
        ("Grüße, мир, 画像 ".encode() * 200, "text"),
        (b"BMW is a maker of cars, and BM begins a bitmap", "text"),
        (b"\n<!DOCTYPE html><html><body>404</body></html>", "HTML"),
        (b'\xef\xbb\xbf<?xml version="1.0"?><Error><Code>NoSuchKey</Code></Error>', "XML"),
        (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3", "PDF"),
        (b"PK\x03\x04\x14\0\0\0", "a ZIP archive"),
        (b"PAR1\x15\x04\x15\x10", "Parquet"),
        (b"\0\0\0\x18ftypisom\0\0\x02\0", "a video"),
        (bytes(64), "unknown data"),
        (bytes(range(128, 256)), "unknown data"),
    ],
)
def test_content_that_is_no_image(data: bytes, what: str) -> None:
    error = rejection(data, "images/photo.PNG")
    assert error.code == "mislabelled" and ".png" in error.detail and what in error.detail
    error = rejection(data, "images/photo.dat")
    assert error.code == "not_an_image" and what in error.detail


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
        (b"8BPS\0\1\0\0\0\0\0\0\0\3\0\0\0\1", "Photoshop"),
        (b"\xff\x0a\xfa\x7f", "JPEG XL"),
        (b"P7\nWIDTH 1\nHEIGHT 1\n", "PAM"),
        (encode(noise(), "EPS"), "PostScript"),
    ],
)
def test_unsupported_formats(data: bytes, what: str) -> None:
    error = rejection(data, "photo.jpg")
    assert error.code == "unsupported_format"
    assert what in error.detail


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF"])
@pytest.mark.parametrize("part", [0.2, 0.5, 0.9])
def test_truncated(kind: str, part: float) -> None:
    data = encode(noise(64, 48), kind)
    assert rejection(data[: int(len(data) * part)], "photo.jpg").code == "truncated"
    assert rejection(data[:16]).code == "truncated"


def test_damaged() -> None:
    data = encode(noise(), "PNG")
    broken = data.replace(b"IDAT", b"IDAX")
    error = rejection(broken, "a.png")
    assert error.code == "damaged"
    assert "PNG" in error.detail
    assert rejection(raw_png(0, 5, 8, 2, b"")).code == "damaged"


def jpeg_bomb() -> bytes:
    data = encode(noise(), "JPEG")
    at = data.index(b"\xff\xc0") + 5
    return data[:at] + b"\xff\xff\xff\xff" + data[at + 4 :]


def tiff_bomb() -> bytes:
    tags = [(256, 4, 90_000), (257, 4, 90_000), (258, 3, 8), (259, 3, 1), (262, 3, 1), (273, 4, 8),
            (277, 3, 1), (278, 4, 90_000), (279, 4, 100)]  # fmt: skip
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + entries + bytes(200)


def bmp_bomb() -> bytes:
    data = encode(noise(), "BMP")
    return data[:18] + struct.pack("<ii", 80_000, 80_000) + data[26:]


def gif_bomb() -> bytes:
    data = encode(noise(), "GIF")
    return data[:6] + b"\xff\xff\xff\xff" + data[10:]


def webp_bomb() -> bytes:
    canvas = b"VP8X" + struct.pack("<I", 10) + bytes(4) + (16382).to_bytes(3, "little") * 2
    data = canvas + encode(noise(), "WEBP", lossless=True)[12:]
    return b"RIFF" + struct.pack("<I", len(data) + 4) + b"WEBP" + data


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "data",
    [
        raw_png(2**31 - 1, 2**31 - 1, 8, 2, bytes(100)),
        raw_png(12_000, 9_000, 8, 2, bytes(100)),
        raw_png(60_000, 1_000, 1, 0, bytes(100)),
        jpeg_bomb(),
        tiff_bomb(),
        bmp_bomb(),
        gif_bomb(),
        webp_bomb(),
    ],
    ids=["png-huge", "png-108M", "png-60M", "jpeg", "tiff", "bmp", "gif", "webp"],
)
def test_bombs_are_rejected_by_their_header(data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(self: ImageFile.ImageFile) -> None:
        raise AssertionError("decoded a bomb")  # would be reported as damaged

    monkeypatch.setattr(ImageFile.ImageFile, "load", load)
    assert rejection(data, "bomb.png").code == "too_large"


def test_the_limit_is_exact() -> None:
    data = encode(noise(20, 12), "PNG")
    assert decode_image(data, max_pixels=240).size == (20, 12)
    assert rejection(data, max_pixels=239).code == "too_large"


def test_limits_above_pillows_own_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decode_image(encode(noise(20, 12), "PNG")).size == (20, 12)
    assert Image.MAX_IMAGE_PIXELS == 100


def test_an_opened_image_tells_its_size_and_what_it_will_take() -> None:
    plain = open_image(encode(noise(20, 12), "JPEG"))
    assert (plain.width, plain.height, plain.peak_bytes) == (20, 12, 240 * 9)
    assert open_image(encode(noise(20, 12).convert("CMYK"), "JPEG")).peak_bytes == 240 * 13
    assert open_image(encode(noise(20, 12), "JPEG", progressive=True)).peak_bytes == 240 * 13
    assert plain.decode().size == (20, 12)
    with pytest.raises(RuntimeError):
        plain.decode()


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32])
def test_bands_of_wide_values_join_without_a_seam(dtype: type, monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.arange(70 * 31, dtype=dtype).reshape(70, 31) * dtype(30)
    data = encode(Image.fromarray(values), "TIFF")
    whole = np.asarray(decode_image(data))
    monkeypatch.setattr("clipseg_kfp.images.colors._BAND_PIXELS", 100)  # three rows, and one left at the end
    assert np.array_equal(np.asarray(decode_image(data)), whole)


def test_no_global_setting_changes() -> None:
    before = (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, list(warnings.filters))
    decode_image(encode(noise(), "PNG"))
    rejection(raw_png(60_000, 60_000, 8, 2, bytes(100)))
    rejection(encode(noise(), "JPEG")[:300])
    assert before == (
        Image.MAX_IMAGE_PIXELS,
        ImageFile.LOAD_TRUNCATED_IMAGES,
        list(warnings.filters),
    )


@pytest.mark.parametrize(
    "error", [MemoryError(), OverflowError("x"), struct.error("x"), zlib.error("x"), EOFError()]
)
def test_whatever_the_reader_raises(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(self: ImageFile.ImageFile) -> None:
        raise error

    monkeypatch.setattr(ImageFile.ImageFile, "load", load)
    codes = {MemoryError: "too_large", EOFError: "truncated"}
    caught = rejection(encode(noise(), "JPEG"))
    assert caught.code == codes.get(type(error), "damaged")
    assert caught.__cause__ is error


SEEDS = {
    "JPEG": encode(quadrants(), "JPEG", icc_profile=SRGB, exif=b"Exif\0\0MM\0*\0\0\0\x08\0\0"),
    "PNG": encode(quadrants().convert("RGBA"), "PNG", icc_profile=SRGB),
    "WEBP": encode(quadrants(), "WEBP"),
    "TIFF": encode(quadrants(), "TIFF", compression="tiff_lzw"),
    "TIFF16": encode(Image.fromarray(np.arange(99, dtype=np.uint16).reshape(9, 11)), "TIFF"),
    "GIF": encode(quadrants(), "GIF", save_all=True, append_images=[noise(48, 32)]),
    "BMP": encode(quadrants(), "BMP"),
}


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=60, deadline=None, derandomize=True)
@given(kind=st.sampled_from(sorted(SEEDS)), seed=st.integers(0, 2**32), header=st.booleans())
def test_damage_gives_rgb_or_a_rejection(kind: str, seed: int, header: bool) -> None:
    rng = random.Random(seed)
    data = bytearray(SEEDS[kind])
    reach = min(128, len(data)) if header else len(data)
    for _ in range(rng.randint(1, 8)):
        data[rng.randrange(reach)] = rng.randrange(256)
    if rng.random() < 0.4:
        del data[rng.randrange(len(data)) :]
    try:
        image = decode_image(bytes(data), "x.jpg", max_pixels=4_000_000)
    except ImageRejectedError as error:
        assert error.detail
    else:
        assert image.mode == "RGB"
        assert len(image.tobytes()) == 3 * image.width * image.height


# --- model input and previews -------------------------------------------------------------------


@pytest.mark.parametrize("size", [160, 352])
@pytest.mark.parametrize("shape", [(48, 32), (500, 333), (352, 352), (1, 700)])
def test_model_input_matches_transformers(size: int, shape: tuple[int, int]) -> None:
    processors = pytest.importorskip("transformers")
    processor = processors.ViTImageProcessorPil(
        size={"height": size, "width": size}, resample=Image.Resampling.BILINEAR
    )
    image = noise(*shape)
    expected = processor(image, return_tensors="np")["pixel_values"][0]
    got = to_model_input(image, size)
    assert got.shape == (size, size, 3)
    assert got.dtype.name == "uint8"
    scaled = (got / 255 - np.array(processor.image_mean)) / np.array(processor.image_std)
    assert np.abs(scaled.transpose(2, 0, 1) - expected).max() < 1e-6


def test_model_input_owns_writable_pixels_and_takes_rgb_only() -> None:
    assert to_model_input(noise(), 20).flags.writeable
    with pytest.raises(ValueError):
        to_model_input(noise().convert("L"), 20)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((1024, 768), (512, 384)),
        ((300, 2000), (77, 512)),
        ((40, 30), (40, 30)),
        ((5000, 2), (512, 1)),
    ],
)
def test_previews(size: tuple[int, int], expected: tuple[int, int]) -> None:
    image = noise(*size)
    preview = Image.open(io.BytesIO(preview_jpeg(image)))
    assert (preview.format, preview.mode, preview.size) == ("JPEG", "RGB", expected)
    assert image.size == size


def test_suffixes() -> None:
    assert all(suffix.startswith(".") and suffix == suffix.lower() for suffix in IMAGE_SUFFIXES)
    assert {".jpg", ".png", ".webp", ".tiff", ".bmp", ".gif"} <= IMAGE_SUFFIXES
