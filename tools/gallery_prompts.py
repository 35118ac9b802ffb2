"""What the gallery asks for, of which scenes, and what would be right.

Scenes are chosen by what they show, before any model looks at them: the first ones that follow a rule.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping
from itertools import count
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from clipseg_kfp.demo.scenes import COLORS, SHAPES, Query, Scene, draw_scene

Mask = NDArray[np.bool_]
Rule = Callable[[Scene], bool]
Key = TypeVar("Key", bound=Hashable)

#: The i-th shape in the i-th color.
THINGS = tuple(Query(shape, color) for shape, color in zip(SHAPES, COLORS, strict=False))
KINDS = ("text", "image", "mix", "logic", "embedding")
LOGIC = ("red", "ring", "red and not ring", "cleaned", "star or circle")
#: How a support image is prepared, step by step: each adds to the one before.
STAGES: dict[str, str | dict[str, float]] = {
    "as it is": "none",
    "crop": {"blur": 0, "background": 1, "pad": False},
    "+ blur": {"background": 1, "pad": False},
    "+ darken": {"pad": False},
    "+ pad": "paper",
}
NORM = 2.4  # about the length of the model's embeddings of texts that name a shape and a color
SUPPORT_SHARE, SUPPORT_SPACE = 0.04, 8  # of the picture, at least; in pixels

_ENTRIES = """\
  - {{name: {name} text, text: {words}}}
  - {{name: {name} image, image: {file}.jpg, mask: {file}.png}}
  - name: {name} mix
    mix:
      - {{text: {words}}}
      - {{image: {file}.jpg, mask: {file}.png}}
  - {{name: {name} logic, logic: {color} and {shape}}}
  - {{name: {name} embedding, embedding: {{uri: vectors.npy, row: {row}, normalized: true, norm: {norm}}}}}
"""
_LOGIC = """\
  - {name: red, text: the red things}
  - {name: ring, texts: [a ring, the rings]}
  - {name: red and not ring, logic: red and not ring}
  - {name: cleaned, logic: '"red and not ring"', cleaning: {min_area: 1%, smooth: 2}}
  - {name: star or circle, logic: star or circle}
"""


def file_of(thing: Query) -> str:
    """Names a thing's support picture, without its ending."""
    return thing.noun.replace(" ", "-")


def words_of(thing: Query) -> str:
    """Says a thing with its article."""
    return f"{'an' if thing.noun[0] in 'aeiou' else 'a'} {thing.noun}"


def _parts() -> Iterator[str]:
    """What only logic uses: the colors and shapes of all things, but for those that the page shows."""
    words = {thing.color: f"the {thing.color} things" for thing in THINGS}
    words |= {thing.shape: f"a {thing.shape}" for thing in THINGS}
    for name, text in words.items():
        if name not in LOGIC:
            yield f"  - {{name: {name}, text: {text}, hidden: true}}\n"


#: The prompt file, as it is read and as the page shows it.
PROMPTS = (
    "prompts:\n"
    + "".join(
        _ENTRIES.format(
            name=thing.noun,
            words=words_of(thing),
            file=file_of(thing),
            color=thing.color,
            shape=thing.shape,
            row=row,
            norm=NORM,
        )
        for row, thing in enumerate(THINGS)
    )
    + _LOGIC
    + "".join(_parts())
)


def truth_of(scene: Scene, name: str) -> Mask:
    """Returns where a prompt of the gallery is right, bool (height, width).

    Args:
        scene: drawn.
        name: one of ``LOGIC``, or one that begins with a thing.
    """
    if name not in LOGIC:
        return scene.mask(next(thing for thing in THINGS if name.startswith(thing.noun)))
    red, ring = scene.mask(Query(color="red")), scene.mask(Query("ring"))
    known = {"red": red, "ring": ring, "red and not ring": red & ~ring, "cleaned": red & ~ring}
    return known[name] if name in known else scene.mask(Query("star")) | scene.mask(Query("circle"))


def first_scenes(rules: Mapping[Key, Rule], start: int, each: int = 1) -> dict[Key, list[tuple[int, Scene]]]:
    """Finds the first scenes for each rule: their seeds, from ``start`` on, and the scenes."""
    found: dict[Key, list[tuple[int, Scene]]] = {key: [] for key in rules}
    for seed in count(start):
        scene = draw_scene(seed)
        for key, rule in rules.items():
            if len(found[key]) < each and rule(scene):
                found[key].append((seed, scene))
        if all(len(scenes) == each for scenes in found.values()):
            break
    return found


def shows(thing: Query) -> Rule:
    """The rule for a row of prompt kinds: the thing, and something else of its shape or its color."""

    def rule(scene: Scene) -> bool:
        others = [item for item in scene.objects if not thing.matches(item)]
        alike = any(item.shape == thing.shape or item.color == thing.color for item in others)
        return alike and len(others) < len(scene.objects)

    return rule


def shows_logic(scene: Scene) -> bool:
    """The rule for rows of logic: a red ring, something else that is red, and a star or a circle."""
    red = {item.shape for item in scene.objects if item.color == "red"}
    shapes = {item.shape for item in scene.objects}
    return "ring" in red and len(red) > 1 and bool(shapes & {"star", "circle"})


def supports(thing: Query) -> Rule:
    """The rule for a support image: one plain thing of the kind, not small, clear of all else."""

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
