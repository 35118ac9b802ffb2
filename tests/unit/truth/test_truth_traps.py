"""Ground truth that would be taken for something else: names, sizes and pictures with a second meaning."""

from __future__ import annotations

import json
import re
import struct
import zlib
from pathlib import Path
from typing import Any

import pytest
from codes import fails
from test_truth import HEIGHT, WIDTH, coco_file, masks_of, write

from clipseg_kfp.truth import Classes, Reader, open_truth
from clipseg_kfp.truth.read import decode_labels, same_shape


def test_lvis_names_images_by_address_and_what_is_not_drawn_in_full(tmp_path: Path) -> None:
    value = coco_file()
    for image, name in zip(value["images"], ("a", "b"), strict=True):
        del image["file_name"]
        image["coco_url"] = f"http://images.cocodataset.org/val2017/{name}.jpg"
        image["neg_category_ids"] = []
    value["images"][0]["not_exhaustive_category_ids"] = [1]
    index = open_truth(f"{write(tmp_path, {'lvis.json': json.dumps(value)})}/lvis.json")
    assert set(masks_of(index, "val2017/a.jpg")) == {"dog"}


@pytest.mark.parametrize("change", [{"id": 7}, {"file_name": "val/a.jpg"}])
def test_images_of_one_name_or_id_do_not_hide_each_other(change: dict[str, Any], tmp_path: Path) -> None:
    value = coco_file()
    value["images"][1] |= change
    place = write(tmp_path, {"x.json": json.dumps(value)})
    with fails("truth_duplicate_image", where=f"{tmp_path.as_uri()}/x.json"):
        open_truth(f"{place}/x.json")


def test_names_are_found_however_accents_are_spelled(tmp_path: Path) -> None:
    value = coco_file()
    value["images"][0]["file_name"] = "caf\u00e9.jpg"
    index = open_truth(f"{write(tmp_path, {'x.json': json.dumps(value)})}/x.json")
    assert masks_of(index, "cafe\u0301.jpg")["cat"].mask.any()
    assert Classes(["caf\u00e9"]).prompts_of("cafe\u0301") == ["caf\u00e9"]


def test_ground_truth_on_its_side_is_left_out(tmp_path: Path) -> None:
    index = open_truth(f"{write(tmp_path, {'x.json': json.dumps(coco_file())})}/x.json")
    cat = next(iter(index.of("a.jpg", [])))
    assert Reader().read(cat, 2 * WIDTH, 2 * HEIGHT).mask.any()
    for scale in (1, 40):
        with fails("truth_turned", where=cat.uri) as caught:
            Reader().read(cat, scale * HEIGHT, scale * WIDTH)
        assert re.findall(r"\d+ x \d+", caught.value.message) == ["20 x 12", f"{12 * scale} x {20 * scale}"]
    with fails("truth_other_shape", where=cat.uri):
        Reader().read(cat, 900, 100)


@pytest.mark.parametrize(
    ("size", "image", "same"),
    [
        ((320, 240), (640, 480), True),
        ((213, 160), (640, 480), True),  # a third, rounded
        ((7, 5), (640, 480), True),  # as near as 5 rows come
        ((352, 352), (640, 480), False),
        ((640, 460), (640, 480), False),  # some rows were cut off
        ((634, 480), (640, 480), True),
        ((1, 1), (2, 1), True),
        ((240, 320), (640, 480), False),
    ],
)
def test_ground_truth_has_the_proportions_of_its_image(
    size: tuple[int, int], image: tuple[int, int], same: bool
) -> None:
    assert same_shape(*size, *image) == same


def test_gray_labels_of_few_bits_are_not_stretched(tmp_path: Path) -> None:
    packed = zlib.compress(b"\x00\x01\x00\x00\x00\x20")  # rows of 4-bit pixels: 0 1 0 and 0 0 2

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", 3, 2, 4, 0, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")
    assert decode_labels(data, "x.png").tolist() == [[0, 1, 0], [0, 0, 2]]
