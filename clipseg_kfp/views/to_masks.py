"""Makes the masks of one image from the maps of its views: logic, blending, thresholds, cleaning, measures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clipseg_kfp.masks import cleanup as cleaning
from clipseg_kfp.masks import raster as masks
from clipseg_kfp.prompts import Cleaning, Row, complete
from clipseg_kfp.views import Box, Field, Merger, cut_mask, sum_up


@dataclass(frozen=True)
class PromptMask:
    """The mask of one prompt in one image.

    Attributes:
        prompt: its row of the table.
        threshold: from which a pixel belongs to the mask.
        mask: bool (height, width), cleaned.
        measures: of the mask.
        field: the probabilities; valid until the next prompt's.
        maps: of the views, which the field is blended from, uint8 (V, S, S).
    """

    prompt: Row
    threshold: float
    mask: masks.Mask
    measures: masks.Measures
    field: Field
    maps: NDArray[np.uint8]


def make_masks(
    prompts: Sequence[Row],
    maps: Mapping[str, NDArray[np.uint8]],
    boxes: Sequence[Box],
    width: int,
    height: int,
) -> Iterator[PromptMask]:
    """Yields the masks of all prompts that are not hidden, one by one.

    Only one map of the source's size exists at a time, in strips where it is large.

    Args:
        prompts: all of the table.
        maps: of each prompt with an embedding, uint8 (V, S, S), one per view.
        boxes: of the views.
        width: of the upright source in pixels.
        height: of the upright source in pixels.
    """
    merger = Merger(boxes, width, height)
    levels = complete(prompts, maps)
    for prompt in prompts:
        if prompt.hidden:
            continue
        views = levels[prompt.name]
        field = merger.field(list(views))
        threshold = _otsu(views, field, prompt.otsu_minimum) if prompt.otsu else prompt.threshold
        if threshold is None:
            raise AssertionError(f"prompt '{prompt.name}' has no threshold")
        mask = cut_mask(field, threshold)
        if prompt.cleaning != Cleaning() and mask.any():
            mask = cleaning.clean(mask, **prompt.cleaning.arguments(width, height))
        yield PromptMask(prompt, threshold, mask, masks.measure(mask, sum_up(field, mask)), field, views)


def _otsu(maps: NDArray[np.uint8], field: Field, minimum: float) -> float:
    """A single view is taken as it is; several are blended first."""
    levels = maps if len(maps) == 1 else (values.clip(0, 1) for _, values in field)
    return cleaning.otsu(levels, minimum=minimum)
