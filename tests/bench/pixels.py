"""What all the work around the model costs: milliseconds a stage on one core, and an image in the real steps.

    .venv/bin/python tests/bench/pixels.py [--images 24] [--size 1732x1155] [--absent 3]

The pictures are drawn scenes of two megapixels, the probabilities are drawn blobs as a model leaves them, the
store is a real SeaweedFS on the same cores, and the steps are the pipeline's own.
"""

from __future__ import annotations

import argparse
import io
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clipseg_kfp import records
from clipseg_kfp.demo.scenes import draw_scene
from clipseg_kfp.engine.checkpoint import ModelFacts
from clipseg_kfp.images.decode import open_image, preview_jpeg, to_model_input
from clipseg_kfp.local.store import EmbeddedStore
from clipseg_kfp.masks import raster as masks
from clipseg_kfp.options import Inference, Views
from clipseg_kfp.prompts import Files, gather, parse_prompts
from clipseg_kfp.runtime.resources import cpu_limit
from clipseg_kfp.steps import postprocess_masks, preprocess_images, segment_images
from clipseg_kfp.steps.artifacts import EncodedPrompts, Listing, Probabilities
from clipseg_kfp.storage import open_folder
from clipseg_kfp.views import Merger, cut_mask, sum_up

SIDE, PROMPTS, THRESHOLD = 352, 8, 0.5
ROUNDS = 9  # of each stage


def draw_photos(count: int, size: tuple[int, int]) -> list[bytes]:
    """Draws scenes with a camera's blur and noise, as JPEG files of a camera's quality."""
    photos = []
    for seed in range(count):
        buffer = io.BytesIO()
        draw_scene(seed, size, max_objects=8).image.save(buffer, "JPEG", quality=90)
        photos.append(buffer.getvalue())
    return photos


def draw_maps(seed: int, absent: int = 3) -> NDArray[np.uint8]:
    """Draws what a model says to ``PROMPTS`` prompts: uint8 (PROMPTS, SIDE, SIDE).

    The last ``absent`` maps stay below the threshold. Of the others the first shows one large thing, the
    second many fragments, the rest a few things; everything is soft, over an uneven floor.
    """
    rng = np.random.default_rng(seed)

    def uneven(cells: int) -> NDArray[np.float32]:
        coarse = rng.standard_normal((cells, cells), dtype=np.float32)
        return np.asarray(cv2.resize(coarse, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC))

    maps = []
    for prompt in range(PROMPTS):
        logits = 0.6 * uneven(22) + 0.3 * uneven(88) - 5  # tokens, and what the last convolution adds
        if prompt < PROMPTS - absent:
            things, radius = {0: (1, 110), 1: (60, 6)}.get(prompt, (3, 30))
            shape = np.zeros((SIDE, SIDE), np.float32)
            for x, y in rng.uniform(0, SIDE, (things, 2)):
                axes = (rng.uniform(0.5, 1.2, 2) * radius).astype(int)
                cv2.ellipse(shape, (int(x), int(y)), axes.tolist(), rng.uniform(0, 180), 0, 360, 1, -1)
            logits += 9 * cv2.GaussianBlur(shape, (0, 0), 3)
        maps.append(np.round(255 / (1 + np.exp(-logits))))
    return np.asarray(maps, dtype=np.uint8)


def milliseconds(call: Callable[[], object]) -> float:
    """Wall time of a call: the least of some, since whatever else the machine does can only add."""
    times = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return 1000 * min(times)


def measure_stages(photo: bytes, maps: NDArray[np.uint8]) -> dict[str, float]:
    """Milliseconds that each stage takes for one photo and all its prompts, on one core."""
    cv2.setNumThreads(1)
    image = open_image(photo).decode()
    preview, (width, height) = preview_jpeg(image), image.size
    small_size = Image.open(io.BytesIO(preview)).size
    out = np.empty((height, width), np.float32)
    # A merger each: fields of one merger share their place.
    fields = [Merger([(0, 0, width, height)], width, height).field([small]) for small in maps]
    full = [masks.upsample(small, width, height) for small in maps]
    found = [probability >= np.float32(THRESHOLD) for probability in full]
    shown = [(i + 1, found[i], full[i]) for i in range(len(maps)) if found[i].any()]
    layers = [(masks.shrink(mask, *small_size), masks.palette(i)[-1]) for i, mask, _ in shown]
    labels = masks.LabelMap(width, height, len(maps))

    def label() -> None:
        new = masks.LabelMap(width, height, len(maps))
        for category, mask, probability in shown:
            new.add(category, mask, probability)
            labels.labels = new.labels

    stages: dict[str, Callable[[], object]] = {
        "decode the JPEG": lambda: open_image(photo).decode(),
        "model input": lambda: to_model_input(image, SIDE),
        "preview JPEG": lambda: preview_jpeg(image),
        "upsample": lambda: [masks.upsample(small, width, height, out=out) for small in maps],
        "threshold": lambda: [cut_mask(field, THRESHOLD) for field in fields],
        "measure and RLE": lambda: [
            masks.measure(m, sum_up(f, m)) for m, f in zip(found, fields, strict=True)
        ],
        "PNG": lambda: [masks.mask_png(mask) for mask in found],
        "label map": label,
        "label map's PNG": labels.png,
        "shrink": lambda: [masks.shrink(mask, *small_size) for _, mask, _ in shown],
        "overlay JPEG": lambda: masks.overlay_jpeg(preview, layers),
    }
    return {stage: milliseconds(call) for stage, call in stages.items()}


class Shard:
    """A bucket of photos with everything that the two steps read; ``measure`` runs them for real."""

    def __init__(self, work: Path, uri: str, photos: list[bytes], images: int, absent: int) -> None:
        self.work, self.uri, self.images = work, uri, images
        facts = ModelFacts("digest", SIDE, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), 4)
        wanted = parse_prompts([f"thing {i}" for i in range(PROMPTS)])
        EncodedPrompts(work / "prompts").write(
            list(gather(wanted, facts, THRESHOLD, Files("", ""))),
            np.zeros((PROMPTS, 4), np.float32),
            facts=facts,
            classes={},
            views=Views(),
            inference=Inference(),
            configuration="bench",
        )

        folder = open_folder(f"{uri}/in")
        for i in range(images):
            folder.write(f"photo-{i:04}.jpg", photos[i % len(photos)])
        sources = (
            {"source": entry.key, "key": entry.key, "uri": folder.locate(entry.key),
             "version": entry.version, "size": entry.size, "ground_truth": []}
            for entry in folder.entries()
        )  # fmt: skip
        records.write_parquet(Listing(work).shard_path("a"), records.SOURCES, sources)

        drawn = (({"image": i, "box": (0, 0, SIDE, SIDE)}, draw_maps(i, absent)) for i in range(images))
        segment_images.write_maps(Probabilities(work), drawn, {})

    def measure(self, attempt: int) -> dict[str, float]:
        """Milliseconds an image of each step, from the step's own call."""
        views, target = self.work / f"views-{attempt}", self.work / f"masks-{attempt}"
        prompts, milliseconds_an_image = self.work / "prompts", 1000 / self.images
        start = time.perf_counter()
        preprocess_images.run(dataset=self.work, shard="a", encoded_prompts=prompts, views=views)
        middle = time.perf_counter()
        postprocess_masks.run(views=views, probabilities=self.work, encoded_prompts=prompts, masks=target,
                              output_uri=f"{self.uri}/out/attempt-{attempt}")  # fmt: skip
        end = time.perf_counter()
        return {
            "preprocess_images": (middle - start) * milliseconds_an_image,
            "postprocess_masks": (end - middle) * milliseconds_an_image,
        }


def measure_steps(photos: list[bytes], images: int, absent: int, rounds: int = 5) -> dict[str, float]:
    """Milliseconds an image of each step on all cores, store included: the least of some rounds."""
    with (
        tempfile.TemporaryDirectory(prefix="clipseg-pixels-") as folder,
        EmbeddedStore(Path(folder) / "store") as store,
    ):
        os.environ.update(store.environment())
        store.make_bucket("bench")
        shard = Shard(Path(folder) / "work", "s3://bench", photos, images, absent)
        found = [shard.measure(attempt) for attempt in range(rounds)]
    return {step: min(times[step] for times in found) for step in found[0]}


def main() -> None:
    """Prints both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--images", type=int, default=24, help="in the shard (24)")
    parser.add_argument("--size", default="1732x1155", help="of the photos (1732x1155)")
    parser.add_argument(
        "--absent", type=int, default=3, help=f"prompts of {PROMPTS} that are in no photo (3)"
    )
    options = parser.parse_args()
    width, height = map(int, options.size.split("x"))
    photos = draw_photos(min(6, options.images), (width, height))
    stages = measure_stages(photos[0], draw_maps(0, options.absent))
    steps = measure_steps(photos, options.images, options.absent)
    print(f"\n{width} x {height}, {PROMPTS} prompts, {options.absent} of them absent; ms an image")
    for title, rows in (("stages, one core", stages), (f"steps, {cpu_limit()} cores, with the store", steps)):
        print(f"\n{title}")
        for name, value in (*rows.items(), ("together", sum(rows.values()))):
            print(f"  {name:20} {value:7.1f}")


if __name__ == "__main__":
    main()
