"""Agreement with ground truth over the current state: of all its images that some run has measured."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipseg_kfp import records
from clipseg_kfp.metrics.confusion import Confusion
from clipseg_kfp.metrics.evaluation import UNUSABLE_SHOWN, Evaluation, resample
from clipseg_kfp.metrics.sweep import Histogram
from clipseg_kfp.results.commit import file_key
from clipseg_kfp.results.current import Current

METRICS, CURVES, PER_IMAGE = "metrics.json", "curves.json", "per_image.parquet"
_ROWS_AT_ONCE = 128  # with some hundred numbers each


@dataclass(frozen=True)
class Figures:
    """Figures of the state.

    Attributes:
        metrics: as ``metrics.json``.
        curves: as ``curves.json``.
    """

    metrics: dict[str, Any]
    curves: dict[str, Any]


def measure(current: Current, per_image: Path) -> Figures:
    """Adds up what the runs have measured, and writes its rows.

    Counts, IoU, intervals and best thresholds are exact. Average precision, ROC and calibration are those of
    probabilities in steps of 1 / 50, since tables keep counts at these thresholds; where a single run has measured
    all images, its own figures are taken.

    Args:
        current: the state.
        per_image: file for the rows of ``records.PER_IMAGE``.

    Raises:
        StorageError: a table cannot be read.
    """
    evaluation = Evaluation()
    by_run: dict[str, int] = {}

    def rows() -> Iterator[dict[str, Any]]:
        for share, row in current.measured(PER_IMAGE, records.PER_IMAGE.names):
            counts = Confusion(row["tp"], row["fp"], row["fn"], row["tn"], 1)
            sweep = row["sweep_tp"], row["sweep_fp"]
            histogram = Histogram.of_sweep(*sweep, row["tp"] + row["fn"], row["fp"] + row["tn"])
            evaluation.add(row["prompt"], counts, row["boundary_iou"], histogram)
            by_run[share.manifest["run"]] = by_run.get(share.manifest["run"], 0) + 1
            yield row

    records.write_parquet(per_image, records.PER_IMAGE, rows(), _ROWS_AT_ONCE)
    runs = {
        share.manifest["run"]: share.manifest for share in current.shares if file_key(share.manifest, METRICS)
    }
    told = {run: _json(current, manifest, METRICS) for run, manifest in runs.items()}
    for metrics in told.values():
        evaluation.unusable += metrics["unusable_ground_truth"]
        evaluation.unusable_count += metrics["unusable_ground_truth_count"]
    del evaluation.unusable[UNUSABLE_SHOWN:]
    evaluation.unmatched = sorted({name for m in told.values() for name in m["unmatched_ground_truth"]})
    evaluation.prompts = dict(sorted(evaluation.prompts.items()))
    evaluation.histograms = dict(sorted(evaluation.histograms.items()))
    counts = {"counts": vars(current.counts)}
    if len(by_run) == 1:
        ((run, pairs),) = by_run.items()
        if told[run]["pairs"] == pairs:  # of which nothing is left out
            own = evaluation.to_json()
            remarks = {name: own[name] for name in own if name.startswith(("unmatched", "unusable"))}
            return Figures({**told[run], **counts, **remarks}, _json(current, runs[run], CURVES))
    columns = ["key", "version", "prompt", "tp", "fp", "fn", "sweep_tp", "sweep_fp"]
    evaluation.measure_spread(resample(records.read_parquet(per_image, columns, _ROWS_AT_ONCE), evaluation))
    return Figures({**counts, **evaluation.to_json()}, evaluation.curves())


def _json(current: Current, manifest: dict[str, Any], name: str) -> dict[str, Any]:
    return dict(json.loads(current.results.folder.read(file_key(manifest, name))))
