"""Formats beside the usual ones: pixels, opacity and turns come out right, in a worker with its limits."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from clipseg_kfp.images import guarded
from clipseg_kfp.images.decode import IMAGE_SUFFIXES, ImageRejectedError, decode_image
from clipseg_kfp.images.formats import SUFFIXES

# 64 x 48, (200, 40, 30) above (20, 60, 220); written by libheif.
HEIC = base64.b64decode(
    "AAAAHGZ0eXBoZWljAAAAAG1pZjFoZWljbWlhZgAAAb5tZXRhAAAAAAAAACFoZGxyAAAAAAAAAABwaWN0AAAAAAAAAAAAAAAAAAAAADRpbG9jAA"
    "AAAERAAAIAAQAAAAAB4gABAAAAAAAAAC0AAgAAAAACDwABAAAAAAAAACQAAAA4aWluZgAAAAAAAgAAABVpbmZlAgAAAAABAABodmMxAAAAABVp"
    "bmZlAgAAAQACAABFeGlmAAAAAA5waXRtAAAAAAABAAAA/WlwcnAAAADdaXBjbwAAAHZodmNDAQNwAAAAkAAAAAAAHvAA/P34+AAADwNgAAEAGE"
    "ABDAH//wNwAAADAJAAAAMAAAMAHroCQGEAAQAqQgEBA3AAAAMAkAAAAwAAAwAeoCCBBZbq5Ka5uAhoMCAAAAMDIAAAAwAhYgABAAZEAcFzwIkA"
    "AAATY29scm5jbHgAAQANAAaAAAAAFGlzcGUAAAAAAAAAQAAAAEAAAAAoY2xhcAAAAEAAAAABAAAAMAAAAAEAAAAAAAAAAv////AAAAACAAAAEH"
    "BpeGkAAAAAAwgICAAAABhpcG1hAAAAAAAAAAEAAQWBAgMFhAAAABppcmVmAAAAAAAAAA5jZHNjAAIAAQABAAAAWW1kYXQAAAApKAGvCeAjNS3/"
    "7BP//nk8h5AAR07u/Uo/6bi7zYn/4wG19+knVVQecCAAAAAGRXhpZgAATU0AKgAAAAgAAQESAAMAAAABAAYAAAAAAAA="
)


def scene() -> Image.Image:
    image = Image.new("RGB", (64, 48), (200, 40, 30))
    image.paste((20, 60, 220), (0, 24, 64, 48))
    return image


def packed(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def pixels(data: bytes, name: str = "") -> NDArray[np.int64]:
    return np.asarray(decode_image(data, name), np.int64)


FILES = {
    ".avif": packed(scene(), "AVIF", quality=95),
    ".heic": HEIC,
    ".jp2": packed(scene(), "JPEG2000"),
    ".j2k": packed(scene(), "JPEG2000", no_jp2=True),
    ".mpo": packed(scene(), "MPO", quality=95, save_all=True, append_images=[Image.new("RGB", (64, 48))]),
    ".tga": packed(scene(), "TGA", compression="tga_rle"),
    ".ppm": packed(scene(), "PPM"),
    ".ico": packed(scene().resize((48, 48)), "ICO", sizes=[(16, 16), (48, 48)]),
}


@pytest.mark.parametrize("suffix", FILES)
def test_each_format_is_read_in_a_worker(suffix: str) -> None:
    image = guarded.decode_image(FILES[suffix], f"photo{suffix}")
    assert image.size == ((48, 48) if suffix == ".ico" else (64, 48))
    found = np.asarray(image, np.int64)
    assert np.abs(found[4, 4] - (200, 40, 30)).max() <= 6
    assert np.abs(found[-4, -4] - (20, 60, 220)).max() <= 6
    assert suffix in IMAGE_SUFFIXES


@pytest.mark.parametrize("suffix", sorted(set(FILES) - {".tga"}))
def test_the_name_does_not_decide(suffix: str) -> None:
    assert decode_image(FILES[suffix], "photo.jpg").size == decode_image(FILES[suffix], "photo").size


def test_tga_without_a_signature_goes_by_its_name() -> None:
    old = FILES[".tga"].removesuffix(b"TRUEVISION-XFILE.\0")
    assert decode_image(old, "a.TGA").size == (64, 48)
    with pytest.raises(ImageRejectedError) as caught:
        decode_image(old, "a.dat")
    assert caught.value.code == "not_an_image"


@pytest.mark.parametrize(
    "data", [b"This is a text and no picture at all.", b"%PDF-1.7 and more of it than a header"]
)
def test_what_is_only_named_tga(data: bytes) -> None:
    with pytest.raises(ImageRejectedError) as caught:
        decode_image(data, "a.tga")
    assert caught.value.code == "mislabelled"


def test_tga_whose_fourth_byte_is_padding_is_not_transparent() -> None:
    image = scene().convert("RGBA")
    image.putalpha(0)
    data = bytearray(packed(image, "TGA"))
    assert pixels(bytes(data), "a.tga")[4, 4].tolist() == [255, 255, 255]
    data[17] &= 0xF0
    assert pixels(bytes(data), "a.tga")[4, 4].tolist() == [200, 40, 30]


@pytest.mark.parametrize("kind", ["AVIF", "ICO", "TGA", "JPEG2000"])
def test_transparent_pixels_go_over_white(kind: str) -> None:
    image = Image.new("RGBA", (48, 48), (200, 40, 30, 0))
    assert pixels(packed(image, kind), "a.tga")[9, 9].tolist() == [255, 255, 255]


def test_a_dark_pgm_of_16_bits_stays_dark() -> None:
    data = b"P5 2 1 65535\n" + np.array([200, 100], ">u2").tobytes()
    assert pixels(data).max() <= 1
    data = b"P5 2 1 4095\n" + np.array([4095, 0], ">u2").tobytes()
    assert pixels(data)[0, :, 0].tolist() == [255, 0]


def test_text_that_begins_like_a_pnm_is_none() -> None:
    for text in (b"Pythons are snakes", b"P1 is a prompt", b"P5"):
        with pytest.raises(ImageRejectedError) as caught:
            decode_image(text, "a.txt")
        assert caught.value.code in ("not_an_image", "damaged", "truncated")


@pytest.mark.parametrize("suffix", sorted(set(FILES) - {".ico"}))
def test_damage_is_a_rejection(suffix: str) -> None:
    data = FILES[suffix]
    rng = np.random.default_rng(7)
    for _ in range(40):
        broken = bytearray(data[: rng.integers(20, len(data))])
        broken[int(rng.integers(len(broken)))] ^= 1 << int(rng.integers(8))
        try:
            decode_image(bytes(broken), f"a{suffix}", max_pixels=1_000_000)
        except ImageRejectedError as error:
            assert error.code in ("truncated", "damaged", "too_large", "mislabelled", "unsupported_format")


def test_a_video_is_none() -> None:
    with pytest.raises(ImageRejectedError) as caught:
        decode_image(b"\0\0\0\x18ftypisom\0\0\2\0isomiso2", "a.heic")
    assert caught.value.code == "mislabelled"


def test_each_suffix_belongs_to_one_format() -> None:
    assert sum(map(len, SUFFIXES.values())) == len(IMAGE_SUFFIXES)
