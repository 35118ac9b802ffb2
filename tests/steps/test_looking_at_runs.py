"""What people see of real runs: the report with its layers, the terminal's summary, exports of several runs."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO
from steps_chain import Chain, Run, mask_picture, picture
from test_steps import put

from clipseg_kfp import records
from clipseg_kfp.cli import main
from clipseg_kfp.steps.artifacts import EvaluationTables, ShardMasks


@pytest.fixture
def measured(chain: Chain) -> Run:
    """Three images, of which two have ground truth, and a broken one."""
    put(chain, {f"images/{name}.png": picture(i) for i, name in enumerate("abc")})
    put(chain, {"images/broken.png": picture(9)[:40]})
    box = np.zeros((30, 40), bool)
    box[5:20, 10:30] = True
    put(chain, {f"masks/cat/{name}.png": mask_picture(box) for name in "ab"})
    prompts = [{"name": "cat", "text": "a circle"}, {"name": "dog", "text": "red things"}]
    return chain(
        prompts, run_id="first", source=f"{chain.source}/images", ground_truth_uri=f"{chain.source}/masks"
    )


def call(*arguments: str) -> int:
    try:
        main(["results", *arguments])
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def test_the_report_has_the_layers_that_there_is_data_for(measured: Run, tmp_path: Path) -> None:
    pictures = [
        row
        for s in measured.shards
        for b in records.read_arrow(ShardMasks(s).gallery_path)
        for row in b.to_pylist()
    ]
    assert {row["key"] for row in pictures} == {"a.png", "b.png", "c.png"}
    for row in pictures:
        assert {heat["prompt"] for heat in row["heats"]} <= {"cat", "dog"}
        assert row["key"] == "c.png" or "cat" in [heat["prompt"] for heat in row["heats"]], "it is measured"
        for heat in row["heats"]:
            assert Image.open(io.BytesIO(heat["jpeg"])).size == (40, 30)
    drawings = EvaluationTables(tmp_path / "work" / "run-1" / "evaluation").truths_path
    rows = [row for batch in records.read_arrow(drawings) for row in batch.to_pylist()]
    assert {row["key"] for row in rows} == {"a.png", "b.png"}
    drawn = np.asarray(Image.open(io.BytesIO(rows[0]["png"])).convert("RGBA"))
    assert set(map(tuple, np.argwhere(drawn[..., 3]))) == {
        (y, x) for y in range(5, 20) for x in range(10, 30)
    }
    page = measured.published.report
    heats = sum(len(row["heats"]) for row in pictures)
    assert len(re.findall('<img class="heat"', page)) == heats
    assert len(re.findall('<img class="heat"[^>]* hidden>', page)) == heats - 3
    assert page.count(">no ground truth</span>") == 1 and "ground truth: nothing" not in page
    assert len(re.findall('<img class="truth"', page)) == 2
    assert set(re.findall('data-reason="([^"]*)"', page)) == {"Worst IoU", "Best IoU", "Most uncertain"}
    assert page.count('<svg class="chart"') == 3
    assert "truncated</bdi> 1" in page


def test_show_prints_a_run_and_writes_its_report(
    measured: Run, chain: Chain, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.html"
    capsys.readouterr()
    assert call("show", chain.output, "--json", "--out", str(page)) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["run"] == "first"
    assert told["counts"] == {"listed": 4, "done": 3, "skipped": 0, "quarantined": 1, "masks": 6, "left": 0}
    assert told["metrics"]["per_prompt"]["cat"]["images"] == 2
    assert [row["key"] for row in told["quarantine"]] == ["broken.png"]
    assert page.read_text("utf-8") == measured.published.report
    assert call("show", chain.output, "--run", "first") == 0
    shown = capsys.readouterr().out
    assert "broken.png" in shown and "95%" in shown
    assert call("show", chain.output, "--run", "second") == 1
    assert "no committed run 'second'" in capsys.readouterr().err


def test_all_runs_are_exported_together(
    measured: Run, chain: Chain, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(chain, {"images/a.png": picture(20), "images/d.png": picture(21)})
    second = chain(
        [{"name": "cat", "text": "a circle"}, {"name": "dog", "text": "red things"}],
        run_id="second",
        source=f"{chain.source}/images",
    )
    assert second.config == measured.config
    new = {row["key"]: row["version"] for row in second.masks()}
    assert set(new) == {"a.png", "d.png"}
    path = tmp_path / "all.json"
    capsys.readouterr()
    assert call("export", chain.output, "--all", "--format", "coco", "--out", str(path)) == 0
    assert capsys.readouterr().out == f"4 images of 2 runs in {path}; 1 older versions left out.\n"
    coco = COCO(str(path))
    names = {coco.imgs[i]["file_name"]: i for i in coco.imgs}
    assert set(names) == {"a.png", "b.png", "c.png", "d.png"}
    wanted = {row["key"]: row for row in [*measured.masks(), *second.masks()] if row["prompt"] == "cat"}
    for key, row in wanted.items():
        found = coco.loadAnns(coco.getAnnIds(imgIds=[names[key]], catIds=[row["category_id"]]))
        assert [annotation["segmentation"]["counts"] for annotation in found] == [row["rle"]] * bool(
            row["area"]
        )
    assert call("export", chain.output, "--run", "first", "--all", "--format", "csv", "--out", "x") == 1
    assert "both given" in capsys.readouterr().err
    assert call("export", chain.output, "--format", "voc", "--out", str(path)) == 1
    assert "no format 'voc'" in capsys.readouterr().err
