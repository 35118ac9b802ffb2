"""What tiles are worth: mean IoU on large drawn scenes with and without them, and with flips.

    .venv/bin/python tests/bench/tiles.py [--size 1500x1000] [--scenes 2] [--picture tiles.png]

Two kinds of scenes, both drawn by the demo's own code, for the demo's model: ``small`` holds many objects of
24 to 40 pixels, ``mixed`` has a few large ones among them, which no tile shows as a whole. IoU is the mean
over prompts of true positives over the union, at a threshold of 0.5, pixels summed over scenes.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from clipseg_kfp.demo.bucket import DEMO_PROMPTS
from clipseg_kfp.engine import Engine
from clipseg_kfp.engine.checkpoint import load_model, load_tokenizer
from clipseg_kfp.metrics import Confusion
from clipseg_kfp.options import Views
from clipseg_kfp.views import (
    WHOLE_WEIGHT,
    Box,
    Merger,
    averaged_with_flip,
    cut,
    cut_mask,
    mirrored,
    plan_views,
)
from tools.large_scenes import LargeScene, draw_large_scene

MODEL = Path(__file__).parents[2] / "examples" / "demo-model"
THRESHOLD = 0.5
BATCH = 16


@dataclass(frozen=True)
class Setting:
    """One way to look at a scene: how it is cut, how its views are blended."""

    views: Views
    whole_weight: float = WHOLE_WEIGHT

    def __str__(self) -> str:
        views = self.views
        flip = ", flip" * views.flip
        if not views.tiled:
            return f"no tiles{flip}"
        return f"tiles {views.tile_size:4d}, overlap {views.tile_overlap:5.3f}, whole {self.whole_weight:.2f}{flip}"


def embed(folder: Path, prompts: dict[str, list[str]]) -> torch.Tensor:
    """Returns the prompts' conditional embeddings, float32 (P, D)."""
    model: Any = load_model(folder)
    tokenizer = load_tokenizer(folder)
    with torch.inference_mode():
        rows = [
            model.clip.get_text_features(**tokenizer(texts, padding=True, return_tensors="pt")).pooler_output
            for texts in prompts.values()
        ]
    return torch.stack([row.mean(0) for row in rows])


def look(
    engine: Engine, embeddings: torch.Tensor, image: Image.Image, boxes: Sequence[Box], flip: bool
) -> NDArray[np.uint8]:
    """Segments views: uint8 (V, P, S, S)."""
    size = engine.facts.image_size

    def maps() -> Iterator[NDArray[np.uint8]]:
        for start in range(0, len(boxes), BATCH):
            pixels = np.stack([cut(image, box, size) for box in boxes[start : start + BATCH]])
            plain = engine.probabilities(pixels, embeddings)
            if not flip:
                yield from plain
                continue
            for pair in zip(plain, engine.probabilities(mirrored(pixels), embeddings), strict=True):
                yield averaged_with_flip(*pair)

    return np.stack(list(maps()))


class Bench:
    """Segments scenes and compares with the truth; views are computed once for each way of cutting."""

    def __init__(self, scenes_: Sequence[LargeScene], model: Path = MODEL) -> None:
        self.scenes = scenes_
        self.engine = Engine.load(model, "cpu")
        self.embeddings = embed(model, DEMO_PROMPTS)
        self._maps: dict[Views, list[tuple[list[Box], NDArray[np.uint8]]]] = {}
        self.seconds: dict[Views, float] = {}

    def maps(self, views: Views) -> list[tuple[list[Box], NDArray[np.uint8]]]:
        """Returns boxes and maps of every scene."""
        if views not in self._maps:
            start, size = time.perf_counter(), self.engine.facts.image_size
            plans = [plan_views(views, *scene.image.size, size) for scene in self.scenes]
            self._maps[views] = [
                (boxes, look(self.engine, self.embeddings, scene.image, boxes, views.flip))
                for scene, boxes in zip(self.scenes, plans, strict=True)
            ]
            self.seconds[views] = (time.perf_counter() - start) / len(self.scenes)
        return self._maps[views]

    def masks(self, setting: Setting, scene: int) -> dict[str, NDArray[np.bool_]]:
        """Returns the mask of each prompt in one scene."""
        boxes, maps = self.maps(setting.views)[scene]
        merger = Merger(boxes, *self.scenes[scene].image.size, setting.whole_weight)
        return {
            name: cut_mask(merger.field(list(maps[:, i])), THRESHOLD) for i, name in enumerate(DEMO_PROMPTS)
        }

    def ious(self, setting: Setting) -> dict[str, float]:
        """Returns the IoU of each prompt over all scenes."""
        counts = {name: Confusion() for name in DEMO_PROMPTS}
        for i, scene in enumerate(self.scenes):
            for name, mask in self.masks(setting, i).items():
                counts[name].add(mask, scene.truth[name])
        return {name: count.iou for name, count in counts.items()}

    def mean_iou(self, setting: Setting) -> float:
        """Returns the mean over prompts."""
        return float(np.mean(list(self.ious(setting).values())))


def picture(bench: Bench, settings: Sequence[Setting], crop: Box, prompt: str = "red") -> Image.Image:
    """Draws a part of the first scene under several settings side by side, each with its mean IoU."""
    cells = []
    for setting in settings:
        pixels = np.asarray(bench.scenes[0].image).copy()
        mask = bench.masks(setting, 0)[prompt]
        pixels[~mask] = pixels[~mask] // 2 + 100  # what was not found fades
        outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(pixels, outlines, -1, (0, 0, 0), 2)
        cell = Image.fromarray(pixels).crop(crop)
        sheet = Image.new("RGB", (cell.width, cell.height + 32), "white")
        sheet.paste(cell, (0, 32))
        words = f"{prompt}: {' '.join(str(setting).split())}: mean IoU {bench.mean_iou(setting):.2f}"
        ImageDraw.Draw(sheet).text((4, 6), words, fill="black", font=ImageFont.load_default(16))
        cells.append(sheet)
    width = sum(cell.width + 10 for cell in cells) - 10
    row = Image.new("RGB", (width, cells[0].height), "white")
    for i, cell in enumerate(cells):
        row.paste(cell, (i * (cell.width + 10), 0))
    return row


def settings(sizes: Sequence[int]) -> Iterator[Setting]:
    """Lists what is compared: sizes, overlaps, weights of the whole view, flips."""
    yield from (Setting(Views(flip=flip)) for flip in (False, True))
    for size in sizes:
        for weight in (0.0, 0.1, 0.2, 0.3, 0.4, 0.5):
            yield Setting(Views(tile_size=size), weight)
    finest = sizes[0]
    for overlap in (0.0, 0.125, 0.25, 0.375, 0.5):
        yield Setting(Views(tile_size=finest, tile_overlap=overlap))
    yield Setting(Views(tile_size=finest, flip=True))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", default="1500x1000")
    parser.add_argument("--scenes", type=int, default=2)
    parser.add_argument("--tiles", default="96,128,192,384", help="sides of tiles in pixels")
    parser.add_argument("--picture", type=Path, help="where to draw tiles against no tiles")
    options = parser.parse_args()
    width, height = (int(side) for side in options.size.split("x"))
    sides = [int(side) for side in options.tiles.split(",")]
    kinds = {
        kind: Bench([draw_large_scene(seed, (width, height), large) for seed in range(options.scenes)])
        for kind, large in (("small", 0), ("mixed", 5))
    }
    print(f"{options.scenes} scenes of each kind, {width} x {height}; views and seconds an image\n")
    print(f"{'':50} {'views':>6} {'s':>6} " + " ".join(f"{kind:>6}" for kind in kinds))
    for setting in settings(sides):
        scores = {kind: bench.mean_iou(setting) for kind, bench in kinds.items()}
        bench = kinds["small"]
        views = len(bench.maps(setting.views)[0][0]) * (1 + setting.views.flip)
        spent = bench.seconds[setting.views]
        row = " ".join(f"{score:6.3f}" for score in scores.values())
        print(f"{setting!s:50} {views:6d} {spent:6.1f} {row}", flush=True)
    if options.picture:
        shown = [Setting(Views()), Setting(Views(tile_size=sides[0]))]
        picture(kinds["small"], shown, (0, 0, 700, 600)).save(options.picture)


if __name__ == "__main__":
    main()
