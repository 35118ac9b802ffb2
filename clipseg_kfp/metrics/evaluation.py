"""All figures of a run: counts of masks, sweeps over thresholds, intervals."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from clipseg_kfp.metrics.bootstrap import Bootstrap, Sums, interval
from clipseg_kfp.metrics.confusion import Confusion
from clipseg_kfp.metrics.sweep import (
    PAPER_THRESHOLDS,
    RELIABILITY_BINS,
    THRESHOLDS,
    Histogram,
    middle_of_best,
)
from clipseg_kfp.naming import digest, safe_segment

FIGURES = 50  # prompts with a figure of their own in Kubeflow; metrics.json has all
UNUSABLE_SHOWN = 100

Interval = tuple[float, float] | None


@dataclass
class Evaluation:
    """Agreement with ground truth.

    Attributes:
        prompts: pixel counts of the masks as they were written, by prompt; of prompts with ground truth.
        histograms: probabilities before thresholds and cleaning, by prompt.
        presence: by prompt: the number of images with foreground, and of images without that got a mask.
        boundaries: by prompt: sum of boundary IoU over images with an outline, and their number.
        intervals: by prompt: 95 % confidence intervals of the IoU, and of the IoU at the best threshold.
        mean_interval: of the mean IoU.
        unmatched: names of ground-truth classes without a prompt.
        unusable: reasons of ground truth that could not be read, the first ``UNUSABLE_SHOWN``.
        unusable_count: number of all of them.
    """

    prompts: dict[str, Confusion] = field(default_factory=dict)
    histograms: dict[str, Histogram] = field(default_factory=dict)
    presence: dict[str, tuple[int, int]] = field(default_factory=dict)
    boundaries: dict[str, tuple[float, int]] = field(default_factory=dict)
    intervals: dict[str, tuple[Interval, Interval]] = field(default_factory=dict)
    mean_interval: Interval = None
    unmatched: list[str] = field(default_factory=list)
    unusable: list[str] = field(default_factory=list)
    unusable_count: int = 0

    def add(self, prompt: str, counts: Confusion, boundary: float | None, histogram: Histogram) -> None:
        """Adds one image's figures of a prompt."""
        self.prompts[prompt] = self.prompts.get(prompt, Confusion()) + counts
        images, alarms = self.presence.get(prompt, (0, 0))
        present = counts.tp + counts.fn > 0
        self.presence[prompt] = images + present, alarms + (not present and counts.fp > 0)
        if boundary is not None:
            total, images = self.boundaries.get(prompt, (0.0, 0))
            self.boundaries[prompt] = total + boundary, images + 1
        self.histograms.setdefault(prompt, Histogram()).__iadd__(histogram)

    def leave_out(self, reason: str) -> None:
        """Remembers ground truth that cannot be used."""
        self.unusable_count += 1
        if len(self.unusable) < UNUSABLE_SHOWN:
            self.unusable.append(reason)

    def measure_spread(self, draws: Bootstrap) -> None:
        """Sets the intervals.

        Args:
            draws: by prompt: tp, fp and fn of the mask as it was written, then of the best threshold.
        """
        ious = {name: _ratios(draws.sums(name)) for name in self.present}
        # all replicates of a single image are alike
        enough = [name for name in ious if self.presence[name][0] > 1]
        for name in enough:
            self.intervals[name] = interval(ious[name][0]), interval(ious[name][1])
        if enough:
            written = np.stack([first for first, _ in ious.values()])
            drawn = ~np.isnan(written)
            some = drawn.any(axis=0)  # replicates that drew an image with foreground at all
            means = np.where(drawn, written, 0.0).sum(axis=0)[some] / drawn.sum(axis=0)[some]
            self.mean_interval = interval(means)

    @property
    def present(self) -> list[str]:
        """Prompts with foreground in the ground truth: only they can be found, or missed."""
        return [name for name, counts in self.prompts.items() if counts.tp + counts.fn]

    @property
    def mean_iou(self) -> float | None:
        """The paper's mIoU: mean over prompts of the foreground IoU; ``None`` without ground truth.

        Prompts without foreground are left out: one predicted pixel would turn their IoU from 1 to 0.
        """
        values = [self.prompts[name].iou for name in self.present]
        return float(np.mean(values)) if values else None

    @property
    def thresholds(self) -> dict[str, float]:
        """The threshold of the highest IoU, by prompt with foreground; a prompt file's ``calibrated`` reads it."""
        best = {name: histogram.best for name, histogram in self.histograms.items()}
        return {name: float(THRESHOLDS[index]) for name, index in best.items() if index is not None}

    def figures(self) -> dict[str, float]:
        """Totals and the first prompts, named in ASCII, for Kubeflow's table of metrics; empty without ground truth."""
        if self.mean_iou is None:
            return {}
        whole = self.to_json()
        totals = {name: float(whole[name]) for name in ("mean_iou", "iou_fg", "iou_bin")}
        if whole["sweep"]:
            totals["average_precision"] = whole["sweep"]["average_precision"]
        return totals | {
            f"iou_{safe_segment(name)}": self.prompts[name].iou for name in self.present[:FIGURES]
        }

    def row(self, name: str) -> dict[str, Any]:
        """The row of a prompt; ``records.EVALUATION``."""
        counts, histogram = self.prompts[name], self.histograms.get(name, Histogram())
        written, at_best = self.intervals.get(name, (None, None))
        best = histogram.best
        boundary, outlined = self.boundaries.get(name, (0.0, 0))
        present, alarms = self.presence.get(name, (0, 0))
        absent = counts.images - present
        somewhere = counts.tp + counts.fn > 0
        return {
            "prompt": name,
            **{key: getattr(counts, key) for key in ("images", "tp", "fp", "fn", "tn")},
            **{key: getattr(counts, key) if somewhere else None for key in ("iou", "dice", "recall")},
            "precision": counts.precision,
            "false_alarm_images": alarms,
            "false_alarm_share": alarms / absent if absent else None,
            "boundary_iou": boundary / outlined if outlined and somewhere else None,
            "iou_low": written[0] if written else None,
            "iou_high": written[1] if written else None,
            "best_threshold": None if best is None else float(THRESHOLDS[best]),
            "best_iou": None if best is None else histogram.at(best).iou,
            "best_iou_low": at_best[0] if at_best and best is not None else None,
            "best_iou_high": at_best[1] if at_best and best is not None else None,
            "average_precision": histogram.average_precision,
            "average_precision_paper": histogram.average_precision_paper,
            "roc_auc": histogram.roc_auc,
            "calibration_error": histogram.calibration_error() if histogram.positives else None,
        }

    def to_json(self) -> dict[str, Any]:
        """The content of ``metrics.json``."""
        total = sum(self.prompts.values(), Confusion())
        present = bool(self.present)
        rows = {name: self.row(name) for name in self.prompts}
        boundary = [row["boundary_iou"] for row in rows.values() if row["boundary_iou"] is not None]
        return {
            "mean_iou": self.mean_iou,
            "mean_iou_interval": self.mean_interval,
            "iou_fg": total.iou if present else None,
            "iou_bin": total.iou_binary if present else None,
            **{key: getattr(total, key) if present else None for key in ("dice", "precision", "recall")},
            "boundary_iou": float(np.mean(boundary)) if boundary else None,
            "pairs": total.images,
            "sweep": self.sweep(),
            "per_prompt": {
                name: {key: row[key] for key in row if key not in ("prompt", "tp", "fp", "fn", "tn")}
                for name, row in rows.items()
            },
            "unmatched_ground_truth": self.unmatched,
            "unusable_ground_truth": self.unusable,
            "unusable_ground_truth_count": self.unusable_count,
        }

    def pooled(self) -> Histogram:
        """The probabilities of all prompts together."""
        total = Histogram()
        for histogram in self.histograms.values():
            total += histogram
        return total

    def sweep(self) -> dict[str, Any] | None:
        """The paper's table: mIoU, IoU_FG and IoU_BIN at fixed thresholds and at the best of each, and AP.

        ``None`` where the ground truth has no foreground. All prompts have the same threshold here, and nothing is
        cleaned. The mean is over prompts with foreground; the other figures are of all pixels.
        """
        present = [histogram for histogram in self.histograms.values() if histogram.positives]
        if not present:
            return None
        total = self.pooled()
        curves = {
            "mean_iou": np.mean([[c.iou for c in h.curve] for h in present], axis=0),
            "iou_fg": np.array([counts.iou for counts in total.curve]),
            "iou_bin": np.array([counts.iou_binary for counts in total.curve]),
        }
        best: dict[str, float] = {}
        for name, values in curves.items():
            index = middle_of_best(values)
            best[name] = float(values[index])
            best[f"{name}_threshold"] = float(THRESHOLDS[index])
        at = {str(threshold): int(np.abs(THRESHOLDS - threshold).argmin()) for threshold in PAPER_THRESHOLDS}
        return {
            "at": {name: {key: float(c[i]) for key, c in curves.items()} for name, i in at.items()},
            "best": best,
            "average_precision": total.average_precision,
            "average_precision_paper": total.average_precision_paper,
            "mean_average_precision": float(np.mean([h.average_precision for h in present])),
            "roc_auc": total.roc_auc,
            "calibration_error": total.calibration_error(),
        }

    def curves(self) -> dict[str, Any]:
        """The content of ``curves.json``: the data of plots, for all prompts together and for each."""
        return {
            "thresholds": THRESHOLDS.tolist(),
            "all": _curves(self.pooled()) if self.histograms else None,
            "per_prompt": {name: _curves(histogram) for name, histogram in self.histograms.items()},
        }


def resample(rows: Iterable[Mapping[str, Any]], evaluation: Evaluation) -> Bootstrap:
    """Resamples images for ``Evaluation.measure_spread``.

    Args:
        rows: of ``records.PER_IMAGE``; the prompts of an image follow each other.
        evaluation: with all their counts.
    """
    draws = Bootstrap()
    best = {name: histogram.best for name, histogram in evaluation.histograms.items()}
    for row in rows:
        index = best[row["prompt"]]
        if index is None:  # the prompt is not in the ground truth: there is no IoU to resample
            continue
        tp, fp = row["sweep_tp"][index], row["sweep_fp"][index]
        counts = (row["tp"], row["fp"], row["fn"], tp, fp, row["tp"] + row["fn"] - tp)
        draws.add(row["prompt"], digest([row["key"], row["version"]]), counts)
    return draws


def _ratios(sums: Sums) -> tuple[Sums, Sums]:
    """The IoU of each replicate, of the masks as written and at the best threshold.

    NaN where a replicate drew no image with foreground: 1 or 0 would widen the interval of rare things.
    """
    pairs = []
    for tp, fp, fn in (sums[:, :3].T, sums[:, 3:].T):
        with np.errstate(invalid="ignore"):
            pairs.append(np.where(tp + fn > 0, tp / (tp + fp + fn), np.nan))
    return pairs[0], pairs[1]


def _curves(histogram: Histogram) -> dict[str, Any]:
    counts, predicted, observed = histogram.reliability(RELIABILITY_BINS)
    curve = histogram.curve
    negatives = max(histogram.negatives, 1)
    return {
        "positives": histogram.positives,
        "negatives": histogram.negatives,
        "tp": histogram.tp.tolist(),
        "fp": histogram.fp.tolist(),
        "iou": _short(c.iou for c in curve),
        "precision": _short(c.precision for c in curve),
        "recall": _short(c.recall for c in curve),
        "false_positive_rate": _short(c.fp / negatives for c in curve),
        "precision_recall": dict(
            zip(("recall", "precision"), map(_short, histogram.precision_recall()), strict=True)
        ),
        "reliability": {
            "pixels": counts.tolist(),
            "predicted": _short(predicted),
            "observed": _short(observed),
        },
    }


def _short(values: Any) -> list[float | None]:
    return [None if np.isnan(value) else round(float(value), 6) for value in values]
