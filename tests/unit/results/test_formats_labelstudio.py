from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest
from codes import fails
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from mask_rows import HOSTILE, blobs, iou, odd_masks, quarantined, tables
from numpy.typing import NDArray

from clipseg_kfp.masks.cleanup import components
from clipseg_kfp.results.formats import export_labelstudio
from clipseg_kfp.results.formats.brush import encode_brush, encode_region
from clipseg_kfp.results.formats.labelstudio import labeling_config

Mask = NDArray[np.bool_]
NAMES = [(4, 'a "cat" & <dog> \'s'), (1, "line\nbreak\tü"), (2, "bell \x07 \udc80")]


class Bits:
    """The stream of bits of rle-pack, the highest of a byte first."""

    def __init__(self, data: list[int]) -> None:
        self._bits = "".join(f"{byte:08b}" for byte in data)
        self._at = 0

    def read(self, count: int) -> int:
        self._at += count
        return int(self._bits[self._at - count : self._at], 2)


def decode(data: list[int], height: int, width: int) -> Mask:
    """An unpacker after rle-pack's rules, bit by bit; the channels must agree."""
    bits = Bits(data)
    total, word = bits.read(32), bits.read(5) + 1
    sizes = [bits.read(4) + 1 for _ in range(4)]
    values: list[int] = []
    while len(values) < total:
        repeated = bits.read(1)
        count = bits.read(sizes[bits.read(2)]) + 1
        values += [bits.read(word)] * count if repeated else [bits.read(word) for _ in range(count)]
    pixels = np.array(values).reshape(height, width, 4)
    assert (pixels == pixels[..., :1]).all()
    assert set(np.unique(pixels)) <= {0, 255}
    return np.asarray(pixels[..., 3] == 255)


@settings(deadline=None, max_examples=100)
@given(arrays(bool, st.tuples(st.integers(1, 20), st.integers(1, 20))))
def test_brushes_come_back(mask: Mask) -> None:
    assert (decode(encode_brush(mask), *mask.shape) == mask).all()
    assert encode_brush(np.asfortranarray(mask)) == encode_brush(mask)
    height, width = mask.shape
    for part in components(mask):
        assert encode_region(part, width, height) == encode_brush(part.full(width, height))


@pytest.mark.parametrize("run", [1, 2, 4, 5, 63, 64, 65, 16_383, 16_384, 16_385, 32_768, 40_000])
def test_runs_of_every_size(run: int) -> None:
    mask = np.zeros((1, 50_000), bool)
    mask[0, 3 : 3 + run] = True
    assert (decode(encode_brush(mask), 1, 50_000) == mask).all()


@pytest.mark.parametrize("value", [False, True])
def test_one_value_is_few_bytes(value: bool) -> None:
    packed = encode_brush(np.full((300, 400), value))
    assert (decode(packed, 300, 400) == value).all()
    assert len(packed) < 40


def test_bytes_are_those_of_label_studios_converter() -> None:
    """What mask2rle of label-studio-sdk 2.1.2 gave for these masks."""
    mask = np.zeros((5, 7), bool)
    mask[1:4, 2:5] = True
    mask[2, 3] = False
    assert encode_brush(mask) == [
        0, 0, 0, 140, 57, 27, 254, 35, 0, 183, 255, 124, 2, 63, 248, 192, 35, 255, 190, 1, 111, 255, 17, 128,
        0,
    ]  # fmt: skip
    y, x = np.indices((60, 90))
    ring = ((x - 40) ** 2 + (y - 30) ** 2 < 600) & ((x - 45) ** 2 + (y - 28) ** 2 >= 60)
    packed = encode_brush(ring)
    assert len(packed) == 322
    assert (
        hashlib.sha256(bytes(packed)).hexdigest()
        == "41549034f2051cb361434678bb8ae63499c67732e2b6b6d03ee1c505af70456f"
    )


@pytest.mark.parametrize("shape", [(0, 5), (1 << 15, 1 << 15)])
def test_masks_that_the_format_cannot_hold(shape: tuple[int, int]) -> None:
    with pytest.raises(ValueError):
        encode_brush(np.broadcast_to(np.zeros(1, bool), shape))


def export(folder: Path, masks: dict[tuple[str, int], Mask], **options: Any) -> tuple[list[Any], Any]:
    images, rows = tables(masks)
    path = folder / "tasks.json"
    count = export_labelstudio(path, iter([quarantined("bad"), *images]), iter(rows), NAMES, **options)
    assert count == len(images)
    return json.loads(path.read_text("utf-8")), ElementTree.parse(path.with_suffix(".xml")).getroot()


def check_against(config: Any, results: list[Any], width: int, height: int) -> list[str]:
    """Holds results against the labeling interface, as Label Studio does; returns their labels."""
    control = next(tag for tag in config if tag.get("toName"))
    picture = next(tag for tag in config if tag.tag == "Image")
    allowed = {label.get("value") for label in control}
    kind = control.tag.lower()
    for result in results:
        assert result["type"] == kind
        assert result["from_name"] == control.get("name")
        assert result["to_name"] == control.get("toName") == picture.get("name")
        assert (result["original_width"], result["original_height"]) == (width, height)
        assert result["image_rotation"] == 0
        assert set(result["value"][kind]) <= allowed
    assert len({result["id"] for result in results}) == len(results)
    assert picture.get("value") == "$image"
    return [result["value"][kind][0] for result in results]


@pytest.mark.parametrize("instances", [False, True])
def test_tasks_with_brushes(tmp_path: Path, instances: bool) -> None:
    masks = {(name, category): mask for name, mask in odd_masks().items() for category in (1, 4)}
    tasks, config = export(tmp_path, masks, instances={1} if instances else ())
    assert [task["data"]["image"] for task in tasks] == [f"s3://bucket/{name}" for name in odd_masks()]
    for task in tasks:
        mask = masks[task["data"]["key"], 1]
        (prediction,) = task["predictions"]
        labels = check_against(config, prediction["result"], *mask.shape[::-1])
        whole = int(mask.any())
        parts = len(list(components(mask))) if instances else whole
        assert labels == ["line\nbreak\tü"] * parts + ['a "cat" & <dog> \'s'] * whole
        found = [decode(result["value"]["rle"], *mask.shape) for result in prediction["result"]]
        assert (np.logical_or.reduce([np.zeros_like(mask), *found[:parts]]) == mask).all()
        assert prediction["score"] == (0.75 if mask.any() else 0)
        assert prediction["model_version"] == "clipseg-kfp"


def test_tasks_with_polygons(tmp_path: Path) -> None:
    mask = blobs(300, 400, 50)
    tasks, config = export(tmp_path, {("a", 4): mask, ("empty", 4): ~np.ones((4, 4), bool)}, as_polygons=True)
    results = tasks[0]["predictions"][0]["result"]
    check_against(config, results, 400, 300)
    canvas = np.zeros((1200, 1600), np.uint8)  # four times the size: points lie on the pixels' edges
    for result in results:
        points = np.array(result["value"]["points"])
        assert points.min() >= 0
        assert points.max() <= 100
        assert result["value"]["closed"] is True
        cv2.fillPoly(canvas, [(points * (16, 12)).round().astype(np.int32)], 1)
    assert iou(canvas[2::4, 2::4].astype(bool), mask) >= 0.98
    assert tasks[1]["predictions"][0]["result"] == []


def test_images_may_be_at_other_addresses(tmp_path: Path) -> None:
    tasks, _ = export(
        tmp_path,
        {("a b.jpg", 1): np.eye(3, dtype=bool)},
        url=lambda row: f"/data/local-files/?d={row['key']}",
    )
    assert tasks[0]["data"]["image"] == "/data/local-files/?d=a b.jpg"


def test_hostile_keys_and_names(tmp_path: Path) -> None:
    keys = [*HOSTILE, "lone \udc80.jpg"]
    tasks, config = export(tmp_path, {(key, 2): np.eye(3, dtype=bool) for key in keys})
    assert [task["data"]["key"] for task in tasks] == keys
    for task in tasks:
        assert check_against(config, task["predictions"][0]["result"], 3, 3) == [r"bell \x07 \udc80"]


def test_the_interface_has_all_labels_in_distinct_colors() -> None:
    names = [f"<{i}>" for i in range(40)]
    control = ElementTree.fromstring(labeling_config(names, "polygon"))[1]
    assert control.tag == "PolygonLabels"
    assert [label.get("value") for label in control] == names
    assert len({label.get("background") for label in control}) == 40


def test_what_is_wrong_is_said(tmp_path: Path) -> None:
    images, rows = tables({("a.jpg", 1): np.eye(3, dtype=bool)})
    cases: list[tuple[Any, str]] = [
        ([], "export_no_category"),
        ([(1, "x"), (2, "x")], "export_duplicate_category"),
        ([(1, "\x07"), (2, r"\x07")], "export_duplicate_category"),
        ([(2, "x")], "export_unknown_category"),
    ]
    for categories, code in cases:
        with fails(code):
            export_labelstudio(tmp_path / "t.json", images, rows, categories)
    assert list(tmp_path.iterdir()) == []
