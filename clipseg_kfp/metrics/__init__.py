"""Agreement of masks and probabilities with ground truth."""

from clipseg_kfp.metrics.bootstrap import REPLICATES, Bootstrap, interval
from clipseg_kfp.metrics.boundary import boundary_iou
from clipseg_kfp.metrics.confusion import Confusion
from clipseg_kfp.metrics.sweep import PAPER_THRESHOLDS, THRESHOLDS, Histogram

__all__ = [
    "PAPER_THRESHOLDS",
    "REPLICATES",
    "THRESHOLDS",
    "Bootstrap",
    "Confusion",
    "Histogram",
    "boundary_iou",
    "interval",
]
