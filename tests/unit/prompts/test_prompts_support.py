"""Support images: where the thing is, and what the model gets to see of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from codes import fails
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import TypeAdapter

from clipseg_kfp.images.decode import to_model_input
from clipseg_kfp.prompts import Engineering, EngineeringEntry, ImageEntry, engineer
from clipseg_kfp.prompts.support import region_of

MEAN = (0.5, 0.4, 0.3)
BACKDROP = [128, 102, 76]  # 255 times MEAN
OFF = TypeAdapter(EngineeringEntry).validate_python("none")


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


def support(**fields: Any) -> Any:
    return TypeAdapter(ImageEntry).validate_python({"image": "x.jpg", **fields})


def block(width: int, height: int, box: tuple[int, int, int, int]) -> np.ndarray[Any, Any]:
    region = np.zeros((height, width), bool)
    region[box[1] : box[1] + box[3], box[0] : box[0] + box[2]] = True
    return region


# Regions


def test_a_box_is_x_y_width_height_in_pixels_of_the_image() -> None:
    assert np.array_equal(region_of(support(box=[3, 5, 10, 4]), 40, 20), block(40, 20, (3, 5, 10, 4)))


def test_fractions_are_of_width_and_height() -> None:
    found = region_of(support(box=[0.25, 0.5, 0.5, 0.25], units="fractions"), 40, 20)
    assert np.array_equal(found, block(40, 20, (10, 10, 20, 5)))


def test_polygons_are_filled_and_joined() -> None:
    square, flat = [[2, 2], [12, 2], [12, 8], [2, 8]], [20, 10, 30, 10, 30, 16, 20, 16]
    found = region_of(support(polygons=[square, flat]), 40, 20)
    assert np.array_equal(found, block(40, 20, (2, 2, 10, 6)) | block(40, 20, (20, 10, 10, 6)))
    halves = [[x / 40, y / 20] for x, y in square]
    assert np.array_equal(
        region_of(support(polygon=halves, units="fractions"), 40, 20), block(40, 20, (2, 2, 10, 6))
    )


@pytest.mark.parametrize(
    "fields",
    [
        {"box": [30, 5, 20, 10]},  # corners in place of sides
        {"box": [0, 0, 10, 30]},
        {"polygon": [[0, 0], [60, 0], [30, 10]]},
        {"polygon": [[-5, 0], [10, 0], [5, 10]]},
    ],
)
def test_what_leaves_the_image_is_refused(fields: dict[str, Any]) -> None:
    with fails("region_outside_image", where="x.jpg"):
        region_of(support(**fields), 40, 20)


def test_a_pixel_too_much_is_rounding() -> None:
    assert np.array_equal(
        region_of(support(box=[30, 10, 10.6, 10.4]), 40, 20), block(40, 20, (30, 10, 10, 10))
    )


def test_regions_without_a_pixel_are_refused() -> None:
    with fails("region_empty", where="x.jpg"):
        region_of(support(box=[0.1, 0.1, 0.3, 0.3]), 40, 20)


# Engineering


@pytest.mark.parametrize("size", [(40, 20), (500, 333), (8, 8)])
def test_a_whole_image_is_only_stretched(size: tuple[int, int]) -> None:
    image = picture(*size)
    assert np.array_equal(engineer(image, None, Engineering(), 32, MEAN), to_model_input(image, 32))


def test_a_whole_image_may_be_padded() -> None:
    found = engineer(Image.new("RGB", (40, 20), "red"), None, Engineering(pad=True), 32, MEAN)
    assert (found[:8] == BACKDROP).all()
    assert (found[8:24] == [255, 0, 0]).all()
    assert (found[24:] == BACKDROP).all()


def test_everything_off_is_a_plain_stretch() -> None:
    image = picture(50, 30)
    found = engineer(image, block(50, 30, (5, 5, 10, 10)), OFF, 32, MEAN)
    assert np.abs(found.astype(int) - to_model_input(image, 32)).max() <= 1


def test_the_crop_keeps_a_tenth_around_the_thing() -> None:
    image = picture(200, 100)
    region = block(200, 100, (50, 20, 40, 20))
    plain = Engineering(blur=0, background=1, pad=False)
    found = engineer(image, region, plain, 32, MEAN)
    expected = to_model_input(image.crop((46, 18, 94, 42)), 32)
    assert np.abs(found.astype(int) - expected).max() <= 1
    wide = engineer(image, region, plain.model_copy(update={"context": 1.0}), 32, MEAN)
    expected = to_model_input(image.crop((10, 0, 130, 60)), 32)
    assert np.abs(wide.astype(int) - expected).max() <= 1


def test_a_long_crop_is_padded_to_a_square_in_the_middle() -> None:
    image = Image.new("RGB", (100, 100), "white")
    found = engineer(image, block(100, 100, (20, 40, 40, 10)), Engineering(context=0), 32, MEAN)
    assert (found[:12] == BACKDROP).all()
    assert (found[12:20] == 255).all()
    assert (found[20:] == BACKDROP).all()


@pytest.mark.parametrize(("backdrop", "color"), [("mean", np.array(BACKDROP)), ("black", np.zeros(3))])
def test_the_background_fades_and_the_thing_stays(backdrop: str, color: Any) -> None:
    image = picture(64, 64)
    region = block(64, 64, (16, 16, 32, 32))
    settings_ = Engineering.model_validate(
        {"crop": False, "blur": 0, "background": 0.1, "backdrop": backdrop}
    )
    found = engineer(image, region, settings_, 64, MEAN).astype(float)
    original = np.asarray(image, float)
    assert (found[region] == original[region]).all()
    assert np.abs(found[~region] - (color + 0.1 * (original[~region] - color))).max() <= 1
    gone = engineer(image, region, settings_.model_copy(update={"background": 0.0}), 64, MEAN)
    assert np.abs(gone[~region] - color).max() <= 1


def test_the_blur_is_that_of_the_paper_at_the_models_size() -> None:
    import cv2

    image = picture(64, 64)
    region = block(64, 64, (30, 30, 4, 4))
    found = engineer(image, region, Engineering(crop=False, background=1), 64, MEAN)
    expected = cv2.GaussianBlur(np.asarray(image, np.float32), (15, 15), 3)
    assert np.abs(found[~region] - expected[~region]).max() <= 0.51
    assert (found[region] == np.asarray(image)[region]).all()


def test_the_result_hardly_depends_on_the_resolution() -> None:
    coarse = picture(16, 16)
    results = []
    for side in (160, 640):
        image = coarse.resize((side, side), Image.Resampling.BICUBIC)
        scale = side // 160
        region = block(side, side, (40 * scale, 60 * scale, 50 * scale, 30 * scale))
        results.append(engineer(image, region, Engineering(), 64, MEAN).astype(float))
    assert np.abs(results[0] - results[1]).mean() < 1.5


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_region_of_any_image_gives_model_input(data: st.DataObject) -> None:
    width, height = data.draw(st.integers(1, 70)), data.draw(st.integers(1, 70))
    x, y = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    box = (x, y, data.draw(st.integers(1, width - x)), data.draw(st.integers(1, height - y)))
    chosen = Engineering(
        crop=data.draw(st.booleans()),
        context=data.draw(st.sampled_from([0.0, 0.1, 10.0])),
        blur=data.draw(st.sampled_from([0.0, 0.1, 3.0, 50.0])),
        pad=data.draw(st.none() | st.booleans()),
    )
    found = engineer(picture(width, height), block(width, height, box), chosen, 48, MEAN)
    assert found.shape == (48, 48, 3)
    assert found.dtype == np.uint8
    again = engineer(picture(width, height), block(width, height, box), chosen, 48, MEAN)
    assert np.array_equal(found, again)


def test_a_region_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError):
        engineer(picture(10, 10), np.ones((5, 5), bool), Engineering(), 32, MEAN)
