"""Draws scenes of colored, textured shapes whose masks are known exactly.

A scene is a deterministic function of its seed, so every machine draws the same pictures for the demo, the training
and the tests. Backgrounds are low-saturation gradients with clutter (thin lines, specks, noise): only the shapes have
strong colors.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

COLORS: dict[str, tuple[int, int, int]] = {
    "red": (214, 40, 40),
    "orange": (245, 140, 30),
    "yellow": (245, 215, 45),
    "green": (50, 160, 70),
    "blue": (45, 85, 210),
    "purple": (130, 60, 170),
    "pink": (240, 130, 180),
    "white": (245, 245, 245),
    "black": (28, 28, 30),
}
SHAPES: tuple[str, ...] = ("circle", "square", "triangle", "star", "ring", "cross")
TEXTURES: tuple[str, ...] = ("plain", "striped", "dotted", "checkered")

_SUPERSAMPLE = 2


@dataclass(frozen=True)
class Query:
    """The things that a prompt names; ``None`` leaves an attribute open."""

    shape: str | None = None
    color: str | None = None
    texture: str | None = None

    def matches(self, other: SceneObject) -> bool:
        """Tells whether an object has every attribute that the query names."""
        return (
            self.shape in (None, other.shape)
            and self.color in (None, other.color)
            and self.texture in (None, other.texture)
        )

    @property
    def noun(self) -> str:
        """The query as a noun phrase without an article, for example ``striped red circle``."""
        words = [word for word in (self.texture, self.color, self.shape) if word]
        if self.shape is None:
            words.append("thing")
        return " ".join(words)


@dataclass(frozen=True)
class SceneObject:
    """One drawn shape; its pixels have its label in ``Scene.labels``."""

    shape: str
    color: str
    texture: str


@dataclass(frozen=True)
class Scene:
    """A drawn picture with its ground truth.

    Attributes:
        image: RGB picture.
        labels: uint8 array (height, width); 0 is background, ``i + 1`` is ``objects[i]`` where visible.
        objects: the shapes in drawing order.
    """

    image: Image.Image
    labels: NDArray[np.uint8]
    objects: tuple[SceneObject, ...]

    def mask(self, query: Query) -> NDArray[np.bool_]:
        """The mask of all visible pixels that the query names, bool (height, width)."""
        return np.isin(self.labels, [i + 1 for i, item in enumerate(self.objects) if query.matches(item)])


def phrase(query: Query, rng: np.random.Generator) -> str:
    """Words a query as people write prompts: without an article, with one, or as a plural."""
    noun = query.noun
    form = rng.integers(4)
    if form == 0 and query.shape is None and (query.color is None) != (query.texture is None):
        return query.color or query.texture or noun  # a single adjective: "red", "striped"
    if form == 1:
        return f"a {noun}"
    if form == 2:
        return f"the {noun}s" if not noun.endswith("cross") else f"the {noun}es"
    if form == 3:
        return f"a photo of a {noun}."
    return noun


def draw_scene(seed: int, size: tuple[int, int] = (320, 240), max_objects: int = 5) -> Scene:
    """Draws one scene.

    Args:
        seed: any non-negative integer; equal seeds give equal scenes.
        size: width and height in pixels.
        max_objects: the most shapes to try; at least two are.

    Returns:
        The scene. Later shapes may cover earlier ones a little, but never hide them.
    """
    rng = np.random.default_rng(seed)
    width, height = size
    canvas = background(rng, width * _SUPERSAMPLE, height * _SUPERSAMPLE)
    labels = Image.new("L", canvas.size, 0)
    objects: list[SceneObject] = []
    placed: list[tuple[float, float, float]] = []
    short = min(canvas.size)
    for _ in range(int(rng.integers(2, max_objects + 1))):
        radius = short * rng.uniform(0.15, 0.3)
        for _attempt in range(12):
            x = rng.uniform(radius * 0.8, canvas.width - radius * 0.8)
            y = rng.uniform(radius * 0.8, canvas.height - radius * 0.8)
            if all(math.hypot(x - px, y - py) > 0.85 * (radius + pr) for px, py, pr in placed):
                break
        else:
            continue
        placed.append((x, y, radius))
        item = SceneObject(
            shape=SHAPES[rng.integers(len(SHAPES))],
            color=list(COLORS)[rng.integers(len(COLORS))],
            texture=TEXTURES[max(0, int(rng.integers(-2, len(TEXTURES))))],
        )
        stencil = draw_stencil(item.shape, canvas.size, (x, y), radius, rng.uniform(0, 360))
        canvas.paste(fill(item, canvas.size, radius, rng), mask=stencil)
        objects.append(item)
        labels.paste(len(objects), mask=stencil)
    image = add_camera_effects(canvas.resize(size, Image.Resampling.BOX), rng)
    return Scene(image, np.asarray(labels.resize(size, Image.Resampling.NEAREST)), tuple(objects))


def background(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """Draws a gradient with clutter, RGB."""
    base = rng.uniform(95, 195)
    corners = np.clip(base + rng.uniform(-35, 35, (2, 2, 1)) + rng.uniform(-10, 10, (2, 2, 3)), 60, 225)
    gradient = Image.fromarray(corners.astype(np.uint8)).resize((width, height), Image.Resampling.BILINEAR)
    draw = ImageDraw.Draw(gradient)
    for _ in range(int(rng.integers(0, 14))):
        tone = rng.uniform(-45, 45)
        ink = tuple(int(np.clip(base + tone + d, 0, 255)) for d in rng.uniform(-12, 12, 3))
        x, y = rng.uniform(0, width), rng.uniform(0, height)
        if rng.random() < 0.5:
            angle, length = rng.uniform(0, math.tau), rng.uniform(0.1, 0.6) * width
            end = (x + length * math.cos(angle), y + length * math.sin(angle))
            draw.line([(x, y), end], fill=ink, width=int(rng.integers(2, 7)))
        else:
            r = rng.uniform(2, 7)
            draw.ellipse([x - r, y - r, x + r, y + r], fill=ink)
    return gradient


def _regular(points: int, inner: float, start: float = -90.0) -> list[tuple[float, float]]:
    """Corners of a polygon (``inner == 1``) or of a star with alternating radii 1 and ``inner``."""
    count = points if inner == 1 else 2 * points
    return [
        (
            (1.0 if i % 2 == 0 or inner == 1 else inner) * math.cos(math.radians(start + 360 * i / count)),
            (1.0 if i % 2 == 0 or inner == 1 else inner) * math.sin(math.radians(start + 360 * i / count)),
        )
        for i in range(count)
    ]


_A = 0.36  # half the arm of a cross, in units of its half width
_OUTLINES: dict[str, list[tuple[float, float]]] = {
    "square": [(-0.82, -0.82), (0.82, -0.82), (0.82, 0.82), (-0.82, 0.82)],
    "triangle": _regular(3, 1),
    "star": _regular(5, 0.45),
    "cross": [
        (-_A, -1), (_A, -1), (_A, -_A), (1, -_A), (1, _A), (_A, _A),
        (_A, 1), (-_A, 1), (-_A, _A), (-1, _A), (-1, -_A), (-_A, -_A),
    ],
}  # fmt: skip


def draw_stencil(
    shape: str, size: tuple[int, int], center: tuple[float, float], radius: float, degrees: float
) -> Image.Image:
    """Draws a shape, turned by some degrees, as 255 on 0."""
    stencil = Image.new("L", size, 0)
    draw = ImageDraw.Draw(stencil)
    x, y = center
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))

    def disc(cx: float, cy: float, r: float, ink: int) -> None:
        draw.ellipse([cx - r, cy - r, cx + r, cy + r], fill=ink)

    if shape in _OUTLINES:
        draw.polygon(
            [(x + radius * (px * cos - py * sin), y + radius * (px * sin + py * cos))
             for px, py in _OUTLINES[shape]],
            fill=255,
        )  # fmt: skip
    else:
        disc(x, y, radius * 0.92, 255)
        if shape == "ring":
            disc(x, y, radius * 0.48, 0)
    return stencil


def fill(item: SceneObject, size: tuple[int, int], radius: float, rng: np.random.Generator) -> Image.Image:
    """Draws a sheet of an object's color and texture."""
    base = np.clip(np.array(COLORS[item.color]) + rng.uniform(-16, 16, 3), 0, 255)
    # The second tone is of the same color: both stripes of a striped red thing are red.
    second = base * 0.55 if base.mean() > 60 else base + 75
    ink, other = (tuple(int(v) for v in tone) for tone in (base, second))
    sheet = Image.new("RGB", size, ink)
    if item.texture == "plain":
        return sheet
    draw = ImageDraw.Draw(sheet)
    step = max(8.0, radius * rng.uniform(0.3, 0.42))
    columns, rows = int(size[0] / step) + 2, int(size[1] / step) + 2
    if item.texture == "striped":
        slope, upright = rng.uniform(-1, 1), bool(rng.random() < 0.5)
        for i in range(-columns - rows, columns + rows, 2):
            start, end = (0.0, i * step), (float(size[0]), i * step + slope * size[0])
            if upright:
                start, end = (i * step, 0.0), (i * step + slope * size[1], float(size[1]))
            draw.line([start, end], fill=other, width=round(step))
        return sheet
    for row in range(rows):
        for column in range(columns):
            x, y = column * step, row * step
            if item.texture == "checkered" and (row + column) % 2:
                draw.rectangle([x, y, x + step - 1, y + step - 1], fill=other)
            elif item.texture == "dotted":
                r = step * 0.3
                draw.ellipse([x - r, y - r, x + r, y + r], fill=other)
    return sheet


def add_camera_effects(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Adds the effects of a camera: a little blur, a light gradient, sensor noise."""
    if rng.random() < 0.5:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.2, 0.8)))
    pixels = np.asarray(image, dtype=np.float32)
    light = np.linspace(rng.uniform(0.85, 1.1), rng.uniform(0.85, 1.1), image.height)
    pixels = pixels * light[:, None, None].astype(np.float32)
    pixels += rng.normal(0, rng.uniform(1, 7), pixels.shape).astype(np.float32)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
