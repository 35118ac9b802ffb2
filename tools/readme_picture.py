"""Draws the README's picture from a finished demo: ``python -m tools.readme_picture``."""

from __future__ import annotations

import argparse
import io
import os
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps

from clipseg_kfp.demo.run import BUCKET, OUTPUT
from clipseg_kfp.local.store import EmbeddedStore
from clipseg_kfp.masks.raster import palette
from clipseg_kfp.records import parse_parquet
from clipseg_kfp.results import Results
from clipseg_kfp.storage import Folder, open_folder

CELL, GAP, LEGEND = 220, 10, 44
INK, PAPER = (30, 34, 40), (255, 255, 255)


def draw(output: Folder, bucket: Folder, config: str, run: str, keys: list[str]) -> Image.Image:
    """Draws the centers of images above those of their overlays, and the prompts' colors below.

    Args:
        output: the demo's output prefix.
        bucket: the demo's bucket.
        config: the configuration's digest.
        run: the run's ID.
        keys: of the images to show.
    """
    place = output.child(config)
    table = parse_parquet(place.read(f"runs/{run}/masks.parquet")).to_pylist()
    names = {row["category_id"]: row["prompt"] for row in table}
    overlays = [entry.key for entry in place.entries("overlays/")]
    sheet = Image.new("RGB", (len(keys) * (CELL + GAP) - GAP, 2 * CELL + GAP + LEGEND), PAPER)
    for i, key in enumerate(keys):
        overlay = next(name for name in overlays if name.startswith(f"overlays/{key}/"))
        for row, data in enumerate((bucket.read(f"dataset/{key}"), place.read(overlay))):
            image = Image.open(io.BytesIO(data)).convert("RGB")
            square = ImageOps.fit(image, (CELL, CELL), Image.Resampling.LANCZOS)
            sheet.paste(square, (i * (CELL + GAP), row * (CELL + GAP)))
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(18)
    x, y = 4, 2 * CELL + GAP + 14
    for category, color in zip(sorted(names), palette(len(names)).tolist(), strict=True):
        pen.rectangle([x, y + 3, x + 16, y + 19], fill=tuple(color))
        pen.text((x + 24, y), names[category], fill=INK, font=font)
        x += 24 + int(pen.textlength(names[category], font=font)) + 28
    return sheet


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path(".demo"))
    parser.add_argument("--out", type=Path, default=Path("docs/demo.png"))
    parser.add_argument("--scenes", default="6,7,1,21,23", help="numbers of the scenes to show")
    options = parser.parse_args()
    with EmbeddedStore(options.folder / "store") as store:
        os.environ.update(store.environment())
        bucket, output = open_folder(f"s3://{BUCKET}"), open_folder(OUTPUT)
        configs = {entry.key.split("/")[0] for entry in output.entries() if "/runs/" in entry.key}
        runs = (run for config in sorted(configs) for run in Results(output, config).manifests())
        run = max((r for r in runs if r["counts"]["done"]), key=lambda r: str(r["created"]))
        listed = sorted(
            entry.key.removeprefix("dataset/") for entry in bucket.entries("dataset/images/scenes/")
        )
        keys = [listed[int(number)] for number in options.scenes.split(",")]
        options.out.parent.mkdir(parents=True, exist_ok=True)
        draw(output, bucket, run["config"], run["run"], keys).save(options.out, optimize=True)
    print(f"Wrote {options.out}")


if __name__ == "__main__":
    main()
