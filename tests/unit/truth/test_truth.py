"""Ground truth in the formats that people keep it in; every sample is made here, in the real form."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from codes import fails
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from clipseg_kfp.errors import StorageError
from clipseg_kfp.truth import Classes, GroundTruth, Reader, Truth, TruthIndex, open_truth

WIDTH, HEIGHT = 20, 12


def png(values: NDArray[Any], mode: str = "", palette: bool = False) -> bytes:
    image = Image.fromarray(values)
    if palette:
        image.putpalette([value for i in range(256) for value in (i * 37 % 256, i * 91 % 256, i)])
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def write(folder: Path, files: dict[str, bytes | str]) -> str:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data if isinstance(data, bytes) else data.encode())
    return str(folder)


def masks_of(index: TruthIndex, key: str, width: int = WIDTH, height: int = HEIGHT) -> dict[str, Truth]:
    """All ground truth of an image by class."""
    reader = Reader()
    return {one.prompt: reader.read(one, width, height) for one in index.of(key, index.classes)}


def coco_file(**changes: Any) -> dict[str, Any]:
    """Polygons, run lengths of both kinds, a crowd, two instances of a class, and an image without any."""
    crowd = np.zeros((HEIGHT, WIDTH), np.uint8)
    crowd[8:, 10:] = 1
    counts = _runs(crowd)
    packed = coco_mask.encode(np.asfortranarray(crowd))["counts"].decode()
    return {
        "images": [
            {"id": 7, "file_name": "val/a.jpg", "width": WIDTH, "height": HEIGHT},
            {"id": 9, "file_name": "b.jpg", "width": WIDTH, "height": HEIGHT},
        ],
        "categories": [{"id": 1, "name": "cat"}, {"id": 18, "name": "dog"}, {"id": 44, "name": "cup"}],
        "annotations": [
            {
                "id": 1,
                "image_id": 7,
                "category_id": 1,
                "segmentation": [[1, 1, 6, 1, 6, 5, 1, 5]],
                "iscrowd": 0,
            },
            {
                "id": 2,
                "image_id": 7,
                "category_id": 1,
                "segmentation": [[9, 1, 12, 1, 12, 4, 9, 4], [14, 2, 17, 2, 17, 6, 14, 6]],
                "iscrowd": 0,
            },
            {
                "id": 3,
                "image_id": 7,
                "category_id": 1,
                "segmentation": {"size": [HEIGHT, WIDTH], "counts": counts},
                "iscrowd": 1,
            },
            {
                "id": 4,
                "image_id": 7,
                "category_id": 18,
                "segmentation": {"size": [HEIGHT, WIDTH], "counts": packed},
                "iscrowd": 0,
            },
        ],
        **changes,
    }


def _runs(mask: NDArray[np.uint8]) -> list[int]:
    """COCO's uncompressed counts: down the columns, background first."""
    flat = mask.ravel("F").astype(int)
    ends = [0, *(np.flatnonzero(np.diff(flat)) + 1).tolist(), flat.size]
    return [0] * bool(flat[0]) + np.diff(ends).tolist()


# COCO


def test_coco_against_pycocotools(tmp_path: Path) -> None:
    place = write(tmp_path, {"instances.json": json.dumps(coco_file())})
    index = open_truth(f"{place}/instances.json")
    found = masks_of(index, "images/val/a.jpg")
    assert set(found) == {"cat", "dog", "cup"}
    theirs = COCO(f"{place}/instances.json")
    for category, name in ((1, "cat"), (18, "dog")):
        masks = [
            theirs.annToMask(one) for one in theirs.loadAnns(theirs.getAnnIds(imgIds=7, catIds=category))
        ]
        expected = np.any(masks, axis=0)
        assert (found[name].mask == expected).all() and expected.any()
        assert found[name].valid is None
    assert not found["cup"].mask.any() and found["cup"].mask.shape == (HEIGHT, WIDTH), (
        "annotated, and not there"
    )
    assert {name: truth.mask.any() for name, truth in masks_of(index, "b.jpg").items()} == dict.fromkeys(
        found, False
    )
    assert masks_of(index, "c.jpg") == {}, "the file says nothing of it"


def test_coco_by_hand(tmp_path: Path) -> None:
    place = write(tmp_path, {"x.json": json.dumps(coco_file())})
    cat = masks_of(open_truth(f"{place}/x.json", "coco"), "a.jpg")["cat"].mask
    expected = np.zeros((HEIGHT, WIDTH), bool)
    expected[1:5, 1:6] = expected[1:4, 9:12] = expected[2:6, 14:17] = expected[8:, 10:] = True
    assert (cat == expected).all()


def test_only_named_categories_are_missing_in_lvis(tmp_path: Path) -> None:
    value = coco_file()
    value["images"][0]["neg_category_ids"] = [44]
    value["images"][1]["neg_category_ids"] = []
    index = open_truth(f"{write(tmp_path, {'lvis.json': json.dumps(value)})}/lvis.json")
    assert set(masks_of(index, "a.jpg")) == {"cat", "dog", "cup"}
    assert set(masks_of(index, "b.jpg")) == set()


def test_classes_that_nobody_wants_are_named_only_where_they_are(tmp_path: Path) -> None:
    index = open_truth(f"{write(tmp_path, {'x.json': json.dumps(coco_file())})}/x.json")
    assert [one.prompt for one in index.of("b.jpg", ["cat"])] == ["cat"]
    assert [one.prompt for one in index.of("a.jpg", ["cup"])] == ["cat", "dog", "cup"]


@pytest.mark.parametrize(
    ("changes", "code", "where"),
    [
        ({"categories": None}, "truth_not_coco", "x.json"),
        ({"annotations": [{"image_id": 7}]}, "truth_not_coco", "x.json"),
        (
            {"annotations": [{"image_id": 3, "category_id": 1, "segmentation": [[0] * 6]}]},
            "truth_dangling_reference",
            "annotations[0]",
        ),
    ],
)
def test_broken_coco_files_are_named(tmp_path: Path, changes: dict[str, Any], code: str, where: str) -> None:
    place = write(tmp_path, {"x.json": json.dumps(coco_file(**changes))})
    with fails(code) as caught:
        open_truth(f"{place}/x.json")
    assert caught.value.where.endswith(where) and f"{place}/x.json" in caught.value.message


def test_a_box_without_a_shape_makes_its_category_unknown_in_its_image(tmp_path: Path) -> None:
    """And nowhere else: one such annotation in a file of thousands costs neither the file nor the image."""
    value = coco_file()
    value["annotations"].append({"image_id": 7, "category_id": 1, "bbox": [0, 0, 1, 1]})
    value["annotations"].append({"image_id": 9, "category_id": 18, "segmentation": [], "bbox": [0, 0, 1, 1]})
    index = open_truth(f"{write(tmp_path, {'x.json': json.dumps(value)})}/x.json")
    assert set(masks_of(index, "a.jpg")) == {"dog", "cup"}
    assert set(masks_of(index, "b.jpg")) == {"cat", "cup"}
    (remark,) = index.left_out
    assert remark.startswith(f"{tmp_path.as_uri()}/x.json: 2 ")


def test_ids_may_be_text(tmp_path: Path) -> None:
    value = coco_file()
    for one in (*value["images"], *value["categories"]):
        one["id"] = str(one["id"])
    for one in value["annotations"]:
        one |= {name: str(one[name]) for name in ("image_id", "category_id")}
    value["images"][1]["neg_category_ids"] = ["44"]
    index = open_truth(f"{write(tmp_path, {'x.json': json.dumps(value)})}/x.json")
    same = open_truth(f"{write(tmp_path, {'y.json': json.dumps(coco_file())})}/y.json")
    for name, truth in masks_of(same, "a.jpg").items():
        assert (masks_of(index, "a.jpg")[name].mask == truth.mask).all()
    assert set(masks_of(index, "b.jpg")) == {"cup"}


@pytest.mark.parametrize("shape", [{"size": [3, 3], "counts": [9]}, [["x"] * 6], 5, {"size": [12, 20]}])
def test_broken_shapes_cost_one_image(shape: Any) -> None:
    truth = GroundTruth.of_shapes("cat", "s3://b/x.json", [shape], (HEIGHT, WIDTH))
    with fails("truth_shape_malformed", where="s3://b/x.json"):
        Reader().read(truth, WIDTH, HEIGHT)


# PhraseCut


def test_phrasecut(tmp_path: Path) -> None:
    tasks = [
        {
            "task_id": "2319950__2",
            "image_id": 2319950,
            "ann_ids": [1, 2],
            "phrase": "black cat",
            "instance_boxes": [[1, 1, 5, 4], [9, 1, 3, 3]],
            "phrase_structure": {"name": "cat", "attributes": ["black"]},
            "Polygons": [[[[1, 1], [6, 1], [6, 5], [1, 5]]], [[[9, 1], [12, 1], [12, 4], [9, 4]]]],
        },
        {
            "task_id": "2319950__3",
            "image_id": 2319950,
            "phrase": "wooden table",
            "Polygons": [[[[0, 8], [20, 8], [20, 12], [0, 12]]]],
        },
    ]
    place = write(tmp_path, {"refer_val.json": json.dumps(tasks)})
    index = open_truth(f"{place}/refer_val.json")
    found = masks_of(index, "images/2319950.jpg")
    expected = np.zeros((HEIGHT, WIDTH), bool)
    expected[1:5, 1:6] = expected[1:4, 9:12] = True
    assert (found["black cat"].mask == expected).all()
    assert found["wooden table"].mask.sum() == 4 * WIDTH
    assert index.classes == ["black cat", "wooden table"]
    assert masks_of(index, "17.jpg") == {}


def test_broken_phrasecut_tasks_are_named(tmp_path: Path) -> None:
    place = write(tmp_path, {"x.json": json.dumps([{"image_id": 1, "phrase": "cat"}])})
    with fails("truth_not_phrasecut", where="[0]"):
        open_truth(f"{place}/x.json")


# Label maps


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
@pytest.mark.parametrize("table", ["json", "list", "csv"])
def test_label_maps(tmp_path: Path, kind: type[np.generic], table: str) -> None:
    labels = np.zeros((HEIGHT, WIDTH), kind)
    labels[:3], labels[3:6], labels[6:7] = 1, 2, 200
    tables = {
        "json": ("classes.json", '{"classes": {"1": "cat", "2": "dog", "3": "cat"}, "ignored": [200]}'),
        "list": ("classes.json", '{"classes": ["background", "cat", "dog"], "ignored": [200]}'),
        "csv": ("classes.csv", "value,name\n1,cat\n2,dog\n200,\n"),
    }
    name, text = tables[table]
    place = write(tmp_path, {name: text, "deep/a.png": png(labels)})
    for uri in (place, f"{place}/", f"{place}/{name}"):
        found = masks_of(open_truth(uri), "deep/a.jpg")
        assert (found["cat"].mask == (labels == 1)).all()
        assert (found["dog"].mask == (labels == 2)).all()
        assert found["cat"].valid is not None and (found["cat"].valid == (labels != 200)).all()


def test_pascal_voc(tmp_path: Path) -> None:
    """Palette pictures, as in VOCdevkit: the index counts and not the color; 255 is void."""
    labels = np.zeros((HEIGHT, WIDTH), np.uint8)
    labels[2:8, 3:9], labels[2:8, 9], labels[9:, :4] = 8, 255, 15
    place = write(
        tmp_path,
        {"SegmentationClass/2007_000032.png": png(labels, palette=True), "JPEGImages/2007_000032.jpg": b"x"},
    )
    assert Image.open(tmp_path / "SegmentationClass/2007_000032.png").mode == "P"
    for uri in (place, f"{place}/SegmentationClass", f"{place}/SegmentationClass/"):
        index = open_truth(uri)
        found = masks_of(index, "JPEGImages/2007_000032.jpg")
        assert len(found) == 20
        assert (found["cat"].mask == (labels == 8)).all() and (found["person"].mask == (labels == 15)).all()
        assert found["cat"].valid is not None and (found["cat"].valid == (labels != 255)).all()
        assert not found["sheep"].mask.any()
        assert index.place.endswith("SegmentationClass/")


def test_a_colored_picture_is_no_label_map(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "classes.json": '{"classes": {"1": "cat"}}',
            "a.png": png(np.zeros((4, 4, 3), np.uint8)),
            "b.png": b"no",
        },
    )
    index = open_truth(str(tmp_path))
    for name, code in (("a", "unsupported_format"), ("b", "mislabelled")):
        with fails(code, where=f"{tmp_path.as_uri()}/{name}.png"):
            masks_of(index, f"{name}.jpg")


@pytest.mark.parametrize("text", ["[]", "{", '{"classes": 5}', '{"classes": {"x": "cat"}}'])
def test_broken_tables_are_named(tmp_path: Path, text: str) -> None:
    with fails("truth_not_a_table", where=f"{tmp_path.as_uri()}/classes.json"):
        open_truth(write(tmp_path, {"classes.json": text}))


# Mask folders


def test_mask_folders(tmp_path: Path) -> None:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[:5] = 255
    place = write(
        tmp_path, {"cat/deep/a.png": png(mask), "dog/deep/a.png": png(255 - mask), "dog/b.png": png(mask)}
    )
    index = open_truth(place)
    found = masks_of(index, "deep/a.jpg")
    assert (found["cat"].mask == (mask > 0)).all() and (found["dog"].mask == (mask == 0)).all()
    assert set(masks_of(index, "x/b.jpg")) == {"dog"}
    assert index.classes == ["cat", "dog"]


def test_nothing_there(tmp_path: Path) -> None:
    with fails("truth_empty", where=tmp_path.as_uri()):
        open_truth(write(tmp_path, {"loose.png": b"x"}))
    with pytest.raises(StorageError):
        open_truth(f"{tmp_path}/none.json")
    with fails("truth_format_unknown", where="ground_truth.format"):
        open_truth(str(tmp_path), "yolo")
    for kind in ("coco", "labels"):
        with fails("truth_other_format", where=str(tmp_path)):
            open_truth(str(tmp_path), kind)
    write(tmp_path, {"x.json": "5", "y.json": "{"})
    for name, code in (("x", "truth_other_format"), ("y", "truth_not_json")):
        with fails(code, where=f"{tmp_path.as_uri()}/{name}.json"):
            open_truth(f"{tmp_path}/{name}.json")


# Which image, which prompt


def test_one_truth_for_two_images_is_an_error(tmp_path: Path) -> None:
    index = open_truth(f"{write(tmp_path, {'x.json': json.dumps(coco_file())})}/x.json")
    assert list(index.of("x/b.jpg", [])) == []
    with fails("truth_ambiguous", where="b.jpg") as caught:
        list(index.of("y/b.jpg", []))
    assert "x/b.jpg" in caught.value.message and "y/b.jpg" in caught.value.message


def test_equal_names_in_several_folders_are_kept_apart(tmp_path: Path) -> None:
    value = coco_file()
    value["images"][1]["file_name"] = "train/a.jpg"
    index = open_truth(f"{write(tmp_path, {'x.json': json.dumps(value)})}/x.json")
    assert masks_of(index, "images/val/a.jpg")["cat"].mask.any()
    assert not masks_of(index, "images/train/a.jpg")["cat"].mask.any()
    assert masks_of(index, "other/a.jpg") == {}, "which of both is meant, nobody knows"


def test_classes_find_their_prompts() -> None:
    classes = Classes(["a cat", "cat", "Dining Table", "tv"], {"a cat": "cat", "tv": "tvmonitor"})
    assert classes.prompts_of("cat") == ["a cat", "cat"]
    assert classes.prompts_of("diningtable") == ["Dining Table"]
    assert classes.prompts_of("tvmonitor") == ["tv"]
    assert classes.prompts_of("tv") == [], "it looks for another class"
    with fails("truth_class_without_prompt", where="dog"):
        Classes(["cat"], {"dog": "cat"})


def test_signs_alone_are_names_too() -> None:
    assert Classes(["+", "-"]).prompts_of("+") == ["+"]
