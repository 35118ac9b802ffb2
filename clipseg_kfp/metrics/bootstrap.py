"""Confidence intervals over images, in memory that does not grow with their number."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from clipseg_kfp.naming import digest

REPLICATES = 1000
LEVEL = 0.95

Sums = NDArray[np.float64]


class Bootstrap:
    """Resamples images as a stream.

    In each replicate an image counts a number of times that is drawn from a Poisson distribution of mean 1; only
    the sums of the replicates are kept. For many images that equals the ordinary bootstrap, which draws as many as
    there are, with replacement. Source: Chamandy et al., "Estimating uncertainty for massive data streams", Google,
    2012. The draws depend on the image's name only, so an image counts the same for every prompt and in any order.

    Args:
        replicates: their number.
    """

    def __init__(self, replicates: int = REPLICATES) -> None:
        self.replicates = replicates
        self._sums: dict[str, Sums] = {}
        self._last: tuple[str, NDArray[np.int64]] = ("", np.zeros(0, np.int64))

    def add(self, name: str, image: str, counts: Sequence[int]) -> None:
        """Adds an image's counts to the sums of that name; a name always has the same number of counts."""
        drawn = self._drawn(image)
        row = np.array([1, *counts], np.float64)
        if name not in self._sums:
            self._sums[name] = np.zeros((self.replicates, len(row)))
        self._sums[name] += drawn[:, None] * row

    def sums(self, name: str) -> Sums:
        """The replicates' sums, float64 (replicates, counts); NaN where a replicate drew no image."""
        sums = self._sums[name]
        return np.where(sums[:, :1] > 0, sums[:, 1:], np.nan)

    def _drawn(self, image: str) -> NDArray[np.int64]:
        if self._last[0] != image:  # the prompts of an image follow each other
            rng = np.random.default_rng([0, int(digest(image), 16)])
            self._last = (image, rng.poisson(1.0, self.replicates))
        return self._last[1]


def interval(values: Iterable[float] | Sums) -> tuple[float, float] | None:
    """The percentile interval of replicates, at ``LEVEL``; ``None`` where all of them are NaN.

    Source: Efron and Tibshirani, "An introduction to the bootstrap", 1993, chapter 13.
    """
    numbers = np.asarray(values, np.float64)
    numbers = numbers[~np.isnan(numbers)]
    if not len(numbers):
        return None
    low, high = np.quantile(numbers, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
