"""Agreement of masks with ground truth, summed over the data set as in the CLIPSeg paper."""

from __future__ import annotations

from dataclasses import dataclass

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

    def add(self, predicted: NDArray[np.bool_], truth: NDArray[np.bool_]) -> None:
        """Counts one pair of (height, width) masks.

        Raises:
            ValueError: the masks differ in size.
        """
        if predicted.shape != truth.shape:
            raise ValueError(f"mask {predicted.shape} against ground truth {truth.shape}")
        both = int(np.count_nonzero(predicted & truth))
        said, true = int(np.count_nonzero(predicted)), int(np.count_nonzero(truth))
        self.tp += both
        self.fp += said - both
        self.fn += true - both
        self.tn += truth.size - said - true + both
        self.images += 1

    def __add__(self, other: Confusion) -> Confusion:
        return Confusion(
            self.tp + other.tp,
            self.fp + other.fp,
            self.fn + other.fn,
            self.tn + other.tn,
            self.images + other.images,
        )

    @property
    def iou(self) -> float:
        """Intersection over union of the foreground; 1 where neither mask has a pixel."""
        union = self.tp + self.fp + self.fn
        return self.tp / union if union else 1.0

    @property
    def iou_background(self) -> float:
        """Intersection over union of the background."""
        union = self.tn + self.fp + self.fn
        return self.tn / union if union else 1.0

    @property
    def precision(self) -> float:
        """Returns tp / (tp + fp); 1 where nothing was predicted."""
        return self.tp / (self.tp + self.fp) if self.tp + self.fp else 1.0

    @property
    def recall(self) -> float:
        """Returns tp / (tp + fn); 1 where there was nothing to find."""
        return self.tp / (self.tp + self.fn) if self.tp + self.fn else 1.0
