from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pycocotools.coco import COCO

from clipseg_kfp import coco
from clipseg_kfp.masks import measure

NAMES = ["a cat", 'quote " and \\ ü']
SIZES = {"x/1 ü.jpg": (40, 30), "x/2.jpg": (17, 23), "empty.jpg": (5, 5)}


def rows() -> tuple[list[dict[str, Any]], list[dict[str, Any]], dict[tuple[str, int], NDArray[np.bool_]]]:
    random = np.random.default_rng(0)
    images, masks, pixels = [], [], {}
    for key, (width, height) in SIZES.items():
        images.append({"key": key, "version": "v", "width": width, "height": height})
        for category in (1, 2):
            probability = random.random((height, width), dtype=np.float32)
            mask = probability > (2 if key == "empty.jpg" or (key, category) == ("x/2.jpg", 1) else 0.6)
            pixels[key, category] = mask
            found = measure(mask, probability)
            masks.append(
                {
                    "key": key, "version": "v", "width": width, "height": height, "category_id": category,
                    "area": found.area, "bbox": list(found.bbox), "rle": found.rle, "score": found.score,
                }
            )  # fmt: skip
    return images, masks, pixels


@pytest.fixture
def loaded(tmp_path: Path) -> COCO:
    images, masks, _ = rows()
    path = tmp_path / "coco.json"
    assert coco.write(path, iter(images), iter(masks), NAMES) == len(images)
    return COCO(str(path))


def test_masks_come_back(loaded: COCO) -> None:
    _, _, pixels = rows()
    for annotation in loaded.loadAnns(loaded.getAnnIds()):
        image = loaded.loadImgs(annotation["image_id"])[0]
        mask = pixels.pop((image["file_name"], annotation["category_id"]))
        assert (loaded.annToMask(annotation) == mask).all()
        assert annotation["area"] == mask.sum()
        assert annotation["iscrowd"] == 0
        x, y, width, height = annotation["bbox"]
        assert mask[y : y + height, x : x + width].sum() == mask.sum()
    assert not any(mask.any() for mask in pixels.values())  # what is left was empty


def test_images_and_categories(loaded: COCO) -> None:
    images = loaded.loadImgs(loaded.getImgIds())
    assert {i["file_name"]: (i["width"], i["height"]) for i in images} == SIZES
    assert [c["name"] for c in loaded.loadCats([1, 2])] == NAMES
    assert len(loaded.getAnnIds()) == 3
    assert loaded.getAnnIds(imgIds=[3]) == []


def test_nothing_at_all(tmp_path: Path) -> None:
    assert coco.write(tmp_path / "c.json", [], [], ["cat"]) == 0
    found = json.loads((tmp_path / "c.json").read_text("utf-8"))
    assert (found["images"], found["annotations"]) == ([], [])
    assert COCO(str(tmp_path / "c.json")).getImgIds() == []


def test_two_versions_of_a_key_are_two_images(tmp_path: Path) -> None:
    images, masks, _ = rows()
    images, masks = images[:1], masks[:1]
    newer = [[{**row, "version": "w"} for row in table] for table in (images, masks)]
    coco.write(tmp_path / "c.json", images + newer[0], masks + newer[1], NAMES)
    found = json.loads((tmp_path / "c.json").read_text("utf-8"))
    assert [a["image_id"] for a in found["annotations"]] == [1, 2]
