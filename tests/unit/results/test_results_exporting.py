"""Exports of committed runs: which images they hold, and in which version."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from codes import fails

from clipseg_kfp import records
from clipseg_kfp.masks.raster import Sums, measure
from clipseg_kfp.results import IMAGES, MASKS, Counts, Results
from clipseg_kfp.results.export import FORMATS, export_runs
from clipseg_kfp.storage import open_folder

PROMPTS = [{"id": 3, "name": "cat", "instances": False}, {"id": 5, "name": "dog", "instances": True}]


def commit(results: Results, work: Path, run: str, images: list[tuple[str, str, str]]) -> dict[str, Any]:
    """A run whose masks have as many pixels as the version says."""
    results.describe({"configuration": results.config})
    rows, masks = [], []
    for key, version, status in images:
        base = {"source": f"s3://in/{key}", "key": key, "version": version, "width": 8, "height": 6}
        rows.append({**dict.fromkeys(records.RUN_IMAGES.names), **base, "status": status})
        for prompt in PROMPTS if status == "done" else ():
            mask = np.zeros((6, 8), bool)
            mask[1:3, 1 : 1 + int(version)] = True
            measures = measure(mask, Sums(int(mask.sum()), 0.9, 0.1, 1.0))
            masks.append(
                {
                    **dict.fromkeys(records.MASKS.names),
                    **base,
                    "prompt": prompt["name"],
                    "category_id": prompt["id"],
                    "area": measures.area,
                    "bbox": measures.bbox,
                    "rle": measures.rle,
                    "score": measures.score,
                    "mask": f"masks/{key}",
                    "mask_sha256": "",
                    "probability": "",
                }
            )
    attempt = results.begin(run, [run, images])
    for name, schema, content in ((IMAGES, records.RUN_IMAGES, rows), (MASKS, records.MASKS, masks)):
        records.write_parquet(work / run / name, schema, content)
        attempt.add(name, work / run / name)
    done = sum(status == "done" for *_, status in images)
    counts = Counts(len(images), done, 0, len(images) - done, len(masks))
    return attempt.commit(counts, {"prompts": PROMPTS, "dataset_digest": run, "parts": []})


@pytest.fixture
def results(tmp_path: Path) -> Results:
    return Results(open_folder(str(tmp_path / "out")), "0" * 16)


@pytest.fixture
def runs(results: Results, tmp_path: Path) -> list[dict[str, Any]]:
    """Two runs, the latest first; the second has a new version of b, and d for the first time."""
    first = [
        ("a.jpg", "1", "done"),
        ("b.jpg", "2", "done"),
        ("bad.jpg", "1", "quarantined"),
        ("c.jpg", "3", "done"),
    ]
    second = [("b.jpg", "4", "done"), ("d.jpg", "5", "done")]
    old = commit(results, tmp_path / "work", "first", first)
    return [commit(results, tmp_path / "work", "second", second), old]


def test_one_run_and_all_runs_in_coco(results: Results, runs: list[dict[str, Any]], tmp_path: Path) -> None:
    path = tmp_path / "coco.json"
    assert export_runs(results, runs[1:], "coco", path) == (3, 0)
    assert [i["file_name"] for i in json.loads(path.read_text())["images"]] == ["a.jpg", "b.jpg", "c.jpg"]
    assert export_runs(results, runs, "coco", path) == (4, 1)
    found = json.loads(path.read_text())
    names = {image["id"]: image["file_name"] for image in found["images"]}
    assert sorted(names.values()) == ["a.jpg", "b.jpg", "c.jpg", "d.jpg"]
    areas = {(names[a["image_id"]], a["category_id"]): a["area"] for a in found["annotations"]}
    widths = {"a.jpg": 1, "b.jpg": 4, "c.jpg": 3, "d.jpg": 5}
    assert areas == {(name, number): 2 * width for name, width in widths.items() for number in (3, 5)}
    assert found["categories"] == [{"id": 3, "name": "cat"}, {"id": 5, "name": "dog"}]


def test_the_other_formats(results: Results, runs: list[dict[str, Any]], tmp_path: Path) -> None:
    assert export_runs(results, runs, "csv", tmp_path / "masks.csv") == (4, 1)
    with (tmp_path / "masks.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["key"], row["version"]) for row in rows[::2]] == [
        ("b.jpg", "4"), ("d.jpg", "5"), ("a.jpg", "1"), ("c.jpg", "3"),
    ]  # fmt: skip
    assert export_runs(results, runs, "yolo", tmp_path / "yolo") == (4, 1)
    labels = sorted(path.name for path in (tmp_path / "yolo" / "labels").iterdir())
    assert labels == ["a.txt", "b.txt", "c.txt", "d.txt"]
    assert export_runs(results, runs, "labelstudio", tmp_path / "tasks.json") == (4, 1)
    tasks = json.loads((tmp_path / "tasks.json").read_text())
    assert {task["data"]["image"] for task in tasks} == {f"s3://in/{n}.jpg" for n in "abcd"}


def test_outlines_and_where_label_studio_finds_images(
    results: Results, runs: list[dict[str, Any]], tmp_path: Path
) -> None:
    path = tmp_path / "out.json"
    export_runs(results, runs, "coco-polygons", path, tolerance=0)
    found = json.loads(path.read_text())
    shapes = {a["area"]: a["segmentation"] for a in found["annotations"]}
    assert shapes[2] == [[1, 1, 2, 1, 2, 3, 1, 3]]
    prefix = "/data/local-files/?d=my photos/".replace(" ", "%20")
    export_runs(results, runs, "labelstudio-polygons", path, image_url_prefix=prefix)
    tasks = json.loads(path.read_text())
    assert {task["data"]["image"] for task in tasks} == {f"{prefix}{name}.jpg" for name in "abcd"}
    assert tasks[0]["predictions"][0]["result"][0]["type"] == "polygonlabels"
    assert "<PolygonLabels" in path.with_suffix(".xml").read_text()
    with fails("format_option", where="tolerance"):
        export_runs(results, runs, "coco", path, tolerance=2)
    with fails("tolerance_out_of_range", where="tolerance"):
        export_runs(results, runs, "coco-polygons", path, tolerance=-1)
    with fails("format_option", where="image_url_prefix"):
        export_runs(results, runs, "csv", path, image_url_prefix="http://x/")


def test_what_cannot_be_exported_is_said(
    results: Results, runs: list[dict[str, Any]], tmp_path: Path
) -> None:
    with fails("format_unknown", where="format"):
        export_runs(results, runs, "voc", tmp_path / "x")
    for name in set(FORMATS) - {"yolo"}:
        with fails("export_target_folder", where=str(tmp_path)):
            export_runs(results, runs, name, tmp_path)
