"""Ground truth: where things really are, in the formats that people keep it in."""

from clipseg_kfp.truth.reading import Reader, Truth, UnusableTruthError
from clipseg_kfp.truth.references import GroundTruth

__all__ = ["GroundTruth", "Reader", "Truth", "UnusableTruthError"]
