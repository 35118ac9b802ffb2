"""Draws large scenes of many small shapes, to show and measure tiles."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clipseg_kfp.demo import scenes
from clipseg_kfp.demo.bucket import DEMO_QUERIES

SMALL = (12.0, 20.0)  # radii in pixels
_PIXELS_PER_OBJECT = 6000
_SUPERSAMPLE = 2  # like the demo's scenes
_ATTEMPTS = 20


@dataclass(frozen=True)
class LargeScene:
    """A drawn picture with its ground truth.

    Attributes:
        image: RGB picture.
        truth: masks of the demo's prompts by name, bool (height, width).
    """

    image: Image.Image
    truth: dict[str, NDArray[np.bool_]]


def draw_large_scene(seed: int, size: tuple[int, int], large: int = 0) -> LargeScene:
    """Draws a large scene; equal arguments give equal scenes.

    Args:
        seed: any non-negative integer.
        size: width and height in pixels.
        large: number of large objects, of a quarter to half of the height, among the small ones.
    """
    rng = np.random.default_rng([seed, large])
    scale = _SUPERSAMPLE
    canvas = scenes.background(rng, size[0] * scale, size[1] * scale)
    labels = Image.new("I", canvas.size, 0)
    radii = [size[1] * rng.uniform(0.125, 0.25) * scale for _ in range(large)]
    radii += [rng.uniform(*SMALL) * scale for _ in range(size[0] * size[1] // _PIXELS_PER_OBJECT)]
    placed = np.empty((0, 3))
    objects: list[scenes.SceneObject] = []
    for radius in radii:
        for _attempt in range(_ATTEMPTS):
            x, y = (rng.uniform(radius, side - radius) for side in canvas.size)
            if (np.hypot(placed[:, 0] - x, placed[:, 1] - y) > 1.15 * (placed[:, 2] + radius)).all():
                break
        else:
            continue
        placed = np.vstack([placed, (x, y, radius)])
        item = scenes.SceneObject(
            shape=scenes.SHAPES[rng.integers(len(scenes.SHAPES))],
            color=list(scenes.COLORS)[rng.integers(len(scenes.COLORS))],
            texture="plain" if radius < 2 * SMALL[1] * scale else scenes.TEXTURES[rng.integers(4)],
        )
        objects.append(item)
        side = 2 * math.ceil(radius) + 2
        corner = (round(x) - side // 2, round(y) - side // 2)
        stencil = scenes.draw_stencil(
            item.shape, (side, side), (side / 2, side / 2), radius, rng.uniform(0, 360)
        )
        canvas.paste(scenes.fill(item, (side, side), radius, rng), corner, stencil)
        labels.paste(len(objects), corner, stencil)
    image = scenes.add_camera_effects(canvas.resize(size, Image.Resampling.BOX), rng)
    numbers = np.asarray(labels.resize(size, Image.Resampling.NEAREST))
    truth = {
        name: np.isin(numbers, [i + 1 for i, item in enumerate(objects) if query.matches(item)])
        for name, query in DEMO_QUERIES.items()
    }
    return LargeScene(image, truth)
