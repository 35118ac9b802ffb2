"""Logic, cleaning, Otsu, tiles, probability maps and formats through the whole chain of steps."""

from __future__ import annotations

import csv
import io
import json
import zipfile
from typing import Any

import numpy as np
import pytest
from codes import refuses
from probability_maps import read_probability
from pycocotools.coco import COCO
from steps_chain import Chain, Run, picture
from test_steps import contents, counts, put

from clipseg_kfp.masks import cleanup as cleaning
from clipseg_kfp.masks.raster import decode_rle
from clipseg_kfp.naming import safe_segment
from clipseg_kfp.results.formats import NAMES
from clipseg_kfp.storage import open_folder


def rows_of(run: Run, key: str = "a.png") -> dict[str, dict[str, Any]]:
    return {row["prompt"]: row for row in run.masks() if row["key"] == key}


def read(run: Run, name: str) -> bytes:
    """A file of the run."""
    return run.folder.read(f"runs/{safe_segment(run.manifest['run'])}/{name}")


def mask_of(row: dict[str, Any]) -> Any:
    return decode_rle(row["rle"], row["width"], row["height"])


def test_logic_and_hidden_prompts(chain: Chain) -> None:
    put(chain, {"a.png": picture(1)})
    run = chain(
        [
            {"text": "a circle", "id": 7},
            {"name": "red", "text": "red things", "hidden": True},
            {"name": "both", "logic": '"a circle" and red'},
            {"name": "either", "logic": '"a circle" or red'},
            {"name": "other", "logic": "not red", "threshold": 0.4},
        ],
        probability_bits=16,
    )
    rows = rows_of(run)
    assert [(row["prompt"], row["category_id"]) for row in run.masks()] == [
        ("a circle", 7), ("both", 3), ("either", 4), ("other", 5),
    ]  # fmt: skip
    maps = {name: read_probability(run.folder.read(row["probability"])) for name, row in rows.items()}
    assert (maps["both"] <= maps["a circle"] + 1e-4).all()
    assert (maps["either"] >= maps["a circle"] - 1e-4).all()
    # min(c, r) + max(c, r) = c + r, and "other" is 1 - r; enlarging is linear, so it holds afterwards, too
    red = 1 - maps["other"]
    assert np.abs(maps["both"] + maps["either"] - maps["a circle"] - red).max() < 1e-3
    assert maps["both"].std() > 0
    categories = json.loads(read(run, "annotations.coco.json"))["categories"]
    assert [(c["id"], c["name"]) for c in categories] == [
        (7, "a circle"), (3, "both"), (4, "either"), (5, "other"),
    ]  # fmt: skip
    assert [p["name"] for p in run.manifest["prompts"]] == ["a circle", "both", "either", "other"]
    labels = run.pixels(run.images()["a.png"]["label_map"])
    assert set(np.unique(labels)) <= {0, 7, 3, 4, 5}


def test_cleaning_otsu_and_instances(chain: Chain) -> None:
    put(chain, {"a.png": picture(1, 200, 150)})
    plain = rows_of(chain(["a circle"], threshold=0.47, probability_bits=8))["a circle"]
    cleaned = chain(
        [
            {"text": "a circle", "threshold": 0.47, "cleaning": {"min_area": "2%", "fill_holes": True}},
            {"name": "otsu", "text": "a circle", "threshold": "otsu"},
            {"name": "parts", "text": "a circle", "threshold": 0.55, "instances": True},
            {"name": "floor", "text": "a circle", "threshold": {"otsu": {"minimum": 0.97}}},
        ],
        formats=["labelstudio"],
    )
    rows = rows_of(cleaned)
    expected = cleaning.clean(mask_of(plain), min_area=round(0.02 * 200 * 150), fill_holes=True)
    assert (mask_of(rows["a circle"]) == expected).all()
    assert (cleaned.pixels(rows["a circle"]["mask"]) > 0).tolist() == expected.tolist()
    assert rows["a circle"]["area"] == expected.sum()
    assert 0 < rows["otsu"]["threshold"] < 1
    assert rows["otsu"]["threshold"] != 0.5
    assert rows["floor"]["threshold"] == 0.97 > rows["otsu"]["threshold"]
    found = mask_of(rows["otsu"])
    assert 0 < found.mean() < 1, "Otsu's method parts every map"
    regions = len(list(cleaning.components(mask_of(rows["parts"]))))
    assert regions > 1, "one region would prove nothing"
    written = json.loads(read(cleaned, "annotations.coco.json"))["annotations"]
    assert sum(a["category_id"] == 3 for a in written) == regions
    (task,) = json.loads(read(cleaned, "annotations.labelstudio.json"))
    brushes = [result["value"]["brushlabels"] for result in task["predictions"][0]["result"]]
    assert brushes.count(["parts"]) == regions
    assert brushes.count(["otsu"]) == 1
    assert "Otsu" in cleaned.published.report


def test_parameters_that_change_pixels_have_their_own_configuration(chain: Chain) -> None:
    put(chain, {"a.png": picture(1, 96, 64)})
    looks: list[dict[str, Any]] = [
        {}, {"flip": True}, {"tile_size": 40}, {"tile_size": 40, "tile_overlap": 0.5},
        {"precision": "bfloat16"}, {"tile_ground_resolution": 2.0, "meters_per_pixel": 1.0},
    ]  # fmt: skip
    runs = [chain(["a circle"], **look) for look in looks]
    assert len({run.config for run in runs}) == len(looks)
    assert all(counts(run) == (1, 1, 0, 0) for run in runs)
    assert chain(["a circle"], tile_overlap=0.5).config == runs[0].config, "without tiles it has no effect"
    assert chain(["a circle"], precision="float32").config == runs[0].config, "it is what auto takes"
    assert chain(["a circle"], flip=True).published.counts.skipped == 1


@pytest.mark.parametrize("chain", ["folder", "s3"], indirect=True)
def test_tiles(chain: Chain) -> None:
    put(chain, {"a.png": picture(1, 100, 70), "small.png": picture(2, 30, 20)})
    prompts = ["a circle", {"name": "none", "logic": 'not "a circle"'}, {"text": "red", "threshold": "otsu"}]
    run = chain(prompts, tile_size=48, probability_bits=16)
    assert counts(run) == (2, 2, 0, 0)
    assert run.maps == 2 * (3 * 2 + 1 + 1), "3 x 2 tiles and the whole, and the small one in whole"
    whole = chain(prompts, probability_bits=16)
    maps = [
        read_probability(each.folder.read(rows_of(each)["a circle"]["probability"])) for each in (run, whole)
    ]
    assert np.abs(maps[0] - maps[1]).max() > 1e-3, "tiles that change nothing would prove nothing"
    blended = read_probability(run.folder.read(rows_of(run)["red"]["probability"]))
    assert rows_of(run)["red"]["threshold"] == cleaning.otsu(blended), "of the map that is cut"
    same = [rows_of(each, "small.png")["a circle"]["rle"] for each in (run, whole)]
    assert same[0] == same[1]


def test_tiles_need_a_resolution_where_they_follow_from_it(chain: Chain) -> None:
    put(chain, {"a.png": picture(1, 100, 70)})
    run = chain(["a circle"], tile_ground_resolution=0.5)
    assert counts(run) == (1, 0, 0, 1)
    assert run.images()["a.png"]["reason"] == "no_resolution"
    assert counts(chain(["a circle"], tile_ground_resolution=0.5, meters_per_pixel=0.5)) == (1, 1, 0, 0)


def test_formats_beside_coco(chain: Chain) -> None:
    put(chain, {"a.png": picture(1), "b.png": picture(2)})
    run = chain(
        ["a circle", "red things"], threshold=0.45, formats=[name for name in NAMES if name != "coco"]
    )
    files = {file["name"] for file in run.manifest["files"]}
    assert {
        "annotations.yolo.zip",
        "annotations.labelstudio.json",
        "annotations.labelstudio.xml",
        "annotations.labelstudio-polygons.xml",
        "masks.csv",
    } < files
    with zipfile.ZipFile(io.BytesIO(read(run, "annotations.yolo.zip"))) as archive:
        assert {"labels/a.txt", "labels/b.txt"} <= set(archive.namelist())
    tasks = json.loads(read(run, "annotations.labelstudio.json"))
    assert len(tasks) == 2
    outlines = json.loads(read(run, "annotations.labelstudio-polygons.json"))
    kinds = {r["type"] for task in outlines for r in task["predictions"][0]["result"]}
    assert kinds == {"polygonlabels"}
    shapes = json.loads(read(run, "annotations.coco-polygons.json"))["annotations"]
    assert shapes and all(isinstance(shape["segmentation"], list) for shape in shapes)
    table = list(csv.DictReader(io.StringIO(read(run, "masks.csv").decode("utf-8-sig"))))
    assert len(table) == 4


def test_unknown_formats_and_depths(chain: Chain) -> None:
    put(chain, {"a.png": picture(1)})
    with refuses(("outputs.formats.0", "literal_error")):
        chain(formats=["pascal"])
    with refuses(("outputs.probability_bits", "literal_error")):
        chain(probability_bits=12)


def test_a_support_image_finds_itself_by_the_step(chain: Chain) -> None:
    put(chain, {"a.png": picture(1)})
    open_folder(chain.output).write("support/a.png", picture(1))
    run = chain([{"name": "like a", "image": f"{chain.output}/support/a.png"}, "a circle"])
    assert counts(run) == (1, 1, 0, 0)
    assert run.manifest["prompts"][0]["kind"] == "image"
    open_folder(chain.output).write("support/a.png", picture(2))
    again = chain([{"name": "like a", "image": f"{chain.output}/support/a.png"}, "a circle"])
    assert again.config != run.config, "another picture is another configuration"
    assert contents(chain.output)


def test_coco_loads_with_ids_that_stay(chain: Chain, tmp_path: Any) -> None:
    put(chain, {"a.png": picture(1), "b.png": picture(2)})
    ids = []
    for number, threshold in enumerate((0.45, 0.46), start=1):
        run = chain(["a circle"], threshold=threshold)
        path = tmp_path / f"{number}.json"
        path.write_bytes(read(run, "annotations.coco.json"))
        ids.append({image["file_name"]: image["id"] for image in COCO(str(path)).imgs.values()})
    assert ids[0] == ids[1]
