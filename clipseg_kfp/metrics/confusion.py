"""Counts of pixels, summed over the data set as in the CLIPSeg paper, and what follows from them.

A quotient without a denominator is 1: nothing was done wrong. So the IoU of an empty mask with empty ground
truth is 1, the precision of no prediction is 1, and the recall where there is nothing to find is 1.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass
class Confusion:
    """Pixel counts of one prompt over any number of images.

    Attributes:
        tp: pixels in both masks.
        fp: pixels in the prediction only.
        fn: pixels in the ground truth only.
        tn: pixels in neither.
        images: pairs compared.
    """

    tp: int = 0
    fp: int = 0
    fn: int = 0
    tn: int = 0
    images: int = 0

    def add(
        self, predicted: NDArray[np.bool_], truth: NDArray[np.bool_], valid: NDArray[np.bool_] | None = None
    ) -> None:
        """Counts one pair of (height, width) masks.

        Args:
            predicted: the mask.
            truth: the ground truth.
            valid: the pixels that count; ``None`` for all of them.

        Raises:
            ValueError: the masks differ in size.
        """
        if predicted.shape != truth.shape or (valid is not None and valid.shape != truth.shape):
            raise ValueError(f"mask {predicted.shape} against ground truth {truth.shape}")
        size = truth.size
        if valid is not None:
            predicted, truth, size = predicted & valid, truth & valid, int(np.count_nonzero(valid))
        hits = int(np.count_nonzero(predicted & truth))
        marked, true = int(np.count_nonzero(predicted)), int(np.count_nonzero(truth))
        self.tp += hits
        self.fp += marked - hits
        self.fn += true - hits
        self.tn += size - marked - true + hits
        self.images += 1

    def __add__(self, other: Confusion) -> Confusion:
        return Confusion(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    @property
    def iou(self) -> float:
        """Intersection over union of the foreground; 1 where neither mask has a pixel."""
        return _ratio(self.tp, self.tp + self.fp + self.fn)

    @property
    def iou_background(self) -> float:
        """Intersection over union of the background."""
        return _ratio(self.tn, self.tn + self.fp + self.fn)

    @property
    def iou_binary(self) -> float:
        """The paper's IoU_BIN: the mean of foreground and background IoU."""
        return (self.iou + self.iou_background) / 2

    @property
    def dice(self) -> float:
        """Dice's coefficient (F1 of pixels), 2 tp / (2 tp + fp + fn). Source: Dice, Ecology 26(3), 1945."""
        return _ratio(2 * self.tp, 2 * self.tp + self.fp + self.fn)

    @property
    def precision(self) -> float:
        """Returns tp / (tp + fp); 1 where nothing was predicted."""
        return _ratio(self.tp, self.tp + self.fp)

    @property
    def recall(self) -> float:
        """Returns tp / (tp + fn); 1 where there was nothing to find."""
        return _ratio(self.tp, self.tp + self.fn)


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else 1.0
