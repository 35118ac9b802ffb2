"""From the maps of one image's views to its masks: logic, blending, thresholds, cleaning, measures."""

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
class Finished:
    """One prompt of one image.

    Attributes:
        prompt: of the table.
        threshold: that the mask was cut at.
        mask: bool (height, width), cleaned.
        measures: of the mask.
        field: the probabilities, until the next prompt is asked for.
        maps: that the field is blended of, uint8 (V, S, S): one a view.
    """

    prompt: Row
    threshold: float
    mask: masks.Mask
    measures: masks.Measures
    field: Field
    maps: NDArray[np.uint8]


def finish(
    prompts: Sequence[Row],
    maps: Mapping[str, NDArray[np.uint8]],
    boxes: Sequence[Box],
    width: int,
    height: int,
) -> Iterator[Finished]:
    """Yields the masks of all prompts that are not hidden, one by one.

    Only one map of the source's size exists at a time, in strips where it is large.

    Args:
        prompts: all of the table.
        maps: of each prompt with an embedding, uint8 (V, S, S): one a view.
        boxes: of the views.
        width: of the source, upright.
        height: of the source.
    """
    merger = Merger(boxes, width, height)
    levels = complete(prompts, maps)
    for prompt in prompts:
        if prompt.hidden:
            continue
        found = levels[prompt.name]
        field = merger.field(list(found))
        threshold = _otsu(found, field, prompt.otsu_minimum) if prompt.otsu else prompt.threshold
        if threshold is None:
            raise AssertionError(f"prompt '{prompt.name}' has no threshold")
        mask = cut_mask(field, threshold)
        if prompt.cleaning != Cleaning() and mask.any():
            mask = cleaning.clean(mask, **prompt.cleaning.arguments(width, height))
        yield Finished(prompt, threshold, mask, masks.measure(mask, sum_up(field, mask)), field, found)


def _otsu(maps: NDArray[np.uint8], field: Field, minimum: float) -> float:
    """One view is its map, stretched; of several only the blended field says what they make together."""
    shown = maps if len(maps) == 1 else (values.clip(0, 1) for _, values in field)
    return cleaning.otsu(shown, minimum=minimum)
