"""Views: the parts of an image that the model looks at, and how their maps become one."""

from clipseg_kfp.views.blend import WHOLE_WEIGHT, Field, Merger
from clipseg_kfp.views.resolution import meters_per_pixel
from clipseg_kfp.views.strips import FieldLabelMap, cut_mask, sum_up
from clipseg_kfp.views.tiles import Box, averaged_with_flip, cut, mirrored, plan, plan_views

__all__ = [
    "WHOLE_WEIGHT",
    "Box",
    "Field",
    "FieldLabelMap",
    "Merger",
    "averaged_with_flip",
    "cut",
    "cut_mask",
    "meters_per_pixel",
    "mirrored",
    "plan",
    "plan_views",
    "sum_up",
]
