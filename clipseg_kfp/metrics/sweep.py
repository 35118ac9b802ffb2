"""All thresholds at once: how many pixels of foreground and background have which probability.

Each map is counted into fine bins and forgotten, so memory does not grow with the data. Counts at every
threshold, average precision, ROC and calibration follow from the same bins. Bin i holds i / 1000 <= p <
(i + 1) / 1000, the last one p = 1 as well. The thresholds are edges of bins, so the counts there are exact;
average precision, ROC and calibration are those of probabilities in steps of 1 / 1000.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from clipseg_kfp.metrics.confusion import Confusion
from clipseg_kfp.metrics.paper import average_precision

Counts = NDArray[np.int64]
Curve = NDArray[np.float64]

BINS = 1000
#: Those of the CLIPSeg paper's own evaluation: linspace(0, 1, 51) without its ends. A pixel belongs to the
#: mask from the threshold on, as everywhere in the suite.
THRESHOLDS: Curve = np.arange(1, 50) / 50
#: The thresholds that the paper's tables are made at, beside the best one.
PAPER_THRESHOLDS = (0.1, 0.2, 0.3, 0.5)
RELIABILITY_BINS = 20

_LOWER = (np.arange(BINS) / BINS).astype(np.float32)
_UPPER = np.append(_LOWER[1:], np.float32(np.inf))  # p = 1 is in the last bin
_BLOCK = 1 << 16  # pixels counted at once: what they take stays in the processor's cache
_STEP = BINS // (len(THRESHOLDS) + 1)


@dataclass
class Histogram:
    """Probabilities of one prompt's pixels over any number of images.

    Attributes:
        foreground: pixels of the ground truth's foreground in each bin, int64 (1000,).
        background: the others.
    """

    foreground: Counts = field(default_factory=lambda: np.zeros(BINS, np.int64))
    background: Counts = field(default_factory=lambda: np.zeros(BINS, np.int64))

    @classmethod
    def of_sweep(cls, tp: Sequence[int], fp: Sequence[int], positives: int, negatives: int) -> Histogram:
        """Makes a histogram of counts at ``THRESHOLDS``: there it is exact, and in between as coarse as they are.

        Args:
            tp: foreground pixels at or above each threshold.
            fp: background pixels at or above each.
            positives: foreground pixels.
            negatives: background pixels.
        """
        histogram = cls()
        for bins, above, total in (
            (histogram.foreground, tp, positives),
            (histogram.background, fp, negatives),
        ):
            bins[_STEP // 2 :: _STEP] = -np.diff([total, *above, 0])  # in the middle between two thresholds
        return histogram

    def add(
        self, values: NDArray[np.float32], truth: NDArray[np.bool_], valid: NDArray[np.bool_] | None = None
    ) -> None:
        """Counts the pixels of one map, or of a strip of it.

        Args:
            values: float32 (height, width), probabilities.
            truth: bool, of the same size.
            valid: the pixels that count; ``None`` for all of them.

        Raises:
            ValueError: the arrays differ in size.
        """
        if values.shape != truth.shape or (valid is not None and valid.shape != truth.shape):
            raise ValueError(f"probabilities {values.shape} against ground truth {truth.shape}")
        if valid is not None:
            values, truth = values[valid], truth[valid]
        values, truth = values.ravel(), truth.ravel()
        for start in range(0, values.size, _BLOCK):
            block = slice(start, start + _BLOCK)
            bins = _bins(values[block]) + truth[block] * np.int32(BINS)
            counts = np.bincount(bins, minlength=2 * BINS)
            self.background += counts[:BINS]
            self.foreground += counts[BINS:]

    def __iadd__(self, other: Histogram) -> Histogram:
        self.foreground += other.foreground
        self.background += other.background
        return self

    @property
    def tp(self) -> Counts:
        """Foreground pixels at or above each of ``THRESHOLDS``, int64 (49,)."""
        return _from_above(self.foreground)[_STEP::_STEP]

    @property
    def fp(self) -> Counts:
        """Background pixels at or above each of ``THRESHOLDS``, int64 (49,)."""
        return _from_above(self.background)[_STEP::_STEP]

    @property
    def positives(self) -> int:
        """Foreground pixels."""
        return int(self.foreground.sum())

    @property
    def negatives(self) -> int:
        """Background pixels."""
        return int(self.background.sum())

    def at(self, index: int, images: int = 0) -> Confusion:
        """The counts at ``THRESHOLDS[index]``."""
        return replace(self.curve[index], images=images)

    @property
    def curve(self) -> list[Confusion]:
        """The counts at each of ``THRESHOLDS``."""
        above = zip(self.tp.tolist(), self.fp.tolist(), strict=True)
        return [Confusion(tp, fp, self.positives - tp, self.negatives - fp) for tp, fp in above]

    @property
    def best(self) -> int | None:
        """Index of the threshold with the highest foreground IoU: of equal ones, the middle one.

        ``None`` where the ground truth has no foreground: no threshold would suit other images.
        """
        if not self.positives:
            return None
        return middle_of_best([counts.iou for counts in self.curve])

    @property
    def average_precision(self) -> float | None:
        """Pixels' average precision, the sum of (R_i - R_(i-1)) P_i from the highest probability downward.

        This is scikit-learn's ``average_precision_score``: no interpolation. ``None`` without foreground.
        """
        if not self.positives:
            return None
        tp, predicted = self._from_top()
        precision = tp / np.maximum(predicted, 1)
        return float((np.diff(tp, prepend=0) * precision).sum() / self.positives)

    @property
    def average_precision_paper(self) -> float | None:
        """The same as the CLIPSeg paper's code computes it, at ``THRESHOLDS``; ``None`` without foreground."""
        return average_precision(self.curve)

    def precision_recall(self, points: int = 100) -> tuple[Curve, Curve]:
        """Precision over recall for plots: the highest thresholds, of steps of 1 / 1000, that reach each recall.

        Args:
            points: steps of recall from 0 to 1.

        Returns:
            Recall, rising to 1, and precision, at most ``points`` + 1 values; none without foreground.
        """
        if not self.positives:
            return np.zeros(0), np.zeros(0)
        tp, predicted = self._from_top()
        bins = np.searchsorted(tp, np.linspace(0, self.positives, points + 1))
        bins = np.unique(np.append(bins, np.flatnonzero(predicted)[0]))
        bins = bins[predicted[bins] > 0]  # where nothing is predicted, there is no precision
        return tp[bins] / self.positives, tp[bins] / predicted[bins]

    def _from_top(self) -> tuple[Counts, Counts]:
        """Foreground pixels, and all pixels, from the highest bin down to each."""
        tp = np.cumsum(self.foreground[::-1])
        return tp, tp + np.cumsum(self.background[::-1])

    @property
    def roc_auc(self) -> float | None:
        """The area below the receiver operating characteristic, by trapezoids; ``None`` for one kind of pixels."""
        if not self.positives or not self.negatives:
            return None
        false_rate, true_rate = (
            np.concatenate([[0.0], np.cumsum(counts[::-1]) / counts.sum()])
            for counts in (self.background, self.foreground)
        )
        return float(np.trapezoid(true_rate, false_rate))

    def reliability(self, bins: int = RELIABILITY_BINS) -> tuple[Counts, Curve, Curve]:
        """The share of foreground among pixels of about the same probability.

        Args:
            bins: of equal width; a divisor of 1000.

        Returns:
            Pixels, mean probability and share of the foreground in each bin, (bins,); NaN where it is empty.
        """
        everything = self.foreground + self.background
        sums = everything * ((np.arange(BINS) + 0.5) / BINS)
        groups = [part.reshape(bins, -1).sum(1) for part in (everything, sums, self.foreground)]
        count = groups[0].astype(np.int64)
        with np.errstate(invalid="ignore"):
            return count, groups[1] / count, groups[2] / count

    def calibration_error(self, bins: int = RELIABILITY_BINS) -> float | None:
        """Expected calibration error: the mean distance of probability and share, weighted by pixels.

        Source: Naeini et al., "Obtaining well calibrated probabilities using Bayesian binning", AAAI 2015, for
        the foreground's probability. ``None`` without pixels.
        """
        count, predicted, observed = self.reliability(bins)
        if not count.any():
            return None
        distance = np.where(count > 0, np.abs(predicted - observed), 0.0)
        return float((count * distance).sum() / count.sum())


def middle_of_best(values: Sequence[float] | Curve) -> int:
    """The index of the highest value; of equal ones the middle one, which is the furthest from a fall."""
    highest = np.flatnonzero(np.asarray(values) == np.max(values))
    return int(highest[(len(highest) - 1) // 2])


def _bins(values: NDArray[np.float32]) -> NDArray[np.int32]:
    """The bin of each probability, by the very comparison that masks are cut with: p >= float32(edge)."""
    bins = (values * np.float32(BINS)).astype(np.int32)  # by rounding, one off at most
    np.clip(bins, 0, BINS - 1, out=bins)
    bins -= values < _LOWER[bins]
    bins += values >= _UPPER[bins]
    return bins


def _from_above(counts: Counts) -> Counts:
    return np.asarray(np.cumsum(counts[::-1])[::-1])
