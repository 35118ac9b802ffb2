from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from codes import fails
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from mask_rows import HOSTILE, blobs, iou, odd_masks, quarantined, tables
from numpy.typing import NDArray
from pycocotools.coco import COCO

from clipseg_kfp.masks.cleanup import components
from clipseg_kfp.results.formats import export_coco
from clipseg_kfp.results.formats.coco import image_id

Mask = NDArray[np.bool_]
NAMES = [(1, "a cat"), (2, 'quote " and \\ ü')]
SIZES = {"x/1 ü.jpg": (40, 30), "x/2.jpg": (17, 23), "empty.jpg": (5, 5)}

ALL = range(1, 1000)  # categories


def pixels() -> dict[tuple[str, int], Mask]:
    random = np.random.default_rng(0)
    found = {}
    for key, (width, height) in SIZES.items():
        for category in (1, 2):
            empty = key == "empty.jpg" or (key, category) == ("x/2.jpg", 1)
            found[key, category] = random.random((height, width)) > (2 if empty else 0.6)
    return found


def load(path: Path, masks: dict[tuple[str, int], Mask], **options: Any) -> COCO:
    images, rows = tables(masks)
    count = export_coco(path, iter(images), iter(rows), options.pop("categories", NAMES), **options)
    assert count == len(images)
    return COCO(str(path))


def merged(coco: COCO) -> dict[tuple[str, int], Mask]:
    """What the annotations of each image and category cover together; none may overlap."""
    found: dict[tuple[str, int], Mask] = {}
    for annotation in coco.loadAnns(coco.getAnnIds()):
        assert annotation["iscrowd"] == 0
        image = coco.loadImgs(annotation["image_id"])[0]
        mask = coco.annToMask(annotation).astype(bool)
        name = (image["file_name"], annotation["category_id"])
        assert not (found.get(name, False) & mask).any()
        found[name] = found.get(name, False) | mask
    return found


@pytest.mark.parametrize("as_polygons", [False, True])
@pytest.mark.parametrize("instances", [False, True])
def test_masks_come_back(tmp_path: Path, as_polygons: bool, instances: bool) -> None:
    masks = pixels() | {(name, 1): mask for name, mask in odd_masks().items()}
    coco = load(tmp_path / "c.json", masks, as_polygons=as_polygons, instances=ALL if instances else ())
    found = merged(coco)
    assert found.keys() == {name for name, mask in masks.items() if mask.any()}
    for name, mask in found.items():
        assert (mask == masks[name]).all()
    for annotation in coco.loadAnns(coco.getAnnIds()):
        mask = coco.annToMask(annotation).astype(bool)
        assert annotation["area"] == mask.sum()
        x, y, width, height = annotation["bbox"]
        ys, xs = np.nonzero(mask)
        assert (x, y, width, height) == (xs.min(), ys.min(), np.ptp(xs) + 1, np.ptp(ys) + 1)
        assert len(list(components(mask))) == 1 or not instances
    count = sum(len(list(components(mask))) if instances else mask.any() for mask in masks.values())
    assert len(coco.anns) == count


@settings(deadline=None, max_examples=40)
@given(arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12))))
def test_instances_have_the_run_lengths_of_the_whole_image(tmp_path_factory: Any, mask: Mask) -> None:
    coco = load(tmp_path_factory.mktemp("c") / "c.json", {("a.jpg", 1): mask}, instances=ALL)
    found = [coco.annToMask(annotation).astype(bool) for annotation in coco.loadAnns(coco.getAnnIds())]
    expected = [part.full(*mask.shape[::-1]) for part in components(mask)]
    assert [f.tolist() for f in found] == [e.tolist() for e in expected]


@pytest.mark.parametrize("instances", [False, True])
def test_simplified_polygons_keep_shape_and_holes(tmp_path: Path, instances: bool) -> None:
    mask = blobs(480, 640, 60, 4)
    mask[100:130, 100:130] = True
    mask[110:120, 110:120] = False
    masks = {("a.jpg", 1): mask}
    options: dict[str, Any] = {"as_polygons": True, "instances": ALL if instances else ()}
    coco = load(tmp_path / "c.json", masks, tolerance=1, **options)
    assert iou(merged(coco)["a.jpg", 1], mask) >= 0.99
    load(tmp_path / "exact.json", masks, **options)
    assert (tmp_path / "c.json").stat().st_size < (tmp_path / "exact.json").stat().st_size / 3
    assert sum(annotation["area"] for annotation in coco.anns.values()) == mask.sum()


def test_images_and_categories(tmp_path: Path) -> None:
    coco = load(tmp_path / "c.json", pixels(), categories=[(7, "x"), *NAMES])
    images = coco.loadImgs(coco.getImgIds())
    assert {i["file_name"]: (i["width"], i["height"]) for i in images} == SIZES
    assert [(c["id"], c["name"]) for c in coco.loadCats([7, 1, 2])] == [(7, "x"), *NAMES]
    assert len(coco.getAnnIds()) == 3
    assert coco.getAnnIds(imgIds=[image_id("empty.jpg", "v1")]) == []
    assert sorted(coco.anns) == [1, 2, 3]


def test_hostile_keys(tmp_path: Path) -> None:
    keys = [*HOSTILE, "lone \udc80 surrogate.jpg", "\x00\x1f.jpg", "\u2028.jpg"]
    mask = np.eye(4, dtype=bool)
    coco = load(tmp_path / "c.json", {(key, 1): mask for key in keys})
    assert {image["file_name"] for image in coco.imgs.values()} == set(keys)
    assert merged(coco).keys() == {(key, 1) for key in keys}


def test_nothing_at_all(tmp_path: Path) -> None:
    assert export_coco(tmp_path / "c.json", [], [], [(1, "cat")]) == 0
    found = json.loads((tmp_path / "c.json").read_text("utf-8"))
    assert (found["images"], found["annotations"]) == ([], [])
    assert COCO(str(tmp_path / "c.json")).getImgIds() == []


def test_ids_are_those_of_the_images_whatever_else_is_there(tmp_path: Path) -> None:
    one = load(tmp_path / "1.json", pixels())
    some = {name: mask for name, mask in reversed(pixels().items()) if name[0] != "x/1 ü.jpg"}
    other = load(tmp_path / "2.json", {("new.jpg", 1): np.eye(3, dtype=bool), **some})
    ids = [{image["file_name"]: number for number, image in coco.imgs.items()} for coco in (one, other)]
    assert ids[0]["x/2.jpg"] == ids[1]["x/2.jpg"] == image_id("x/2.jpg", "v1")
    assert ids[0]["empty.jpg"] == ids[1]["empty.jpg"]


def test_ids_fit_a_float64_and_spread() -> None:
    ids = [image_id(f"{i}.jpg", "v") for i in range(20_000)]
    assert len(set(ids)) == len(ids)
    assert all(int(float(number)) == number and 0 <= number < 2**53 for number in ids)
    assert abs(np.mean(ids) / 2**52 - 1) < 0.02
    assert image_id("a", "bc") != image_id("ab", "c")
    assert (
        image_id("a.jpg", "v") == 6754477766063517
    )  # a changed rule would make old files and new ones disagree


def test_two_versions_of_a_key_are_two_images(tmp_path: Path) -> None:
    (images, masks), (newer, newer_masks) = (tables({("a", 1): np.eye(4, dtype=bool)}, v) for v in "vw")
    export_coco(tmp_path / "c.json", images + newer, masks + newer_masks, NAMES)
    found = json.loads((tmp_path / "c.json").read_text("utf-8"))
    assert [a["image_id"] for a in found["annotations"]] == [image_id("a", "v"), image_id("a", "w")]


def test_quarantined_images_are_left_out(tmp_path: Path) -> None:
    images, masks = tables(pixels())
    assert export_coco(tmp_path / "c.json", [quarantined("bad.jpg"), *images], masks, NAMES) == len(images)
    assert "bad.jpg" not in (tmp_path / "c.json").read_text("utf-8")


@pytest.mark.parametrize(
    ("twice", "categories", "code"),
    [
        (2, NAMES, "export_duplicate_image"),
        (1, [(2, "x")], "export_unknown_category"),
        (1, [(1, "x"), (1, "y")], "export_duplicate_category"),
    ],
)
def test_what_is_wrong_is_said_and_no_file_appears(
    tmp_path: Path, twice: int, categories: Any, code: str
) -> None:
    images, masks = tables({("a.jpg", 1): np.eye(4, dtype=bool)})
    with fails(code):
        export_coco(tmp_path / "c.json", images * twice, masks, categories)
    assert list(tmp_path.iterdir()) == []


def test_rows_are_taken_one_by_one(tmp_path: Path) -> None:
    """Where an export fails after the first rows, it has not read the others."""
    images, masks = tables({(f"{i}.jpg", 1): np.eye(4, dtype=bool) for i in range(50)})
    masks[3]["category_id"] = 99
    taken = []

    def rows() -> Iterator[dict[str, Any]]:
        for row in masks:
            taken.append(row["key"])
            yield row

    with fails("export_unknown_category", where="3.jpg"):
        export_coco(tmp_path / "c.json", images, rows(), NAMES)
    assert len(taken) == 4
