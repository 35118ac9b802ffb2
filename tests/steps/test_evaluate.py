"""Ground truth through the real steps: the sweep, calibrated thresholds, and what they agree with."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from PIL import Image
from probability_maps import read_probability
from steps_chain import Chain, Run, mask_picture, picture
from test_steps import GOOD, counts, put

from clipseg_kfp import records
from clipseg_kfp.masks.raster import decode_rle
from clipseg_kfp.metrics import THRESHOLDS, Confusion
from clipseg_kfp.naming import safe_segment
from clipseg_kfp.steps import evaluate_masks
from clipseg_kfp.steps.artifacts import ShardMasks

PROMPTS = ["a circle", "red things"]


def read(run: Run, name: str) -> bytes:
    return run.folder.read(f"runs/{safe_segment(run.manifest['run'])}/{name}")


def metrics(run: Run) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(read(run, "metrics.json"))
    return value


def probabilities(run: Run) -> dict[tuple[str, str], NDArray[np.float32]]:
    """The 16-bit maps that a run wrote, by key and prompt."""
    return {
        (row["key"], row["prompt"]): read_probability(run.folder.read(row["probability"]))
        for row in run.masks()
    }


def put_truth_above(chain: Chain, quantiles: dict[str, float]) -> dict[tuple[str, str], NDArray[np.bool_]]:
    """Ground truth that thresholds can find: each map above a quantile of all its values, with some noise."""
    pictures = {
        "images/a.png": GOOD["a.png"],
        "images/b.png": picture(9),
        "images/c.png": picture(11, 61, 47),
    }
    put(chain, pictures)
    output, chain.output = chain.output, f"{chain.output}-look"
    maps = probabilities(chain(PROMPTS, probability_bits=16))
    chain.output = output
    rng, found = np.random.default_rng(0), {}
    for prompt, quantile in quantiles.items():
        values = np.concatenate([m.ravel() for (_, name), m in maps.items() if name == prompt])
        cut = np.quantile(values, quantile)
        for (key, name), field in maps.items():
            if name == prompt:
                found[key, name] = (field >= cut) ^ (rng.random(field.shape) < 0.02)
                stem = key.removeprefix("images/").rpartition(".")[0]
                put(chain, {f"masks/{name}/{stem}.png": mask_picture(found[key, name])})
    return found


@pytest.mark.parametrize("chain", ["folder", "s3"], indirect=True)
def test_thresholds_of_one_run_are_calibrated_ones_of_the_next(chain: Chain) -> None:
    put_truth_above(chain, {"a circle": 0.95, "red things": 0.05})
    first = chain(PROMPTS)
    place = f"{first.published.manifest.rpartition('/')[0]}/thresholds.json"
    best = json.loads(read(first, "thresholds.json"))["thresholds"]
    assert list(best) == PROMPTS and best["a circle"] > best["red things"]

    second = chain([{"text": name, "threshold": {"calibrated": place}} for name in PROMPTS])

    assert second.config != first.config
    assert {row["prompt"]: row["threshold"] for row in second.masks()} == best
    before, after = metrics(first)["per_prompt"], metrics(second)["per_prompt"]
    for name in PROMPTS:
        assert after[name]["iou"] == before[name]["best_iou"] >= before[name]["iou"]
        assert after[name]["best_threshold"] == before[name]["best_threshold"] == best[name]
    assert metrics(second)["mean_iou"] > metrics(first)["mean_iou"]


def test_the_sweep_is_what_runs_at_those_thresholds_give(chain: Chain) -> None:
    put_truth_above(chain, {"a circle": 0.7, "red things": 0.5})
    runs = {threshold: chain(PROMPTS, threshold=threshold) for threshold in (0.1, 0.3, 0.46, 0.5)}
    sweep = runs[0.5].evaluation
    for threshold, run in runs.items():
        index = int(np.abs(THRESHOLDS - threshold).argmin())
        for name in PROMPTS:
            assert sweep.histograms[name].at(index, 3) == run.evaluation.prompts[name]
        if threshold != 0.46:
            row = metrics(runs[0.5])["sweep"]["at"][str(threshold)]
            assert row == {name: pytest.approx(metrics(run)[name]) for name in row}
    assert metrics(runs[0.1])["sweep"] == metrics(runs[0.5])["sweep"], (
        "it does not depend on the run's threshold"
    )


def test_per_image_rows_curves_and_intervals(chain: Chain) -> None:
    truths = put_truth_above(chain, {"a circle": 0.7})
    run = chain(PROMPTS)
    rows = pq.read_table(io.BytesIO(read(run, "per_image.parquet"))).to_pylist()
    assert {(row["key"], row["prompt"]) for row in rows} == set(truths)
    for row in rows:
        mask = next(m for m in run.masks() if (m["key"], m["prompt"]) == (row["key"], row["prompt"]))
        expected = Confusion()
        expected.add(
            decode_rle(mask["rle"], mask["width"], mask["height"]), truths[row["key"], row["prompt"]]
        )
        assert {name: row[name] for name in ("tp", "fp", "fn", "tn")} == {
            name: getattr(expected, name) for name in ("tp", "fp", "fn", "tn")
        }
        assert row["iou"] == expected.iou and row["dice"] == expected.dice
        assert (row["boundary_iou"] is None) == (not row["tp"] + row["fp"] + row["fn"])
        assert 0 <= (row["boundary_iou"] or 0) <= 1
        assert row["sweep_tp"][24] == row["tp"], "0.5 is the run's threshold"
    (table,) = pq.read_table(io.BytesIO(read(run, "evaluation.parquet"))).to_pylist()
    assert table["iou_low"] <= table["iou"] <= table["iou_high"]
    assert table["best_iou_low"] <= table["best_iou"] <= table["best_iou_high"]
    assert table["boundary_iou"] == pytest.approx(
        np.mean([row["boundary_iou"] for row in rows if row["boundary_iou"] is not None])
    )
    assert metrics(run)["mean_iou_interval"] == [table["iou_low"], table["iou_high"]]
    curves = json.loads(read(run, "curves.json"))
    assert curves["thresholds"] == THRESHOLDS.tolist()
    assert curves["all"] == curves["per_prompt"]["a circle"]
    assert len(curves["all"]["precision"]) == 49
    assert sum(curves["all"]["reliability"]["pixels"]) == sum(mask.size for mask in truths.values())


def test_logic_prompts_otsu_and_cleaning_are_measured(chain: Chain) -> None:
    truths = put_truth_above(chain, {"a circle": 0.6})
    for (key, _), truth in truths.items():
        stem = key.removeprefix("images/").rpartition(".")[0]
        put(chain, {f"masks/other/{stem}.png": mask_picture(~truth)})
    run = chain(
        [
            {"text": "a circle", "threshold": "otsu", "cleaning": {"min_area": 20}},
            {"name": "other", "logic": 'not "a circle"'},
        ]
    )
    found = metrics(run)["per_prompt"]
    assert found["a circle"]["roc_auc"] > 0.9
    assert found["other"]["roc_auc"] == pytest.approx(found["a circle"]["roc_auc"], abs=0.01)
    assert 0.2 < found["a circle"]["iou"] != found["a circle"]["best_iou"]


@pytest.mark.parametrize("size", [(84, 120), (17, 24)])
def test_tiles_and_ground_truth_of_another_size(chain: Chain, size: tuple[int, int]) -> None:
    put(chain, {"images/a.png": picture(1, 100, 70)})
    truth = np.zeros(size, bool)
    truth[: size[0] // 2] = True
    put(chain, {"masks/a circle/a.png": mask_picture(truth)})
    for options in ({}, {"tile_size": 48}):
        run = chain(PROMPTS, probability_bits=16, **options)
        histogram = run.evaluation.histograms["a circle"]
        assert histogram.positives == truth.sum()
        assert histogram.positives + histogram.negatives == truth.size
        field = Image.fromarray(probabilities(run)["images/a.png", "a circle"])
        values = np.asarray(field.resize(size[::-1], Image.Resampling.BILINEAR))
        mean = (histogram.foreground + histogram.background) @ ((np.arange(1000) + 0.5) / 1000) / truth.size
        assert mean == pytest.approx(values.mean(), abs=0.01)


def test_empty_and_full_ground_truth(chain: Chain) -> None:
    put(chain, {"images/a.png": GOOD["a.png"]})
    put(chain, {"masks/a circle/a.png": mask_picture(np.zeros((30, 40), bool))})
    put(chain, {"masks/red things/a.png": mask_picture(np.ones((30, 40), bool))})
    run = chain([{"text": "a circle", "threshold": 0.99}, {"text": "red things", "threshold": 0.01}])
    found = metrics(run)["per_prompt"]
    assert found["a circle"]["iou"] is found["a circle"]["recall"] is None, "nothing to find"
    assert found["a circle"]["false_alarm_images"] == found["a circle"]["false_alarm_share"] == 0
    assert metrics(run)["mean_iou"] == 1
    assert found["a circle"]["average_precision"] is found["a circle"]["best_threshold"] is None
    assert found["red things"]["iou"] == found["red things"]["average_precision"] == 1
    assert found["red things"]["roc_auc"] is None
    assert found["red things"]["iou_low"] is None, "one image has no interval"
    assert list(json.loads(read(run, "thresholds.json"))["thresholds"]) == ["red things"]


def test_without_ground_truth_all_files_are_there(chain: Chain) -> None:
    put(chain, {"a.png": GOOD["a.png"]})
    run = chain()
    assert json.loads(read(run, "thresholds.json")) == {"thresholds": {}}
    assert json.loads(read(run, "curves.json"))["all"] is None
    assert metrics(run)["sweep"] is None and metrics(run)["mean_iou"] is None
    for name in ("evaluation.parquet", "per_image.parquet"):
        assert pq.read_table(io.BytesIO(read(run, name))).num_rows == 0


def test_probabilities_are_kept_only_where_there_is_ground_truth(chain: Chain) -> None:
    put_truth_above(chain, {"a circle": 0.5})
    put(chain, {"images/more.png": picture(20)})
    run = chain(PROMPTS, shard_size=2)
    assert counts(run) == (4, 4, 0, 0)
    rows = [
        row
        for shard in run.shards
        for batch in records.read_arrow(ShardMasks(shard).scores_path)
        for row in batch.to_pylist()
    ]
    assert sorted((row["key"], row["prompt"]) for row in rows) == [
        (f"images/{name}.png", "a circle") for name in "abc"
    ]


def test_evaluations_repeat_byte_by_byte_whatever_the_shards(chain: Chain, tmp_path: Path) -> None:
    put_truth_above(chain, {"a circle": 0.7, "red things": 0.5})
    runs = [chain(PROMPTS)]
    chain.output += "-2"
    runs.append(chain(PROMPTS, shard_size=1))
    for name in ("evaluation.parquet", "curves.json", "thresholds.json", "per_image.parquet"):
        assert read(runs[0], name) == read(runs[1], name), name
    evaluate_masks.run(masks=runs[1].shards, evaluation=tmp_path / "again")
    assert (tmp_path / "again" / "per_image.parquet").read_bytes() == read(runs[1], "per_image.parquet")
