"""The gallery's prompts, its scenes, and their ground truth.

Scenes are chosen by their content, before a model sees them: the first ones that follow a rule.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from clipseg_kfp.demo.scenes import Query, Scene
from clipseg_kfp.demo.things import THINGS

Mask = NDArray[np.bool_]

KINDS = ("text", "image", "mix", "logic", "embedding")
LOGIC = ("red", "ring", "red and not ring", "cleaned", "star or circle")
#: How a support image is prepared, step by step.
STAGES: dict[str, str | dict[str, float]] = {
    "as it is": "none",
    "crop": {"blur": 0, "background": 1, "pad": False},
    "+ blur": {"background": 1, "pad": False},
    "+ darken": {"pad": False},
    "+ pad": "paper",
}
NORM = 2.4  # about the length of the model's embeddings of texts that name a shape and a color

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
    """The name of a thing's support picture, without its suffix."""
    return thing.noun.replace(" ", "-")


def words_of(thing: Query) -> str:
    """A thing with its article."""
    return f"{'an' if thing.noun[0] in 'aeiou' else 'a'} {thing.noun}"


def _parts() -> Iterator[str]:
    """Prompts that only logic uses: the colors and shapes of all things, without those of the page."""
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
    """The ground truth of a prompt of the gallery, bool (height, width).

    Args:
        scene: drawn.
        name: one of ``LOGIC``, or one that begins with a thing.
    """
    if name not in LOGIC:
        return scene.mask(next(thing for thing in THINGS if name.startswith(thing.noun)))
    red, ring = scene.mask(Query(color="red")), scene.mask(Query("ring"))
    masks = {"red": red, "ring": ring, "red and not ring": red & ~ring, "cleaned": red & ~ring}
    return masks[name] if name in masks else scene.mask(Query("star")) | scene.mask(Query("circle"))


def shows_logic(scene: Scene) -> bool:
    """The rule for rows of logic: a red ring, something else that is red, and a star or a circle."""
    red = {item.shape for item in scene.objects if item.color == "red"}
    shapes = {item.shape for item in scene.objects}
    return "ring" in red and len(red) > 1 and bool(shapes & {"star", "circle"})
