"""The demo data set: complete, deterministic, and as odd as it says."""

from __future__ import annotations

import io
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
from PIL import Image

from clipseg_kfp.demo import bucket
from clipseg_kfp.demo.bucket import DEMO_PROMPTS, DEMO_QUERIES, SCENE_COUNT, demo_objects
from clipseg_kfp.images.decode import ImageRejectedError, decode_image


@pytest.fixture(scope="module")
def objects() -> dict[str, bytes]:
    return dict(demo_objects())


@pytest.fixture(scope="module")
def decoded(objects: dict[str, bytes]) -> dict[str, Image.Image | str]:
    """The upright image of each key under images/, or the code of its rejection."""
    results: dict[str, Image.Image | str] = {}
    for key, content in objects.items():
        if key.startswith("images/"):
            try:
                results[key] = decode_image(content, key)
            except ImageRejectedError as error:
                results[key] = error.code
    return results


def _mask_key(image_key: str, prompt: str) -> str:
    relative = PurePosixPath(image_key).relative_to("images").with_suffix(".png")
    return f"masks/{prompt}/{relative}"


def test_keys_are_unique_and_two_calls_equal(objects: dict[str, bytes]) -> None:
    again = list(demo_objects())
    assert len({key for key, _ in again}) == len(again)
    assert dict(again) == objects


def test_prompts_and_queries_belong_together() -> None:
    assert list(DEMO_PROMPTS) == list(DEMO_QUERIES)
    assert len(DEMO_PROMPTS) == 6
    for name, texts in DEMO_PROMPTS.items():
        query = DEMO_QUERIES[name]
        assert (query.shape or query.color or query.texture) == name
        assert name in texts[0]


def test_exactly_three_objects_are_rejected(decoded: dict[str, Image.Image | str]) -> None:
    assert {key: code for key, code in decoded.items() if isinstance(code, str)} == {
        "images/odd/truncated.jpg": "truncated",
        "images/odd/notes.png": "mislabelled",
        "images/odd/empty.jpg": "empty",
    }


def test_masks_match_upright_images(objects: dict[str, bytes], decoded: dict[str, Image.Image | str]) -> None:
    covered = dict.fromkeys(DEMO_PROMPTS, 0)
    with_truth = [key for key in decoded if _mask_key(key, "red") in objects]
    for key in with_truth:
        image = decoded[key]
        assert isinstance(image, Image.Image)
        for prompt in DEMO_PROMPTS:
            mask = Image.open(io.BytesIO(objects[_mask_key(key, prompt)]))
            assert (mask.format, mask.mode, mask.size) == ("PNG", "L", image.size)
            assert set(np.unique(np.asarray(mask))) <= {0, 255}
            covered[prompt] += bool(np.asarray(mask).any())
    masks = [key for key in objects if key.startswith("masks/")]
    assert len(masks) == len(with_truth) * len(DEMO_PROMPTS)
    assert len(with_truth) == SCENE_COUNT + 5
    assert all(3 <= count < len(with_truth) for count in covered.values()), covered


@pytest.mark.parametrize("name", ["rotated.jpg", "cmyk.jpg"])
def test_odd_ground_truth_lies_on_the_upright_shapes(
    name: str, objects: dict[str, bytes], decoded: dict[str, Image.Image | str]
) -> None:
    """Pixels under a color's mask carry that color more than the rest of the picture does."""
    image = decoded[f"images/odd/{name}"]
    assert isinstance(image, Image.Image)
    pixels = np.asarray(image, dtype=float)
    checked = 0
    for prompt, channel in (("red", 0), ("blue", 2)):
        mask = np.asarray(Image.open(io.BytesIO(objects[_mask_key(f"images/odd/{name}", prompt)])))
        if mask.any():
            excess = pixels[..., channel] - pixels.mean(axis=-1)
            assert excess[mask == 255].mean() > excess[mask == 0].mean() + 20
            checked += 1
    assert checked, "the scene shows neither red nor blue; choose another seed"


def test_scenes_vary_in_size_and_format(decoded: dict[str, Image.Image | str]) -> None:
    seen = {
        (PurePosixPath(key).suffix, image.size)
        for key, image in decoded.items()
        if key.startswith("images/scenes/") and isinstance(image, Image.Image)
    }
    assert len(seen) == 8
    assert "images/scenes/scene-00.jpg" in decoded
    assert sum(key.startswith("images/photos/") for key in decoded) == 4


def test_photographs_are_left_out_where_the_folder_is_absent(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, objects: dict[str, bytes]
) -> None:
    monkeypatch.setattr(bucket, "EXAMPLES", tmp_path / "absent")
    without = dict(demo_objects())
    assert {k: v for k, v in objects.items() if not k.startswith("images/photos/")} == without


def test_examples_are_found_in_a_checkout_and_beside_an_installation(tmp_path: Path) -> None:
    checkout, image = tmp_path / "site-packages", tmp_path / "prefix"
    assert bucket.find_examples(checkout, image) == checkout / "examples"  # neither: that is what is named
    (image / "examples" / "demo-model").mkdir(parents=True)
    assert bucket.find_examples(checkout, image) == image / "examples"
    (checkout / "examples" / "demo-model").mkdir(parents=True)
    assert bucket.find_examples(checkout, image) == checkout / "examples"
