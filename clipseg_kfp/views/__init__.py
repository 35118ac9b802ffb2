"""Views: the parts of an image that the model looks at, and how their maps become one."""

from clipseg_kfp.masks import Sums
from clipseg_kfp.views.accumulating import FieldLabelMap, accumulate, cut_mask, sum_up
from clipseg_kfp.views.merging import WHOLE_WEIGHT, Field, Merger
from clipseg_kfp.views.resolution import meters_per_pixel
from clipseg_kfp.views.tiling import Box, Tiling, averaged_with_flip, cut, mirrored, plan

__all__ = [
    "WHOLE_WEIGHT",
    "Box",
    "Field",
    "FieldLabelMap",
    "Merger",
    "Sums",
    "Tiling",
    "accumulate",
    "averaged_with_flip",
    "cut",
    "cut_mask",
    "meters_per_pixel",
    "mirrored",
    "plan",
    "sum_up",
]
