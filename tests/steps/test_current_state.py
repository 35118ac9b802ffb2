"""What people see after the second night: the state after all runs, not the last run alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from steps_chain import Chain, Run, mask_picture, picture
from test_steps import put

from clipseg_kfp import records
from clipseg_kfp.cli import main
from clipseg_kfp.results import Results
from clipseg_kfp.results.current import fold
from clipseg_kfp.results.figures import measure
from clipseg_kfp.storage import open_folder

PROMPTS = [{"name": "cat", "text": "a circle"}, {"name": "dog", "text": "red things"}]
#: Measured at fixed thresholds: the fold is exact.
EXACT = ("iou", "dice", "precision", "recall", "images", "best_threshold", "best_iou", "iou_low", "iou_high",
         "best_iou_low", "false_alarm_images", "boundary_iou", "average_precision_paper")  # fmt: skip


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    capsys.readouterr()
    try:
        main(["results", *arguments])
    except SystemExit as end:
        return int(end.code or 0), capsys.readouterr().out
    return 0, capsys.readouterr().out


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    code, out = call(capsys, "show", *arguments, "--json")
    assert code == 0
    return dict(json.loads(out))


def box(left: int) -> bytes:
    mask = np.zeros((30, 40), bool)
    mask[5:20, left : left + 12] = True
    return mask_picture(mask)


def night(chain: Chain, name: str, **options: Any) -> Run:
    source, truth = f"{chain.source}/images", f"{chain.source}/masks"
    return chain(PROMPTS, run_id=name, source=source, ground_truth_uri=truth, **options)


@pytest.fixture
def first(chain: Chain) -> Run:
    put(chain, {f"images/{name}.png": picture(i) for i, name in enumerate("abc")})
    put(chain, {"images/broken.png": picture(9)[:40]})
    put(chain, {f"masks/cat/{name}.png": box(3 * i) for i, name in enumerate("abd")})
    return night(chain, "first")


def test_after_a_night_with_nothing_new_all_is_there(
    first: Run, chain: Chain, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = shown(capsys, chain.output)
    night(chain, "second")
    after = shown(capsys, chain.output)
    assert (after["run"], after["runs"], after["gone"]) == ("second", 2, 0)
    assert {name: after["counts"][name] for name in ("listed", "done", "quarantined", "masks")} == {
        "listed": 4, "done": 3, "quarantined": 1, "masks": 6,
    }  # fmt: skip
    assert after["metrics"] == before["metrics"], (
        "a single run has measured all: its own figures, each of them"
    )
    assert [(row["key"], row["reason"]) for row in after["quarantine"]] == [("broken.png", "truncated")]
    path = tmp_path / "masks.json"
    assert call(capsys, "export", chain.output, "--format", "coco", "--out", str(path))[0] == 0
    assert {image["file_name"] for image in COCO(str(path)).imgs.values()} == {"a.png", "b.png", "c.png"}
    assert (
        call(capsys, "export", chain.output, "--run", "second", "--format", "coco", "--out", str(path))[0]
        == 0
    )
    assert COCO(str(path)).imgs == {}
    alone = shown(capsys, chain.output, "--run", "second")
    assert (alone["counts"]["done"], alone["metrics"]["mean_iou"]) == (0, None)
    code, out = call(capsys, "verify", chain.output, "--json")
    told = {found["run"]: found for found in json.loads(out)}
    assert code == 0 and set(told) == {"first", "second"}
    assert told["first"]["objects"] > 6
    mask = next(row["mask"] for row in first.masks())
    first.folder.write(mask, b"changed")
    assert call(capsys, "verify", chain.output)[0] == 1


@pytest.mark.parametrize("chain", ["folder", "s3"], indirect=True)
def test_later_nights_are_folded(
    first: Run, chain: Chain, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An image changed, one is new, one is gone, a good one was spoiled, and the bad one was mended."""
    put(chain, {"images/e.png": picture(30)})
    night(chain, "second")
    put(chain, {"images/a.png": picture(20), "images/d.png": picture(21), "images/c.png": picture(2)[:50]})
    put(chain, {"images/broken.png": picture(22)})
    open_folder(chain.source).delete("images/e.png")
    third = night(chain, "third")
    night(chain, "fourth")
    state = shown(capsys, chain.output)
    assert (state["counts"]["done"], state["counts"]["quarantined"], state["gone"]) == (4, 1, 1)
    assert [row["key"] for row in state["quarantine"]] == ["c.png"]
    path = tmp_path / "masks.json"
    for more, names in (((), "abd"), (("--all",), "abde")):
        assert call(capsys, "export", chain.output, *more, "--format", "coco", "--out", str(path))[0] == 0
        coco = COCO(str(path))
        found = {image["file_name"]: number for number, image in coco.imgs.items()}
        assert set(found) == {"broken.png", *(f"{name}.png" for name in names)}
    rle = {row["key"]: row["rle"] for row in third.masks() if row["prompt"] == "cat" and row["area"]}
    for annotation in coco.loadAnns(coco.getAnnIds(imgIds=[found["a.png"]], catIds=[1])):
        assert annotation["segmentation"]["counts"] == rle["a.png"]
    assert call(capsys, "verify", chain.output)[0] == 0


def test_metrics_are_over_all_images_that_are_there(
    first: Run, chain: Chain, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The figures of the fold are those of one run that does everything anew."""
    put(chain, {"images/a.png": picture(20), "images/d.png": picture(21)})
    second = night(chain, "second")
    assert second.evaluation.prompts["cat"].images == 2, "a was measured again"
    folded = shown(capsys, chain.output)["metrics"]
    assert folded["pairs"] == 3
    whole = night(chain, "whole", full=True)
    assert whole.evaluation.prompts["cat"].images == 3
    exact = whole.evaluation.to_json()
    assert folded["mean_iou"] == exact["mean_iou"] and folded["mean_iou_interval"] == list(
        exact["mean_iou_interval"]
    )
    for name in EXACT:
        assert folded["per_prompt"]["cat"][name] == pytest.approx(exact["per_prompt"]["cat"][name]), name
    for name in ("average_precision", "roc_auc", "calibration_error"):  # in steps of 1 / 50
        assert folded["per_prompt"]["cat"][name] == pytest.approx(exact["per_prompt"]["cat"][name], abs=0.05)
    now = shown(capsys, chain.output)["metrics"]
    assert now["per_prompt"] == json.loads(json.dumps(exact["per_prompt"])), "now one run has measured all"
    results = Results(open_folder(chain.output), first.config)
    (share,) = fold(results, list(results.manifests())).shares
    assert share.manifest["run"] == "whole"
    rows = tmp_path / "rows.parquet"
    measure(fold(results, list(results.manifests())), rows)
    assert sorted(row["key"] for row in records.read_parquet(rows)) == ["a.png", "b.png", "d.png"]


def test_the_report_is_rebuilt(
    first: Run, chain: Chain, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.html"
    assert call(capsys, "report", chain.output, "--out", str(page))[0] == 0
    assert page.read_text("utf-8") == first.published.report, "of a single run, as it made it"
    put(chain, {"images/d.png": picture(21)})
    night(chain, "second")
    assert call(capsys, "report", chain.output, "--out", str(page))[0] == 0
    text = page.read_text("utf-8")
    assert 'data-note="current_state"' in text and 'data-note="counts_differ"' not in text
    assert (
        text.count('<li class="item card"') == 4
        and text.count('<img class="plain" src="data:image/jpeg') == 4
    )
    assert all(f"<bdi>{name}.png</bdi>" in text for name in "abcd") and "broken.png" in text
    assert call(capsys, "show", chain.output, "--out", str(page))[0] == 0
    assert page.read_text("utf-8") == text
    assert call(capsys, "report", chain.output, "--run", "second", "--out", str(page))[0] == 0
    assert 'data-note="current_state"' not in page.read_text("utf-8")


def test_two_sources_with_one_name(chain: Chain, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(chain, {"one/x.png": picture(1), "two/x.png": picture(2), "two/y.png": picture(3)})
    one, two = f"{chain.source}/one", f"{chain.source}/two"
    for source in (one, two):
        chain(PROMPTS, source=source)
    path = tmp_path / "masks.json"
    for more in ((), ("--all",)):
        capsys.readouterr()
        with pytest.raises(SystemExit):
            main(["results", "export", chain.output, *more, "--format", "coco", "--out", str(path)])
        said = capsys.readouterr().err
        assert "one/x.png" in said and "two/x.png" in said and not path.exists()
    assert shown(capsys, chain.output)["counts"]["done"] == 3
    for source, count in ((one, 1), (f"{two}/", 2)):
        arguments = ["export", chain.output, "--source", source, "--format", "coco", "--out", str(path)]
        assert call(capsys, *arguments)[0] == 0
        assert len(COCO(str(path)).imgs) == count
        assert shown(capsys, chain.output, "--source", source)["counts"]["done"] == count
    assert call(capsys, "show", chain.output, "--source", "s3://nowhere")[0] == 1
