"""Writes ``docs/gallery.md`` and its pictures: ``make gallery``.

The suite makes everything itself, on drawn scenes that training never saw, with the prompt file of the page.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pydantic import TypeAdapter

from clipseg_kfp.demo.bucket import DEMO_PROMPTS
from clipseg_kfp.demo.run import MODEL
from clipseg_kfp.demo.scenes import Query, Scene
from clipseg_kfp.demo.things import THINGS, first_scenes, shows, supports
from clipseg_kfp.masks import raster as masks
from clipseg_kfp.metrics import Confusion
from clipseg_kfp.options import Views
from clipseg_kfp.prompts import EngineeringEntry, PromptTable, engineer, parse_prompts
from clipseg_kfp.segmenter import Segmenter, paint
from clipseg_kfp.views import plan_views
from tools.gallery_page import write_page
from tools.gallery_prompts import (
    KINDS,
    LOGIC,
    PROMPTS,
    STAGES,
    Mask,
    file_of,
    shows_logic,
    truth_of,
    words_of,
)
from tools.large_scenes import draw_large_scene
from tools.picture_sheets import Cell, save, sheet

SEED, SUPPORT_SEED = 5000, 6000  # where the search for scenes begins; training uses none of these
THRESHOLD = 0.5
COLOR = masks.palette(5)[4]  # no drawn thing has it
#: Longest sides in pixels, so that no picture is wider than 1000.
CELL, KINDS_CELL, SUPPORT_CELL = 148, 132, 184
TILE, LARGE, CROP = 96, (1200, 800), (360, 180, 840, 620)


def segment(
    suite: Segmenter, table: PromptTable, images: Iterable[Image.Image], views: Views | None = None
) -> Iterator[dict[str, Mask]]:
    """Yields the masks of each image by prompt, bool (height, width) in its own size."""
    for image in images:
        yield {name: segment.mask for name, segment in suite(image, table, views).items()}


def agreement(found: Iterable[Mapping[str, Mask]], truths: Iterable[Mapping[str, Mask]]) -> dict[str, float]:
    """The IoU of each prompt over all images, pixels summed."""
    counts: dict[str, Confusion] = {}
    for image, truth in zip(found, truths, strict=True):
        for name, mask in image.items():
            counts.setdefault(name, Confusion()).add(mask, truth[name])
    return {name: total.iou for name, total in counts.items()}


def _mask_cell(scene: Scene, masks_by_name: Mapping[str, Mask], name: str, side: int) -> Cell:
    mask, truth = masks_by_name[name], truth_of(scene, name)
    if not mask.any() and not truth.any():
        caption = "nothing, rightly"
    else:
        caption = f"IoU {agreement([{name: mask}], [{name: truth}])[name]:.2f}"
    return Cell(paint(scene.image, [(mask, COLOR)], side), caption)


def write_supports(folder: Path, suite: Segmenter) -> dict[Query, Scene]:
    """Writes the prompt file, and what it refers to: pictures, masks, vectors.

    Returns:
        The scene of each thing's support picture.
    """
    chosen = first_scenes({thing: supports(thing) for thing in THINGS}, SUPPORT_SEED)
    shown = {thing: scene for thing, [(_, scene)] in chosen.items()}
    for thing, scene in shown.items():
        scene.image.save(folder / f"{file_of(thing)}.jpg", quality=90)
        (folder / f"{file_of(thing)}.png").write_bytes(masks.mask_png(scene.mask(thing)))
    vectors = suite.encoder.texts([words_of(thing) for thing in THINGS])
    np.save(folder / "vectors.npy", vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
    (folder / "prompts.yaml").write_text(PROMPTS, "utf-8")
    return shown


def draw_kinds(suite: Segmenter, table: PromptTable, shown: Mapping[Query, Scene]) -> Image.Image:
    """A row per thing: its support picture, a scene, and the scene's masks by each kind of prompt."""
    chosen = first_scenes({thing: shows(thing) for thing in THINGS}, SEED)
    rows = []
    for thing, [(_, scene)] in chosen.items():
        found = next(segment(suite, table, [scene.image]))
        side = KINDS_CELL
        support = paint(shown[thing].image, [(shown[thing].mask(thing), COLOR)], side)
        cells = [Cell(support, thing.noun), Cell(paint(scene.image, [], side))]
        rows.append([*cells, *(_mask_cell(scene, found, f"{thing.noun} {kind}", side) for kind in KINDS)])
    return sheet(rows, ["support, mask", "scene", *KINDS[:-1], "stored embedding"])


def draw_logic(suite: Segmenter, table: PromptTable) -> Image.Image:
    """A row per scene: the masks of the parts of logic, and of their combinations."""
    rows = []
    for _, scene in first_scenes({"": shows_logic}, SEED, 3)[""]:
        found = next(segment(suite, table, [scene.image]))
        cells = [_mask_cell(scene, found, name, CELL) for name in LOGIC]
        rows.append([Cell(paint(scene.image, [], CELL)), *cells])
    return sheet(rows, ["scene", *LOGIC])


def stage_prompts(folder: Path) -> list[dict[str, Any]]:
    """Image prompts for all things in every stage of preparation."""
    return [
        {
            "name": f"{thing.noun} {stage}",
            "image": str(folder / f"{file_of(thing)}.jpg"),
            "mask": str(folder / f"{file_of(thing)}.png"),
            "engineering": settings,
        }
        for thing in THINGS
        for stage, settings in STAGES.items()
    ]


def draw_stages(suite: Segmenter, shown: Mapping[Query, Scene], iou: Mapping[str, float]) -> Image.Image:
    """A row per second thing: its support picture after each step of its preparation."""
    size, rows = suite.facts.image_size, []
    for thing in THINGS[::2]:
        scene, region = shown[thing], shown[thing].mask(thing)
        row = [Cell(paint(scene.image, [(region, COLOR)], SUPPORT_CELL), f"{thing.noun}, its mask")]
        for stage, settings in STAGES.items():
            pixels = engineer(
                scene.image,
                region,
                TypeAdapter(EngineeringEntry).validate_python(settings),
                size,
                suite.facts.mean,
            )
            square = Image.fromarray(pixels).resize((row[0].image.height,) * 2, Image.Resampling.LANCZOS)
            row.append(Cell(square, f"IoU {iou[f'{thing.noun} {stage}']:.2f}"))
        rows.append(row)
    return sheet(rows, ["support", *STAGES])


def draw_tiles(suite: Segmenter, scenes: int) -> tuple[Image.Image, dict[str, float]]:
    """A part of the first large scene without and with tiles; mean IoU over all large scenes."""
    drawn = [draw_large_scene(seed, LARGE) for seed in range(scenes)]
    table = suite.encode(parse_prompts([{"name": name, "texts": t} for name, t in DEMO_PROMPTS.items()]))
    colors = dict(zip(DEMO_PROMPTS, masks.palette(len(DEMO_PROMPTS)), strict=True))
    cells, figures = [], {}
    for name, views in (("no tiles", Views()), (f"tiles of {TILE} pixels", Views(tile_size=TILE))):
        found = list(segment(suite, table, (scene.image for scene in drawn), views))
        mean = float(np.mean(list(agreement(found, (scene.truth for scene in drawn)).values())))
        layers = [(found[0][prompt], color) for prompt, color in colors.items()]
        whole = paint(drawn[0].image, layers, max(LARGE))
        cells.append(Cell(whole.crop(CROP), f"{name}: mean IoU {mean:.2f}"))
        figures["iou_tiles" if views.tiled else "iou_no_tiles"] = mean
    return sheet([cells], legend=list(colors.items())), figures


def write_gallery(page: Path, each: int = 6, large: int = 2) -> dict[str, float]:
    """Writes the page and, in a folder of the same name, its pictures and the prompt set.

    Args:
        page: Markdown file.
        each: number of scenes per thing in the figures of prompts.
        large: number of large scenes in the figures of tiles.

    Returns:
        The figures of the page by name.
    """
    folder = page.with_suffix("")
    folder.mkdir(parents=True, exist_ok=True)
    suite = Segmenter(MODEL, threshold=THRESHOLD, backend="torch", device="cpu", precision="float32")
    shown = write_supports(folder, suite)
    file = folder / "prompts.yaml"
    table = suite.encode(file)
    staged = suite.encode(parse_prompts(stage_prompts(folder)))

    searched = first_scenes({thing: shows(thing) for thing in THINGS}, SEED, each)
    drawn = list(dict(pair for pairs in searched.values() for pair in pairs).values())
    iou: dict[str, float] = {}
    for prompts in (table, staged):
        names = [row.name for row in prompts.outputs]
        truths = ({name: truth_of(scene, name) for name in names} for scene in drawn)
        iou |= agreement(segment(suite, prompts, (scene.image for scene in drawn)), truths)

    tiles, figures = draw_tiles(suite, large)
    for name, picture in (
        ("kinds", draw_kinds(suite, table, shown)),
        ("support", draw_stages(suite, shown, iou)),
        ("logic", draw_logic(suite, table)),
        ("tiles", tiles),
    ):
        save(picture, folder / f"{name}.jpg")
    norms = dict(zip((row.name for row in table.base), np.linalg.norm(table.embeddings, axis=1), strict=True))
    lengths = {
        kind: float(np.mean([norms[f"{t.noun} {kind}"] for t in THINGS])) for kind in KINDS if kind != "logic"
    }
    lengths |= {"circle": float(norms["circle"]), "common": suite.encoder.text_length}
    return write_page(
        page,
        iou,
        figures,
        scenes=len(drawn),
        each=each,
        large=large,
        size=LARGE,
        tile=TILE,
        views=len(plan_views(Views(tile_size=TILE), *LARGE, suite.facts.image_size)),
        lengths=lengths,
    )


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/gallery.md"))
    options = parser.parse_args()
    for name, value in write_gallery(options.out).items():
        print(f"{name}={value:.3f}")
    print(f"Wrote {options.out}")


if __name__ == "__main__":
    main()
