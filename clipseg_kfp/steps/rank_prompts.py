"""Ranks prompts and prompt sets by their agreement with ground truth."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from clipseg_kfp import records
from clipseg_kfp.report.ranking import Ranking, SetRow, render_html, render_markdown
from clipseg_kfp.results.formats.tables import plain
from clipseg_kfp.runtime.progress import say
from clipseg_kfp.steps.encode_prompts import classes_of
from clipseg_kfp.steps.evaluate_masks import CURVES, TABLE, THRESHOLDS
from clipseg_kfp.steps.handover import Handover, classification

STEP = "rank_prompts"
RANKING = "ranking.csv"
COLUMNS = (
    "rank", "set", "prompt", "best_threshold", "best_iou", "best_iou_low", "best_iou_high", "average_precision",
    "iou", "boundary_iou", "calibration_error", "images",
)  # fmt: skip


@dataclass(frozen=True)
class Ranked:
    """What the UI shows.

    Attributes:
        ranking: best first.
        curves: content of ``curves.json``.
        title: of the page.
    """

    ranking: Ranking
    curves: dict[str, Any]
    title: str

    def figures(self) -> dict[str, float]:
        """For Kubeflow's table of metrics; empty without ground truth."""
        if not self.ranking.sets:
            return {}
        first, best = self.ranking.sets[0], self.ranking.prompts[0]
        return {
            "best_prompt_iou": best["best_iou"],
            "best_prompt_threshold": best["best_threshold"],
            "best_prompt_average_precision": best["average_precision"],
            "best_mean_iou": first.mean_iou,
            "best_mean_average_precision": first.mean_average_precision,
            "prompts": float(len(self.ranking.prompts)),
            "prompt_sets": float(len(self.ranking.sets)),
        }

    def roc(self) -> tuple[list[float], list[float], list[float]]:
        """False positive rate, true positive rate and threshold of the best set's pixels, 51 points.

        Thresholds are 1, 0.98, … 0.02, 0; no pixel counts as found at 1 here.
        """
        tp, fp, positives, negatives = self._sums()
        rates = [
            [0.0, *(np.array(found[::-1]) / max(total, 1)).tolist(), 1.0]
            for found, total in ((fp, negatives), (tp, positives))
        ]
        return rates[0], rates[1], [1.0, *self.curves["thresholds"][::-1], 0.0]

    def confusion_matrix(self) -> list[list[int]]:
        """Pixels of the best set, each prompt at its best threshold: rows are the truth, columns the mask.

        Prompts that the ground truth has nothing of have no best threshold, and do not count.
        """
        matrix = np.zeros((2, 2), np.int64)
        for name, index in self._best_indexes().items():
            one = self.curves["per_prompt"][name]
            tp, fp = one["tp"][index], one["fp"][index]
            matrix += np.array([[one["negatives"] - fp, fp], [one["positives"] - tp, tp]])
        return [[int(value) for value in row] for row in matrix]

    def markdown(self) -> str:
        """The ranking as Markdown, cut where Kubeflow would."""
        return render_markdown(self.ranking, self.title)

    def html(self) -> str:
        """The ranking as a page of its own, with curves."""
        return render_html(self.ranking, self.curves, self.title)

    def _members(self) -> list[dict[str, Any]]:
        best = self.ranking.sets[0].name if self.ranking.sets else ""
        return [row for row in self.ranking.prompts if row["set"] == best]

    def _sums(self) -> tuple[list[int], list[int], int, int]:
        # Prompts that the ground truth has nothing of are left out, as in the confusion matrix.
        curves = [self.curves["per_prompt"][name] for name in self._best_indexes()]
        count = len(self.curves["thresholds"])
        sums = [[sum(one[key][i] for one in curves) for i in range(count)] for key in ("tp", "fp")]
        return sums[0], sums[1], *(sum(one[key] for one in curves) for key in ("positives", "negatives"))

    def _best_indexes(self) -> dict[str, int]:
        thresholds = self.curves["thresholds"]
        return {
            row["full_name"]: thresholds.index(row["best_threshold"])
            for row in self._members()
            if row["best_threshold"] is not None
        }


def run(
    *, evaluation: Path, encoded_prompts: Path, ranking: Path, table: Path, page: Path, source_uri: str = ""
) -> Ranked:
    """Writes ``ranking.csv`` and ``thresholds.json`` into ``ranking``, and the files that the UI shows.

    Prompts are ranked by the IoU at their best threshold, sets by the mean of it over their prompts.

    Args:
        evaluation: evaluate_masks' output.
        encoded_prompts: encode_prompts' output.
        ranking: output folder.
        table: file for the ranking as Markdown.
        page: file for the ranking as HTML, with curves.
        source_uri: the page's title.
    """
    ranking.mkdir(parents=True, exist_ok=True)
    ranked = rank(list(records.read_parquet(evaluation / TABLE)), classes_of(encoded_prompts))
    with (ranking / RANKING).open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, COLUMNS, extrasaction="ignore")
        writer.writeheader()
        writer.writerows({name: plain(value) for name, value in row.items()} for row in ranked.prompts)
    shutil.copyfile(evaluation / THRESHOLDS, ranking / THRESHOLDS)
    for row in ranked.prompts[:10]:
        if row["best_iou"] is not None:
            say(
                STEP,
                f"{row['rank']}. {row['full_name']}: IoU {row['best_iou']:.3f} at {row['best_threshold']:.2f}",
            )
    if not ranked.prompts:
        say(STEP, "no ground truth to rank by")
    curves = json.loads((evaluation / CURVES).read_text("utf-8"))
    found = Ranked(ranked, curves, source_uri)
    table.write_text(found.markdown(), "utf-8")
    page.write_text(found.html(), "utf-8")
    return found


def handover(found: Ranked) -> Handover:
    """The best prompt's and set's figures and curves, for the UI."""
    labels = ["background", "foreground"]
    shown = classification(found.roc(), labels, found.confusion_matrix())
    return Handover(metrics={"metrics": found.figures(), "classification": shown})


def rank(rows: Sequence[dict[str, Any]], names: dict[str, str]) -> Ranking:
    """Puts prompts and sets in order.

    Args:
        rows: of ``records.EVALUATION``.
        names: what prompts are called in their own set, by their full name; empty for a single set.
    """
    prompts = []
    for row in rows:
        local = names.get(row["prompt"], row["prompt"])
        place = row["prompt"].removesuffix(local).rstrip("/")
        prompts.append({**row, "full_name": row["prompt"], "prompt": local, "set": place})
    prompts.sort(key=lambda row: (row["best_iou"] is None, -(row["best_iou"] or 0.0), row["full_name"]))
    for number, row in enumerate(prompts, start=1):
        row["rank"] = number
    sets = []
    for place in dict.fromkeys(row["set"] for row in prompts):
        ious = [r["best_iou"] for r in prompts if r["set"] == place and r["best_iou"] is not None]
        precisions = [r["average_precision"] for r in prompts if r["set"] == place]
        if ious:
            known = [value for value in precisions if value is not None]
            sets.append(SetRow(place, len(ious), float(np.mean(ious)), float(np.mean(known))))
    sets.sort(key=lambda one: (-one.mean_iou, one.name))
    return Ranking(prompts, sets)
