"""Things that scenes show, and the first scenes that show them.

Scenes are chosen by their content, before a model sees them: the first ones that follow a rule.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from itertools import count
from typing import TypeVar

import cv2
import numpy as np

from clipseg_kfp.demo.scenes import COLORS, SHAPES, Query, Scene, draw_scene

Rule = Callable[[Scene], bool]
Key = TypeVar("Key", bound=Hashable)

SUPPORT_SHARE, SUPPORT_SPACE = 0.04, 8  # of the picture, at least; in pixels

#: The i-th shape in the i-th color.
THINGS = tuple(Query(shape, color) for shape, color in zip(SHAPES, COLORS, strict=False))


def first_scenes(rules: Mapping[Key, Rule], start: int, each: int = 1) -> dict[Key, list[tuple[int, Scene]]]:
    """Finds the first scenes for each rule: their seeds, from ``start`` on, and the scenes."""
    chosen: dict[Key, list[tuple[int, Scene]]] = {key: [] for key in rules}
    for seed in count(start):
        scene = draw_scene(seed)
        for key, rule in rules.items():
            if len(chosen[key]) < each and rule(scene):
                chosen[key].append((seed, scene))
        if all(len(scenes) == each for scenes in chosen.values()):
            break
    return chosen


def shows(thing: Query) -> Rule:
    """The rule for a row of prompt kinds: the thing, and something else of its shape or its color."""

    def rule(scene: Scene) -> bool:
        others = [item for item in scene.objects if not thing.matches(item)]
        alike = any(item.shape == thing.shape or item.color == thing.color for item in others)
        return alike and len(others) < len(scene.objects)

    return rule


def supports(thing: Query) -> Rule:
    """The rule for a support image: a single plain thing of the kind, not small, and apart from all else."""

    def rule(scene: Scene) -> bool:
        if [item.texture for item in scene.objects if thing.matches(item)] != ["plain"]:
            return False
        mask = scene.mask(thing)
        side = 2 * SUPPORT_SPACE + 1
        near = cv2.dilate(mask.astype(np.uint8), np.ones((side, side), np.uint8)) > 0
        border = np.concatenate([near[0], near[-1], near[:, 0], near[:, -1]])
        return bool(
            mask.mean() >= SUPPORT_SHARE and not border.any() and not (scene.labels[near & ~mask]).any()
        )

    return rule
