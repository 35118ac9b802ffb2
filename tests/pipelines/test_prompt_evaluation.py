"""The prompt-evaluation pipeline through kfp's own local runner, from the command line."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from clipseg_kfp import cli
from clipseg_kfp.demo.bucket import DEMO_QUERIES
from clipseg_kfp.demo.scenes import draw_scene
from clipseg_kfp.storage import open_folder

MODEL = Path(__file__).parents[2] / "examples" / "demo-model"
SCENES = 6


def fill(folder: Path) -> Path:
    """Scenes, and beside them a COCO file of run lengths as text."""
    images, annotations = [], []
    names = ("circle", "red")
    for i in range(SCENES):
        scene = draw_scene(6000 + i, (160, 120))
        buffer = io.BytesIO()
        scene.image.save(buffer, "PNG")
        open_folder(str(folder)).write(f"photos/s{i}.png", buffer.getvalue())
        images.append({"id": i, "file_name": f"s{i}.png", "width": 160, "height": 120})
        for category, name in enumerate(names, start=1):
            mask = scene.mask(DEMO_QUERIES[name])
            if mask.any():
                encoded = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
                shape = {"size": [120, 160], "counts": encoded["counts"].decode()}
                one = {"id": len(annotations) + 1, "image_id": i, "category_id": category}
                annotations.append({**one, "segmentation": shape, "iscrowd": 1})
    value = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": i, "name": name} for i, name in enumerate((*names, "unicorn"), start=1)],
    }
    path = folder / "instances.json"
    path.write_text(json.dumps(value), "utf-8")
    return path


def test_sets_are_compared_in_one_pass(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    truth = fill(tmp_path)
    arguments = [
        "local", "evaluate", "--source", str(tmp_path / "photos"), "--output", str(tmp_path / "out"),
        "--model", str(MODEL), "--ground-truth", str(truth), "--log", str(tmp_path / "log"),
        "--work", str(tmp_path / "work"), "--set", "limits.shard_size=4", "--run-id", "compare",
        "--prompt", 'good: {"name": "circle", "text": "a circle"}',
        "--prompt", 'good: {"name": "red", "text": "red"}',
        "--prompt", 'good: {"name": "neither", "logic": "not (circle or red)"}',
        "--prompt", 'bad: {"name": "circle", "text": "a blue square"}',
        "--prompt", 'bad: {"name": "red", "text": "green"}',
    ]  # fmt: skip
    try:
        cli.main(arguments)
    except SystemExit as end:
        assert not end.code, capsys.readouterr()
    out = capsys.readouterr().out
    log = (tmp_path / "log").read_text("utf-8")
    assert "no prompt looks for 1 of its classes: unicorn" in log
    assert "no class for the prompts good/neither" in log
    assert "3 views, 4 prompts" in log, "each image is encoded once, for all sets"
    (place,) = (tmp_path / "out").glob("*/runs/compare")
    metrics = json.loads((place / "metrics.json").read_text("utf-8"))
    prompts = metrics["per_prompt"]
    assert set(prompts) == {"good/circle", "good/red", "bad/circle", "bad/red"}
    for name in ("circle", "red"):
        good, bad = prompts[f"good/{name}"], prompts[f"bad/{name}"]
        assert good["images"] == bad["images"] == SCENES, "images without the thing count, too"
        assert good["best_iou"] > 0.5 and good["best_iou"] > bad["best_iou"] + 0.1
        assert good["best_iou_low"] <= good["best_iou"] <= good["best_iou_high"]
        assert good["average_precision"] > bad["average_precision"]
    thresholds = json.loads((place / "thresholds.json").read_text("utf-8"))["thresholds"]
    assert set(thresholds) == set(prompts)
    ranking = out.partition("Each prompt at its best threshold")[2]
    assert 0 < ranking.index("good/") < ranking.index("bad/") and "best thresholds: " in out
    assert metrics["unmatched_ground_truth"] == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (["--prompt", "a cat"], "has no ':' between two parts"),
        (["--prompt", "a: cat", "--prompts-file", "a: x.yaml"], "'a'"),
        ([], "--prompts-file"),
        (["--prompt", "a/b: cat"], "is no name for a set"),
        (["--prompt", 'a: {"logic": "x"}'], "prompt_sets, 'a': "),
        (["--prompt", "a: cat", "--ground-truth", "/no/such.json"], "/no/such.json does not exist"),
        (["--prompt", "a: cat", "--ground-truth-class", "cat"], "has no '=' between two parts"),
    ],
)
def test_mistakes_are_named_at_once(
    changes: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").mkdir()
    common = ["--source", str(tmp_path / "in"), "--output", str(tmp_path / "out"), "--model", str(MODEL)]
    with pytest.raises(SystemExit) as end:
        cli.main(["local", "evaluate", *common, "--log", str(tmp_path / "log"), *changes])
    assert end.value.code == 1
    assert words in " ".join(capsys.readouterr().err.split())
