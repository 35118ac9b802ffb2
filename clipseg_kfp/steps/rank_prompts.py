"""Ranks prompts and prompt sets by their agreement with ground truth."""

from __future__ import annotations

import csv
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
from clipseg_kfp.steps.artifacts import EncodedPrompts, EvaluationTables
from clipseg_kfp.steps.handover import Handover, classification
from clipseg_kfp.steps.timing import timed

STEP = "rank_prompts"
RANKING = "ranking.csv"
COLUMNS = (
    "rank", "set", "prompt", "best_threshold", "best_iou", "best_iou_low", "best_iou_high", "average_precision",
    "iou", "boundary_iou", "calibration_error", "images",
)  # fmt: skip


@dataclass(frozen=True)
class Ranked:
    """A ranking, with what the UI shows of it.

    Attributes:
        ranking: best first.
        curves: content of ``curves.json``.
    """

    ranking: Ranking
    curves: dict[str, Any]

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
        thresholds = self.curves["thresholds"]
        curves = [self.curves["per_prompt"][name] for name in self._best_indexes()]

        def rates(key: str, total: str) -> list[float]:
            counts = np.array([curve[key][::-1] for curve in curves], np.int64).reshape(-1, len(thresholds))
            return [0.0, *(counts.sum(0) / max(sum(curve[total] for curve in curves), 1)).tolist(), 1.0]

        return rates("fp", "negatives"), rates("tp", "positives"), [1.0, *thresholds[::-1], 0.0]

    def confusion_matrix(self) -> list[list[int]]:
        """Pixels of the best set, each prompt at its best threshold: rows are the truth, columns the mask.

        Prompts that are not in the ground truth have no best threshold and do not count.
        """
        matrix = np.zeros((2, 2), np.int64)
        for name, index in self._best_indexes().items():
            curve = self.curves["per_prompt"][name]
            tp, fp = curve["tp"][index], curve["fp"][index]
            matrix += np.array([[curve["negatives"] - fp, fp], [curve["positives"] - tp, tp]])
        matrix_rows: list[list[int]] = matrix.tolist()
        return matrix_rows

    def _best_indexes(self) -> dict[str, int]:
        """Prompts of the best set that are in the ground truth, with the places of their best thresholds."""
        best = self.ranking.sets[0].name if self.ranking.sets else ""
        thresholds = self.curves["thresholds"]
        return {
            row["full_name"]: thresholds.index(row["best_threshold"])
            for row in self.ranking.prompts
            if row["set"] == best and row["best_threshold"] is not None
        }


@timed(STEP)
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
    tables = EvaluationTables(evaluation)
    rows = list(records.read_parquet(tables.prompts_path))
    ranked = rank(rows, EncodedPrompts(encoded_prompts).classes())
    with (ranking / RANKING).open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, COLUMNS, extrasaction="ignore")
        writer.writeheader()
        writer.writerows({name: plain(value) for name, value in row.items()} for row in ranked.prompts)
    shutil.copyfile(tables.thresholds_path, ranking / tables.thresholds_path.name)
    for row in ranked.prompts[:10]:
        if row["best_iou"] is not None:
            say(
                STEP,
                f"{row['rank']}. {row['full_name']}: IoU {row['best_iou']:.3f} at {row['best_threshold']:.2f}",
            )
    if not ranked.prompts:
        say(STEP, "no ground truth to rank by")
    curves = tables.curves()
    table.write_text(render_markdown(ranked, source_uri), "utf-8")
    page.write_text(render_html(ranked, curves, source_uri), "utf-8")
    return Ranked(ranked, curves)


def handover(ranked: Ranked) -> Handover:
    """The best prompt's and set's figures and curves, for the UI."""
    labels = ["background", "foreground"]
    shown = classification(ranked.roc(), labels, ranked.confusion_matrix())
    return Handover(metrics={"metrics": ranked.figures(), "classification": shown})


def rank(rows: Sequence[dict[str, Any]], names: dict[str, str]) -> Ranking:
    """Puts prompts and sets in order.

    Args:
        rows: of ``records.EVALUATION``.
        names: the name of each prompt in its own set, by its full name; empty for a single set.
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
        present = [row for row in prompts if row["set"] == place and row["best_iou"] is not None]
        if present:
            iou, precision = (
                float(np.mean([row[name] for row in present if row[name] is not None]))
                for name in ("best_iou", "average_precision")
            )
            sets.append(SetRow(place, len(present), iou, precision))
    sets.sort(key=lambda row: (-row.mean_iou, row.name))
    return Ranking(prompts, sets)
