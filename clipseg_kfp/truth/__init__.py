"""Ground truth: where things really are, in the formats that people keep it in."""

from clipseg_kfp.truth.finding import FORMATS, TruthIndex, open_truth
from clipseg_kfp.truth.matching import Classes
from clipseg_kfp.truth.reading import Reader, Truth, UnusableTruthError
from clipseg_kfp.truth.references import GroundTruth

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
