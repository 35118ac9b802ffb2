"""TIFF in all its forms: pixels come out right, or the file is set aside for what it is."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

from clipseg_kfp.images import guarded
from clipseg_kfp.images.decode import ImageRejectedError, decode_image, open_image
from clipseg_kfp.views.resolution import meters_per_pixel

LEFT, RIGHT = (250, 20, 120), (30, 60, 90)


def colors(bands: int = 3) -> NDArray[np.uint8]:
    """60 x 40: LEFT, then RIGHT from column 30; further bands are 77."""
    scene = np.full((40, 60, bands), 77, np.uint8)
    scene[:, :30, :3], scene[:, 30:, :3] = LEFT[:bands], RIGHT[:bands]
    return scene


def written(values: NDArray[Any], **options: Any) -> bytes:
    buffer = io.BytesIO()
    big, order = options.pop("bigtiff", False), options.pop("byteorder", "<")
    with tifffile.TiffWriter(buffer, bigtiff=big, byteorder=order) as writer:
        writer.write(values, metadata=None, **options)
    return buffer.getvalue()


def check(data: bytes, near: int = 1) -> None:
    image = guarded.decode_image(data, "a.tif")
    assert image.size == (60, 40)
    found = np.asarray(image, np.int64)
    assert np.abs(found[8, 8] - LEFT).max() <= near
    assert np.abs(found[-8, -8] - RIGHT).max() <= near


WIDE = colors().astype(np.uint16) * 257
COMPRESSIONS = [None, "lzw", "deflate", "zstd", "packbits", "lzma"]


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("tile", [None, (16, 16)])
@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_layouts(compression: str | None, planar: str, tile: Any, kind: Any) -> None:
    values = WIDE if kind == np.uint16 else colors()
    values = np.moveaxis(values, -1, 0) if planar == "separate" else values
    check(written(values, photometric="rgb", planarconfig=planar, compression=compression, tile=tile))


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    "values", [colors(), WIDE, (colors() / 255).astype(np.float32)], ids=["8", "16", "float"]
)
def test_byte_orders(big: bool, order: str, values: NDArray[Any]) -> None:
    check(written(values, photometric="rgb", bigtiff=big, byteorder=order))


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("predictor", [False, True])
def test_floats(kind: Any, predictor: bool) -> None:
    values = (colors() / 255).astype(kind)
    check(
        written(values, photometric="rgb", compression="deflate" if predictor else None, predictor=predictor)
    )


@pytest.mark.parametrize("kind", [np.uint32, np.int32, np.int16, np.uint64])
def test_integers(kind: Any) -> None:
    check(written(colors().astype(kind), photometric="rgb"))


@pytest.mark.parametrize("kind", [np.uint32, np.int32, np.float32, np.float64])
def test_gray_is_not_inverted(kind: Any) -> None:
    ramp = np.arange(256).reshape(16, 16).astype(kind)
    found = np.asarray(decode_image(written(ramp, photometric="minisblack")))
    assert found[..., 0].ravel().tolist() == list(range(256))
    high = np.array([[3_000_000_000, 3_000_000_255]]).astype(kind)
    if np.dtype(kind).itemsize == 4 and kind is not np.uint32:
        return  # does not hold such values exactly
    assert np.asarray(decode_image(written(high, photometric="minisblack")))[0, :, 0].tolist() == [0, 255]


def test_signed_bytes() -> None:
    found = np.asarray(decode_image(written(np.array([[-128, 0, 127]], np.int8), photometric="minisblack")))
    assert found[0, :, 0].tolist() == [0, 128, 255]


@pytest.mark.parametrize(
    ("compression", "near"), [("webp", 12), ("jpeg2000", 12), ("lerc", 1), ("jpegxl", 12), ("png", 0)]
)
def test_compressions_beyond_libtiff(compression: str, near: int) -> None:
    check(written(colors(), photometric="rgb", compression=compression), near)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_eight_bands_of_which_three_are_colors(kind: Any, planar: str) -> None:
    scale = {np.uint8: 1, np.uint16: 257, np.float32: 1 / 255}[kind]
    values = (colors(8).astype(float) * scale).astype(kind)
    values = np.moveaxis(values, -1, 0) if planar == "separate" else values
    check(written(values, photometric="rgb", planarconfig=planar, extrasamples=[0] * 5))


@pytest.mark.parametrize("bands", [5, 8, 13])
@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_bands_without_colors_are_said_to_be(bands: int, planar: str) -> None:
    values = colors(bands).astype(np.uint16)
    values = np.moveaxis(values, -1, 0) if planar == "separate" else values
    with pytest.raises(ImageRejectedError) as caught:
        decode_image(
            written(values, photometric="minisblack", planarconfig=planar, extrasamples=[0] * (bands - 1))
        )
    assert caught.value.code == "unsupported_format" and str(bands) in caught.value.detail


def test_complex_numbers_are_no_picture() -> None:
    with pytest.raises(ImageRejectedError) as caught:
        decode_image(written(np.ones((4, 4), np.complex64)))
    assert caught.value.code == "unsupported_format"


def test_opacity_of_floats_goes_over_white() -> None:
    values = np.zeros((4, 4, 4), np.float32)
    values[:, :2, 3] = 1
    found = np.asarray(decode_image(written(values, photometric="rgb", extrasamples=["unassalpha"])))
    assert found[0, 0].tolist() == [0, 0, 0] and found[0, 3].tolist() == [255, 255, 255]


@pytest.mark.parametrize(
    ("kind", "marker", "text"),
    [(np.float32, -9999, "-9999"), (np.float32, -3.4028234663852886e38, "-3.40282346638529e+38"),
     (np.float32, np.nan, "nan"),
     (np.float64, 1e20, "1e20"), (np.int16, -32768, "-32768"), (np.int32, -2147483648, "-2147483648"),
     (np.uint32, 4294967295, "4294967295")],
)  # fmt: skip
def test_pixels_without_data_set_no_range(kind: Any, marker: float, text: str) -> None:
    values = np.linspace(0, 200, 60).astype(kind) * np.ones((40, 1), kind)
    values[:, :3] = marker
    data = written(values, photometric="minisblack", extratags=[(42113, "s", 0, text, True)])
    found = np.asarray(decode_image(data))
    assert found[0, 0, 0] == 0 and found[0, -1, 0] == 200


def test_turned_and_measured() -> None:
    keys = (1, 1, 0, 2, 1024, 0, 1, 1, 3076, 0, 1, 9001)
    tags = [(274, "H", 1, 6, True), (33550, "d", 3, (0.5, 0.5, 0.0), True), (34735, "H", 12, keys, True)]
    opened = open_image(written((colors() / 255).astype(np.float32), photometric="rgb", extratags=tags))
    assert meters_per_pixel(opened.header) == 0.5
    assert opened.decode().size == (40, 60)


def test_the_header_decides_what_is_too_large() -> None:
    data = written((colors() / 255).astype(np.float32), photometric="rgb")
    with pytest.raises(ImageRejectedError) as caught:
        decode_image(data, max_pixels=2000)
    assert caught.value.code == "too_large"


@pytest.mark.parametrize("compression", [None, "deflate"])
def test_an_early_end_is_not_filled_with_zeros(compression: str | None) -> None:
    data = written(
        np.moveaxis(WIDE, -1, 0), photometric="rgb", planarconfig="separate", compression=compression
    )
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        end = max(a + b for a, b in zip(file.pages[0].dataoffsets, file.pages[0].databytecounts, strict=True))
    with pytest.raises(ImageRejectedError) as caught:
        decode_image(data[: end - 20])
    assert caught.value.code in ("truncated", "damaged")


def test_damage_is_a_rejection_or_a_picture() -> None:
    rng = np.random.default_rng(3)
    for options in ({"compression": "deflate"}, {"compression": "lzw"}, {"compression": "lerc"}, {}):
        data = written(np.moveaxis(WIDE, -1, 0), photometric="rgb", planarconfig="separate", **options)
        for _ in range(60):
            broken = bytearray(data)
            for _ in range(int(rng.integers(1, 6))):
                broken[int(rng.integers(4, min(400, len(data))))] ^= 1 << int(rng.integers(8))
            try:
                guarded.decode_image(bytes(broken), "a.tif", max_pixels=1_000_000)
            except ImageRejectedError as error:
                assert error.code in ("truncated", "damaged", "too_large", "unsupported_format")
