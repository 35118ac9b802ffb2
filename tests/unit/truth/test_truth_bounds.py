"""Whatever a file of ground truth says: memory is bounded, and what cannot be used is not evaluated, by name."""

from __future__ import annotations

import io
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from codes import fails
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask
from test_truth import HEIGHT, WIDTH, coco_file, write

from clipseg_kfp.dataset.ground_truth import UNUSABLE
from clipseg_kfp.images.decode import ImageRejectedError, decode_labels, decode_mask
from clipseg_kfp.truth import (
    Classes,
    GroundTruth,
    Reader,
    UnusableTruthError,
    annotations,
    open_truth,
    stream,
)
from clipseg_kfp.truth.shapes import ShapeError, draw, parse

SQUARE = [[1, 1, 6, 1, 6, 5, 1, 5]]
PIXELS = 20  # of the square


def one_more(tmp_path: Path, segmentation: Any, **image: Any) -> str:
    """A COCO file whose image ``b.jpg`` has one annotation, of a cup."""
    value = coco_file()
    value["annotations"].append({"image_id": 9, "category_id": 44, "segmentation": segmentation})
    value["images"][1] |= image
    return f"{write(tmp_path, {'x.json': json.dumps(value)})}/x.json"


def read_all(uri: str, key: str) -> dict[str, int | tuple[str, str]]:
    """Pixels by class, or code and place of what is wrong."""
    found: dict[str, int | tuple[str, str]] = {}
    index = open_truth(uri)
    for truth in index.of(key, index.classes):
        try:
            found[truth.prompt] = int(Reader().read(truth, WIDTH, HEIGHT).mask.sum())
        except UnusableTruthError as error:
            found[truth.prompt] = error.code, error.where
    return found


BAD_SHAPES: dict[str, Any] = {
    "NaN": [[math.nan, 1, 6, 1, 6, 5]],
    "infinite": [[1, 1, math.inf, 1, 6, 5]],
    "400 digits": [[1, 1, 10**400, 1, 6, 5]],
    "corners": [[1, 1, 6, 5]],
    "point": [[1, 1]],
    "empty polygon": [[]],
    "one polygon of two": [*SQUARE, [1, 1]],
    "odd": [[1, 1, 6, 1, 6, 5, 1]],
    "flat": SQUARE[0],
    "pairs": [[[1, 1], [6, 1], [6, 5]]],
    "text": "abc",
    "numbers as text": [["1"] * 6],
    "true": [[True] * 6],
    "run lengths in a list": [{"size": [HEIGHT, WIDTH], "counts": [HEIGHT * WIDTH]}],
    "negative run": {"size": [HEIGHT, WIDTH], "counts": [100, -10, 150]},
    "NaN run": {"size": [HEIGHT, WIDTH], "counts": [math.nan, 240]},
    "half run": {"size": [HEIGHT, WIDTH], "counts": [100.5, 139.5]},
    "too short": {"size": [HEIGHT, WIDTH], "counts": [239]},
    "overflowing": {"size": [HEIGHT, WIDTH], "counts": [2**63, 2**63, 240]},
    "no size": {"counts": [240]},
    "no counts": {"size": [HEIGHT, WIDTH]},
    "size of text": {"size": "12", "counts": [240]},
    "negative size": {"size": [-HEIGHT, -WIDTH], "counts": [240]},
    "damaged text": {"size": [HEIGHT, WIDTH], "counts": "zz~\ud800"},
    "unended text": {"size": [HEIGHT, WIDTH], "counts": "oooo"},
}


@pytest.mark.parametrize("name", BAD_SHAPES)
def test_a_shape_that_is_not_understood_is_neither_absence_nor_the_end(name: str, tmp_path: Path) -> None:
    uri = one_more(tmp_path, BAD_SHAPES[name])
    assert read_all(uri, "b.jpg") == {"cat": 0, "dog": 0, "cup": ("truth_shape_malformed", "annotations[4]")}
    assert read_all(uri, "val/a.jpg")["cup"] == 0
    (remark,) = open_truth(uri).left_out
    assert "1 entries" in remark and "annotations[4]" in remark


@pytest.mark.parametrize(
    ("shape", "code"),
    [
        ([[0, 0, 2e7, 0, 2e7, 2e7]], "truth_shape_outside"),
        ([[0, 0, -2e8, 0, 5, 5]], "truth_shape_outside"),
        ([[0, 0, 1e300, 0, 5, 5]], "truth_shape_outside"),
        ([[WIDTH + 1, 0, WIDTH + 5, 0, WIDTH + 5, 5]], "truth_shape_empty"),
        ([[0, 0, WIDTH, HEIGHT] * 100_000], "truth_shape_too_large"),
        ([[1, 1, 5, 1, 5, 5]] * 200_000, "truth_shape_too_large"),
        ({"size": [10**6, 10**6], "counts": [10**12]}, "truth_shape_malformed"),
        ({"size": [WIDTH, HEIGHT], "counts": [240]}, "truth_shape_malformed"),
        ({"size": [HEIGHT, WIDTH], "counts": "0" * 3_000_000}, "truth_shape_too_large"),
    ],
)
def test_a_shape_that_would_take_too_much_is_named(shape: Any, code: str, tmp_path: Path) -> None:
    uri = one_more(tmp_path, shape)
    assert read_all(uri, "b.jpg") == {"cat": 0, "dog": 0, "cup": (code, "annotations[4]")}


def test_what_lies_a_bit_outside_is_clipped() -> None:
    assert draw([[[-5, -5, 25, -5, 25, 17, -5, 17]]], 12, 20).all()
    assert draw([[[10, 2, 39, 2, 39, 6, 10, 6]]], 12, 20).sum() == 4 * 10


@pytest.mark.parametrize("counts", ["list", "text"])
def test_run_lengths_of_both_kinds_against_pycocotools(counts: str) -> None:
    rng = np.random.default_rng(3)
    for _ in range(100):
        height, width = (int(side) for side in rng.integers(1, 60, 2))
        mask = np.asfortranarray((rng.random((height, width)) < rng.random()).astype(np.uint8))
        shape: dict[str, Any] = {"size": [height, width]}
        shape["counts"] = coco_mask.encode(mask)["counts"].decode() if counts == "text" else _runs(mask)
        np.testing.assert_array_equal(draw([shape], height, width), mask.astype(bool))


def _runs(mask: NDArray[np.uint8]) -> list[int]:
    runs, last = [0], 0
    for value in mask.ravel("F").tolist():
        if value != last:
            runs.append(0)
        runs[-1], last = runs[-1] + 1, value
    return runs


def test_memory_of_one_coordinate_is_bounded(tmp_path: Path) -> None:
    """In a process that may take 1 GB: 20 GB were taken once."""
    (tmp_path / "x.json").write_text(
        json.dumps([[[20, 20, x, 20, x, 60, 20, 60]] for x in (2e7, 2e8, 1e12, math.nan, 239)])
    )
    code = (
        "import json, resource, sys\n"
        "from clipseg_kfp.truth.shapes import ShapeError, draw\n"
        "taken = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (taken + (1 << 30),) * 2)\n"
        "for shape in json.load(open(sys.argv[1])):\n"
        "    try: print(int(draw([shape], 100, 120).sum()))\n"
        "    except ShapeError as error: print(error.code)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "x.json")],
        check=False,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.stdout.split() == [*["truth_shape_outside"] * 3, "truth_shape_malformed", "4000"], done.stderr


@pytest.mark.parametrize(
    ("image", "code"),
    [
        ({"width": 40_000, "height": 40_000}, "truth_too_large"),
        ({"width": math.nan}, "truth_shape_malformed"),
        ({"width": -20}, "truth_shape_malformed"),
        ({"width": "20"}, "truth_shape_malformed"),
        ({"height": 10**30}, "truth_shape_malformed"),
        ({"neg_category_ids": [math.nan]}, "truth_shape_malformed"),
        ({"not_exhaustive_category_ids": "all"}, "truth_shape_malformed"),
    ],
)
def test_an_image_that_cannot_be_so_is_not_evaluated(
    image: dict[str, Any], code: str, tmp_path: Path
) -> None:
    uri = one_more(tmp_path, SQUARE, **image)
    assert read_all(uri, "b.jpg") == dict.fromkeys(["cat", "dog", "cup"], (code, "images[1]"))
    assert read_all(uri, "a.jpg")["cup"] == 0


def test_the_limit_of_an_images_size_can_be_set(tmp_path: Path) -> None:
    uri = one_more(tmp_path, [[0, 0, 9000, 0, 9000, 9000]], width=9000, height=9000)
    for limit, kinds in ((50e6, {UNUSABLE}), (100e6, {"shapes"})):
        index = open_truth(uri, max_pixels=limit)
        assert {truth.kind for truth in index.of("b.jpg", index.classes)} == kinds


def test_a_height_alone_is_no_size(tmp_path: Path) -> None:
    assert read_all(one_more(tmp_path, SQUARE, width=None), "b.jpg")["cup"] == PIXELS


@pytest.mark.parametrize(
    ("annotation", "wrong"),
    [
        ({"image_id": 9, "category_id": 5}, True),
        ({"image_id": 9, "category_id": math.nan}, True),
        ({"image_id": 9}, True),
        ({"image_id": 77, "category_id": 1}, False),
        ({"image_id": math.inf, "category_id": 1}, False),
        (None, False),
    ],
)
def test_an_annotation_of_nothing_costs_its_image_alone(
    annotation: dict[str, Any] | None, wrong: bool, tmp_path: Path
) -> None:
    value = coco_file()
    value["annotations"].append(annotation and {"segmentation": SQUARE, **annotation})
    uri = f"{write(tmp_path, {'x.json': json.dumps(value)})}/x.json"
    names = ["cat", "dog", "cup"]
    expected = ("truth_dangling_reference", "annotations[4]")
    assert read_all(uri, "b.jpg") == dict.fromkeys(names, expected if wrong else 0)
    (remark,) = open_truth(uri).left_out
    assert "annotations[4]" in remark


@pytest.mark.parametrize(
    "change", [{"id": math.nan}, {"id": None}, {"file_name": None}, {"file_name": "x" * 5000}]
)
def test_an_image_without_a_name_or_id_is_left_out_by_place(change: dict[str, Any], tmp_path: Path) -> None:
    uri = one_more(tmp_path, SQUARE, **change)
    assert read_all(uri, "b.jpg") == {}
    (remark,) = open_truth(uri).left_out
    assert "images[1]" in remark and len(remark) < 1000


# Categories of one name


@pytest.mark.parametrize("names", [("cat", "cat"), ("Cat", "cat"), ("traffic light", "Traffic-Light")])
def test_categories_of_one_name_are_united(names: tuple[str, str], tmp_path: Path) -> None:
    value = coco_file(categories=[{"id": i, "name": name} for i, name in enumerate(names)], annotations=[])
    corner = [[15, 1, 18, 1, 18, 5, 15, 5]]
    for i, shape in enumerate((SQUARE, corner)):
        value["annotations"].append({"image_id": 7, "category_id": i, "segmentation": shape})
    index = open_truth(f"{write(tmp_path, {'x.json': json.dumps(value)})}/x.json")
    found = list(Classes([names[1]]).assign(index.of("a.jpg", index.classes)))
    assert [truth.prompt for truth in found] == [names[1]]
    assert Reader().read(found[0], WIDTH, HEIGHT).mask.sum() == PIXELS + 12


@pytest.mark.parametrize("second", ["cat", "Cat"])
def test_a_union_is_known_only_where_both_are(second: str, tmp_path: Path) -> None:
    value = coco_file(categories=[{"id": 0, "name": "cat"}, {"id": 1, "name": second}], annotations=[])
    value["annotations"] = [
        {"image_id": 7, "category_id": 0, "segmentation": SQUARE},
        {"image_id": 7, "category_id": 1, "bbox": [0, 0, 5, 5]},
        {"image_id": 9, "category_id": 0, "segmentation": SQUARE},
        {"image_id": 9, "category_id": 1, "segmentation": [[1, 2]]},
    ]
    index = open_truth(f"{write(tmp_path, {'x.json': json.dumps(value)})}/x.json")
    assert list(Classes(["cat"]).assign(index.of("a.jpg", index.classes))) == []
    (truth,) = Classes(["cat"]).assign(index.of("b.jpg", index.classes))
    with fails("truth_shape_malformed", where="annotations[3]"):
        Reader().read(truth, WIDTH, HEIGHT)


def test_one_id_for_two_names_is_an_error(tmp_path: Path) -> None:
    value = coco_file()
    value["categories"].append({"id": 1, "name": "mouse"})
    with fails("truth_duplicate_category", where="categories[3]"):
        open_truth(f"{write(tmp_path, {'x.json': json.dumps(value)})}/x.json")


def test_mask_folders_of_one_prompt_are_not_evaluated(tmp_path: Path) -> None:
    picture = _png(np.eye(4, dtype=np.uint8))
    place = write(tmp_path, {"Cat/a.png": picture, "cat/a.png": picture, "cat/b_mask.png": picture})
    index = open_truth(place)
    (truth,) = Classes(["cat"]).assign(index.of("a.jpg", index.classes))
    with fails("truth_two_classes"):
        Reader().read(truth, 4, 4)
    (truth,) = Classes(["cat"]).assign(index.of("deep/b.jpg", index.classes))
    assert Reader().read(truth, 4, 4).mask.sum() == 4


# PhraseCut


def test_a_bad_task_costs_its_phrase_alone(tmp_path: Path) -> None:
    good = [[[[1, 1], [6, 1], [6, 5], [1, 5]]]]
    bad: list[Any] = [[[[math.nan, 1], [6, 1], [6, 5]]]], [], None, [[[1, 2, 3]]], [[[[1, 1]]]]
    tasks: list[Any] = [
        {"image_id": "b", "phrase": f"bad {i}", "Polygons": shape} for i, shape in enumerate(bad)
    ]
    tasks += [{"image_id": "b", "phrase": "good", "Polygons": good}, {"phrase": "x"}, 5]
    uri = f"{write(tmp_path, {'x.json': json.dumps(tasks)})}/x.json"
    codes = {f"bad {i}": ("truth_shape_malformed", f"[{i}]") for i in range(len(bad))}
    assert read_all(uri, "b.jpg") == {**codes, "good": PIXELS}
    (remark,) = open_truth(uri).left_out
    assert "7 entries" in remark


# Large files


def test_files_are_read_in_pieces_whatever_their_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    value = coco_file()
    value["categories"][0]["name"] = "Kätzchen, \U0001f408"
    value["annotations"].append({"image_id": 9, "category_id": 44, "segmentation": [[math.nan] * 6]})
    expected = read_all(f"{write(tmp_path, {'x.json': json.dumps(value)})}/x.json", "a.jpg")
    assert expected["Kätzchen, \U0001f408"]
    order = ["annotations", "info", "categories", "licenses", "images"]
    value |= {"info": {"year": 12, "more": [1.5e3, None]}, "licenses": [[], 12, -1.25, "x"]}
    text = json.dumps({name: value[name] for name in order}, ensure_ascii=False, indent=3)
    for size in (1, 7, 64):
        monkeypatch.setattr(stream, "_CHUNK", size)
        for encoding in ("utf-8", "utf-8-sig", "utf-16"):
            (tmp_path / "y.json").write_bytes(text.encode(encoding))
            assert read_all(f"{tmp_path}/y.json", "a.jpg") == expected
            assert read_all(f"{tmp_path}/y.json", "b.jpg")["cup"] == (
                "truth_shape_malformed",
                "annotations[4]",
            )


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    """A file of 150 MB, more than was read once, in a process that may take 120 MB more than it has."""
    path = tmp_path / "large.json"
    points = [round(i * 0.37 % 12, 2) for i in range(3000)]
    with path.open("w") as file:
        file.write(
            '{"images": [{"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": "b.jpg"}],\n"annotations": ['
        )
        many = json.dumps({"image_id": 2, "category_id": 1, "segmentation": [points]})
        file.write(f"{many},\n" * (150_000_000 // len(many)))
        file.write(json.dumps({"image_id": 1, "category_id": 1, "segmentation": SQUARE}))
        file.write('], "categories": [{"id": 1, "name": "cat"}]}')
    assert path.stat().st_size > 128 << 20
    code = (
        "import resource, sys\n"
        "from clipseg_kfp.truth import Reader, open_truth\n"
        "taken = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (taken + 120_000_000,) * 2)\n"
        "index = open_truth(sys.argv[1])\n"
        "(truth,) = index.of('a.jpg', ['cat'])\n"
        "print(int(Reader().read(truth, 20, 12).mask.sum()))\n"
        "print([(one.kind, one.details['code']) for one in index.of('b.jpg', ['cat'])])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], check=False, capture_output=True, text=True, timeout=200
    )
    path.unlink()
    assert done.stdout.splitlines() == [
        str(PIXELS),
        str([(UNUSABLE, "truth_shape_too_large")]),
    ], done.stderr


@pytest.mark.parametrize(
    "text",
    [
        "",
        '{"images": [',
        '{"images": [}',
        '{"images" []}',
        "{5: 1}",
        '{"images": []} more',
        '{"images": ' + "[" * 200_000,
        '{"images": ["' + "x" * 100_000 + '"]}',
        b'{"images": ["\xff"]}',
    ],
)
def test_what_is_no_json_or_hides_too_much_in_one_element_is_refused(
    text: str | bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "MAX_ELEMENT_BYTES", 50_000)
    monkeypatch.setattr(stream, "_CHUNK", 4096)
    place = write(tmp_path, {"x.json": text})
    with fails("truth_not_json", where=f"{tmp_path.as_uri()}/x.json"):
        open_truth(f"{place}/x.json", "coco" if text else "auto")


@pytest.mark.parametrize(("name", "most"), [("MAX_IMAGES", 1), ("MAX_ANNOTATIONS", 3)])
def test_entries_are_bounded(name: str, most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(annotations, name, most)
    with fails("truth_too_many"):
        open_truth(f"{write(tmp_path, {'x.json': json.dumps(coco_file())})}/x.json")


# Pictures


def _png(values: NDArray[Any], kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, kind, **options)
    return buffer.getvalue()


def thing(kind: Any, top: float) -> NDArray[Any]:
    values = np.zeros((20, 30), kind)
    values[5:15, 2:12] = top
    return values


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize("top", [1, 2, 100, 128, 255, 65535])
def test_masks_of_16_bits(kind: str, top: int) -> None:
    mask = decode_mask(_png(thing(np.uint16, top), kind), "m")
    np.testing.assert_array_equal(mask, thing(bool, 1))


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (thing(np.uint8, 1), "PNG"),
        (thing(np.int32, 3), "TIFF"),
        (thing(np.int32, 2**31 - 1), "TIFF"),
        (thing(np.float32, 0.001), "TIFF"),
        (thing(bool, 1), "PNG"),
    ],
)
def test_masks_of_other_kinds(values: NDArray[Any], kind: str) -> None:
    np.testing.assert_array_equal(decode_mask(_png(values, kind), "m"), thing(bool, 1))


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_masks_of_16_bits_in_color(channels: int, suffix: str) -> None:
    import cv2

    values = np.repeat(thing(np.uint16, 1)[..., None], channels, axis=2)
    if channels == 4:
        values[..., :3] = 0  # only the opacity tells
    _, data = cv2.imencode(suffix, values)
    np.testing.assert_array_equal(decode_mask(data.tobytes(), "m"), thing(bool, 1))


def test_masks_of_16_bits_are_turned_upright() -> None:
    exif = Image.Exif()
    exif[0x112] = 6
    mask = decode_mask(_png(thing(np.uint16, 1), exif=exif), "m")
    np.testing.assert_array_equal(mask, np.rot90(thing(bool, 1), -1))


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize("values", [thing(np.uint8, 1), thing(np.uint16, 1), thing(np.uint16, 40_000)])
def test_label_maps_keep_their_values(values: NDArray[Any], kind: str) -> None:
    np.testing.assert_array_equal(decode_labels(_png(values, kind), "m"), values)


@pytest.mark.parametrize("top", [70_000, -1])
def test_values_that_no_label_map_has_are_not_wrapped(top: int) -> None:
    with pytest.raises(ImageRejectedError) as caught:
        decode_labels(_png(thing(np.int32, top), "TIFF"), "m")
    assert caught.value.code == "unsupported_format"


def test_a_picture_is_bounded_by_who_reads_it(tmp_path: Path) -> None:
    place = write(tmp_path, {"cat/a.png": _png(np.ones((300, 300), np.uint8))})
    (truth,) = open_truth(place).of("a.jpg", ["cat"])
    with fails("truth_too_large", where=truth.uri):
        Reader().read(truth, 30, 30, max_pixels=10_000)
    assert Reader().read(truth, 30, 30).mask.all()


@pytest.mark.parametrize(
    "text", ['{"classes": {"70000": "cat"}}', '{"classes": {"1": "cat"}, "ignored": [1e400]}']
)
def test_tables_hold_numbers_that_label_maps_have(text: str, tmp_path: Path) -> None:
    with fails("truth_not_a_table"):
        open_truth(write(tmp_path, {"classes.json": text}))


def test_a_reference_may_come_from_anywhere() -> None:
    for shape in BAD_SHAPES.values():
        with pytest.raises(ShapeError):
            parse(shape)
        truth = GroundTruth.of_shapes(
            "cat", "s3://b/x.json", [SQUARE, shape], (HEIGHT, WIDTH), ["[0]", "[1]"]
        )
        with fails("truth_shape_malformed", where="[1]"):
            Reader().read(truth, WIDTH, HEIGHT)
    with fails("truth_too_large"):
        Reader().read(GroundTruth.of_shapes("cat", "x", [SQUARE], (40_000, 40_000)), WIDTH, WIDTH)
