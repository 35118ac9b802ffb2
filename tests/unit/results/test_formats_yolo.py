from __future__ import annotations

import csv
import os
import zipfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml
from codes import fails
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from mask_rows import HOSTILE, blobs, iou, mask_row, odd_masks, quarantined, tables
from numpy.typing import NDArray

from clipseg_kfp.results.formats import export_yolo
from clipseg_kfp.results.formats.yolo import label_lines

Mask = NDArray[np.bool_]
NAMES = [(3, "a cat"), (1, "yes"), (2, "42: ü\n\x07")]
IMAGE_SUFFIXES = {"bmp", "dng", "jpeg", "jpg", "mpo", "png", "tif", "tiff", "webp", "pfm", "heic"}


def reader_label_path(image: str) -> str:
    """The published rule: the last /images/ becomes /labels/, the suffix .txt."""
    head, _, tail = image.rpartition(f"{os.sep}images{os.sep}")
    return str(Path(head, "labels", tail).with_suffix(".txt"))


def read_labels(text: str, count: int) -> list[tuple[int, NDArray[np.float32]]]:
    """Reads a label file and holds it against the format's rules."""
    found = []
    for line in text.strip().splitlines():
        first, *rest = line.split()
        assert first.isdigit()
        assert int(first) < count
        assert len(rest) >= 6
        assert len(rest) % 2 == 0
        points = np.array(rest, np.float32).reshape(-1, 2)
        assert points.min() >= 0
        assert points.max() <= 1
        assert (np.ptp(points, axis=0) > 0).all()  # the box that is made of it has an area
        found.append((int(first), points))
    return found


def rasterize(labels: list[tuple[int, NDArray[np.float32]]], category: int, shape: tuple[int, int]) -> Mask:
    """As the format's trainer does: to pixels, truncated, filled."""
    canvas = np.zeros(shape, np.uint8)
    for number, points in labels:
        if number == category:
            scaled = points * np.array(shape[::-1], np.float32)
            cv2.fillPoly(canvas, [scaled.astype(np.int32)], 1)
    return canvas.astype(bool)


def listing(root: Path) -> list[dict[str, str]]:
    with (root / "images.csv").open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def test_a_data_set(tmp_path: Path) -> None:
    masks = {(f"{name}.jpg", category): mask for name, mask in odd_masks().items() for category in (1, 3)}
    masks["blobs.jpg", 2] = blobs(240, 320, 60)
    images, rows = tables(masks)
    assert export_yolo(tmp_path, [*images, quarantined("bad.jpg")], iter(rows), NAMES, tolerance=0) == len(
        images
    )
    config = yaml.safe_load((tmp_path / "data.yaml").read_text("utf-8"))
    assert config == {
        "train": "images",
        "val": "images",
        "names": {0: "a cat", 1: "yes", 2: "42: ü\n\x07"},
    }
    files = {row["key"]: row["file"] for row in listing(tmp_path)}
    assert files.keys() == {image["key"] for image in images}
    place = {3: 0, 1: 1, 2: 2}
    for (key, category), mask in masks.items():
        text = Path(reader_label_path(str(tmp_path / files[key]))).read_text("utf-8")
        labels = read_labels(text, len(NAMES))
        assert (rasterize(labels, place[category], mask.shape) == mask).all()
        assert len({number for number, _ in labels}) == sum(
            found.any() for (name, _), found in masks.items() if name == key
        )


@settings(deadline=None, max_examples=100)
@given(arrays(bool, st.tuples(st.integers(1, 20), st.integers(1, 20))))
def test_without_a_tolerance_a_reader_gets_the_mask(mask: Mask) -> None:
    labels = read_labels("".join(label_lines(mask_row("a", mask), 4, 0)), 5)
    assert len(labels) == cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)[0] - 1
    assert (rasterize(labels, 4, mask.shape) == mask).all()


@pytest.mark.parametrize(("height", "width"), [(480, 640), (333, 1001)])
@pytest.mark.parametrize("cell", [30, 60, 150])
def test_polygons_with_the_usual_tolerance(height: int, width: int, cell: int) -> None:
    mask = blobs(height, width, cell, seed=cell)
    assert cv2.connectedComponents((~mask).astype(np.uint8), connectivity=4)[0] > 2
    labels = read_labels("".join(label_lines(mask_row("a", mask), 0, 1.0)), 1)
    assert iou(rasterize(labels, 0, mask.shape), mask) >= 0.98


def test_coordinates_of_a_very_wide_image() -> None:
    mask = np.zeros((3, 60_000), bool)
    mask[1, 12_345] = mask[0:2, 59_990:] = True
    labels = read_labels("".join(label_lines(mask_row("a", mask), 0, 0)), 1)
    assert (rasterize(labels, 0, mask.shape) == mask).all()


@pytest.mark.parametrize("packed", [False, True])
def test_hostile_keys_get_distinct_places_where_readers_look(tmp_path: Path, packed: bool) -> None:
    masks = {(key, 1): np.eye(3 + i, dtype=bool) for i, key in enumerate(HOSTILE)}
    images, rows = tables(masks)
    newer, newer_rows = tables({("same.jpg", 1): np.ones((2, 2), bool)}, "v2")
    root = tmp_path / "out"
    target = tmp_path / "out.zip" if packed else root
    export_yolo(target, images + newer, rows + newer_rows, [(1, "x")])
    if packed:
        zipfile.ZipFile(target).extractall(root)
    assert {path.name for path in tmp_path.iterdir()} == {"out", "out.zip"} - (
        set() if packed else {"out.zip"}
    )
    assert {path.name for path in root.iterdir()} == {"data.yaml", "images.csv", "labels", "images"}
    found = listing(root)
    assert len(found) == len(HOSTILE) + 1
    labels = set()
    for row, expected in zip(found, rows + newer_rows, strict=True):
        image = root / row["file"]
        assert image.resolve().is_relative_to(root / "images")
        assert image.suffix[1:].lower() in IMAGE_SUFFIXES
        assert row["file"].isascii()
        label = reader_label_path(str(image))
        assert label == str(root / row["label"])
        labels.add(label.lower())
        points = read_labels(Path(label).read_text("utf-8"), 1)
        shape = (int(row["height"]), int(row["width"]))
        assert shape == (expected["height"], expected["width"])
        assert rasterize(points, 0, shape).sum() == expected["area"]
        image.parent.mkdir(parents=True, exist_ok=True)
        image.touch(exist_ok=False)  # every image can be put where it belongs
    assert len(labels) == len(found)


def test_plain_keys_lie_as_in_the_bucket(tmp_path: Path) -> None:
    images, rows = tables({(key, 1): np.eye(3, dtype=bool) for key in ("a/b.jpg", "c-1.PNG", "images/x.jpg")})
    export_yolo(tmp_path, images, rows, [(1, "x")])
    assert [row["file"] for row in listing(tmp_path)] == [
        "images/a/b.jpg",
        "images/c-1.PNG",
        "images/images/x.jpg",
    ]
    assert (tmp_path / "labels/a/b.txt").is_file()
    assert (tmp_path / "images/labels/x.txt").is_file()


def test_an_image_without_masks_has_an_empty_file(tmp_path: Path) -> None:
    images, rows = tables({("a.jpg", 1): np.zeros((3, 3), bool), ("b.jpg", 1): np.eye(3, dtype=bool)})
    export_yolo(tmp_path, images, rows[1:], [(1, "x")])
    assert (tmp_path / "labels/a.txt").read_bytes() == b""
    assert (tmp_path / "labels/b.txt").read_bytes()


def test_archives_of_the_same_masks_are_equal(tmp_path: Path) -> None:
    images, rows = tables({("a.jpg", 1): blobs(50, 50, 10)})
    for name in ("1.zip", "2.zip"):
        export_yolo(tmp_path / name, images, rows, [(1, "x")])
    assert (tmp_path / "1.zip").read_bytes() == (tmp_path / "2.zip").read_bytes()


def test_what_is_wrong_is_said(tmp_path: Path) -> None:
    images, rows = tables({(key, 1): np.eye(3, dtype=bool) for key in ("a.jpg", "b.jpg")})
    cases: list[tuple[Any, Any, Any, str, str]] = [
        (images, rows, [], "export_no_category", ""),
        (images, rows, [(2, "x")], "export_unknown_category", "a.jpg"),
        (images[:1], rows, [(1, "x")], "export_tables_differ", "b.jpg"),
        (images, rows[::-1], [(1, "x")], "export_tables_differ", "a.jpg"),
    ]
    for number, (some, masks, categories, code, where) in enumerate(cases):
        with fails(code, where=where):
            export_yolo(tmp_path / f"{number}.zip", some, masks, categories)
    assert list(tmp_path.iterdir()) == []
    export_yolo(tmp_path, images, rows, [(1, "x")])
    with fails("export_target_used", where=str(tmp_path)):
        export_yolo(tmp_path, images, rows, [(1, "x")])
