"""The demo's one-shot case: its pictures follow its rules, and none is seen twice."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from clipseg_kfp.demo import one_shot
from clipseg_kfp.demo.scenes import COLORS, SHAPES, Scene, draw_scene


@pytest.fixture(scope="module")
def objects() -> dict[str, bytes]:
    return dict(one_shot.one_shot_objects())


@pytest.fixture(scope="module")
def scenes() -> dict[int, Scene]:
    """All scenes that may have been chosen."""
    last = max(one_shot.SHOWN_SEEDS.values()), max(one_shot.SEARCHED_SEEDS)
    first = one_shot.FIRST_SHOWN, one_shot.FIRST_SEARCHED
    return {
        seed: draw_scene(seed) for low, high in zip(first, last, strict=True) for seed in range(low, high + 1)
    }


def first_showing(scenes: dict[int, Scene], name: str, start: int, share: float, count: int) -> list[int]:
    query = one_shot.SHOWN[name]
    shown = (seed for seed in sorted(scenes) if seed >= start and scenes[seed].mask(query).mean() >= share)
    return [seed for seed, _ in zip(shown, range(count), strict=False)]


def test_prompts_pair_shapes_and_colors_in_order() -> None:
    pairs = [(query.shape, query.color, query.texture) for query in one_shot.SHOWN.values()]
    assert pairs == [(shape, color, None) for shape, color in zip(SHAPES, COLORS, strict=False)]
    assert next(iter(one_shot.SHOWN)) == "red circle" and len(pairs) == len(SHAPES)


def test_seeds_follow_the_rule(scenes: dict[int, Scene]) -> None:
    """No picture was chosen for its result."""
    searched = set()
    for name, seed in one_shot.SHOWN_SEEDS.items():
        start, share = one_shot.FIRST_SHOWN, one_shot.SHARE_SHOWN
        assert first_showing(scenes, name, start, share, 1) == [seed]
        start, share, each = one_shot.FIRST_SEARCHED, one_shot.SHARE_SEARCHED, one_shot.SCENES_EACH
        searched |= set(first_showing(scenes, name, start, share, each))
    assert tuple(sorted(searched)) == one_shot.SEARCHED_SEEDS
    assert not searched & set(one_shot.SHOWN_SEEDS.values())


def test_every_picture_has_its_mask_of_the_same_size(objects: dict[str, bytes]) -> None:
    images = {key: Image.open(io.BytesIO(data)) for key, data in objects.items() if "/images/" in key}
    assert sum(key.startswith("support/") for key in images) == len(one_shot.SHOWN)
    assert sum(key.startswith("dataset/") for key in images) == len(one_shot.SEARCHED_SEEDS)
    for key, image in images.items():
        places = {key.replace("/images/", "/masks/")}
        if key.startswith("dataset/"):
            places = {key.replace("/images/", f"/masks/{name}/") for name in one_shot.SHOWN}
        for place in places:
            mask = Image.open(io.BytesIO(objects[place]))
            assert (mask.mode, mask.size) == ("L", image.size)
            assert set(np.unique(np.asarray(mask))) <= {0, 255}
    assert len(objects) == len(images) + len(one_shot.SHOWN) * (1 + len(one_shot.SEARCHED_SEEDS))


def test_two_calls_give_the_same_bytes(objects: dict[str, bytes]) -> None:
    assert dict(one_shot.one_shot_objects()) == objects
