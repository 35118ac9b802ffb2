"""Confidence intervals over images, in memory that does not grow with them."""

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

    In each of many replicates an image counts as often as a Poisson number of mean 1 says; only the sums of the
    replicates are kept. For many images that is the ordinary bootstrap, which draws as many as there are, with
    replacement. Source: Chamandy et al., "Estimating uncertainty for massive data streams", Google, 2012. The
    numbers are drawn from the image's name, so an image counts alike for every prompt, and the order of images
    does not matter.

    Args:
        replicates: how many.
        seed: another one gives other draws.
    """

    def __init__(self, replicates: int = REPLICATES, seed: int = 0) -> None:
        self.replicates = replicates
        self._seed = seed
        self._sums: dict[str, Sums] = {}
        self._last: tuple[str, NDArray[np.int64]] = ("", np.zeros(0, np.int64))

    def add(self, name: str, image: str, counts: Sequence[int]) -> None:
        """Adds an image's counts to the sums of that name; always the same number of counts for a name."""
        drawn = self._drawn(image)
        row = np.array([1, *counts], np.float64)
        if name not in self._sums:
            self._sums[name] = np.zeros((self.replicates, len(row)))
        self._sums[name] += drawn[:, None] * row

    def sums(self, name: str) -> Sums:
        """The replicates' sums, float64 (replicates, counts); NaN where a replicate drew no image."""
        found = self._sums[name]
        return np.where(found[:, :1] > 0, found[:, 1:], np.nan)

    def _drawn(self, image: str) -> NDArray[np.int64]:
        if self._last[0] != image:  # the prompts of an image follow each other
            rng = np.random.default_rng([self._seed, int(digest(image), 16)])
            self._last = (image, rng.poisson(1.0, self.replicates))
        return self._last[1]


def interval(values: Iterable[float] | Sums, level: float = LEVEL) -> tuple[float, float] | None:
    """The percentile interval of replicates; ``None`` where there is none.

    Source: Efron and Tibshirani, "An introduction to the bootstrap", 1993, chapter 13.
    """
    found = np.asarray(values, np.float64)
    found = found[~np.isnan(found)]
    if not len(found):
        return None
    low, high = np.quantile(found, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
