"""Ground truth: where things really are, in the formats that people keep it in."""

from clipseg_kfp.dataset.ground_truth import GroundTruth
from clipseg_kfp.truth.locate import FORMATS, open_truth
from clipseg_kfp.truth.match import Classes, TruthIndex
from clipseg_kfp.truth.read import Reader, Truth, UnusableTruthError

__all__ = [
    "FORMATS",
    "Classes",
    "GroundTruth",
    "Reader",
    "Truth",
    "TruthIndex",
    "UnusableTruthError",
    "open_truth",
]
