"""What the work around the engine costs: the real steps of a shard, against the engine alone.

The steps are those of the pipeline, on JPEG files of two megapixels in a real SeaweedFS on the same cores:
preprocess_images, the inference of segment_images with the file that it writes, postprocess_masks with label
maps and overlays. Loading and converting the model is on neither side.

Random weights draw no things. Thresholds at percentiles give their maps coverages from 5 to 30 %, in many
fragments, which is the worst case for RLE, PNG and overlays; the same steps are also timed with drawn blobs
in place of the maps, as a trained model leaves them.
"""

from __future__ import annotations

import os
import tempfile
from functools import partial
from pathlib import Path
from statistics import fmean, median
from typing import Any
from unittest.mock import patch

import numpy as np
from contestants import run_engine
from numpy.typing import NDArray
from pixels import PROMPTS, SIDE, THRESHOLD, draw_maps, draw_photos
from timing import alternate, ratio, summed

from clipseg_kfp import records
from clipseg_kfp.engine import Engine
from clipseg_kfp.local.store import EmbeddedStore
from clipseg_kfp.options import Limits
from clipseg_kfp.steps import (
    encode_prompts,
    fetch_dataset,
    postprocess_masks,
    preprocess_images,
    segment_images,
)
from clipseg_kfp.steps.artifacts import EncodedPrompts, PackedViews, Probabilities, ShardMasks
from clipseg_kfp.storage import open_folder

PHOTO = (1732, 1155)
DISTINCT = 6
STEPS = ("preprocess_images", "segment_images")
COVERAGE = (0.05, 0.3)


def thresholds_of(maps: NDArray[np.uint8], low: float, high: float) -> list[float]:
    """Chooses a threshold a prompt, so that the share of pixels above it rises from ``low`` to ``high``.

    Args:
        maps: uint8 (B, P, S, S).
        low: share of the first prompt.
        high: share of the last one.
    """
    shares = np.linspace(low, high, maps.shape[1])
    levels = [np.quantile(maps[:, i], 1 - share) for i, share in enumerate(shares)]
    # A level of 8 bits holds many pixels: half a level further up leaves those out that are on it.
    return [float(np.clip((level + 0.5) / 255, 0.01, 0.99)) for level in levels]


class Chain:
    """A bucket of photos and the steps that one shard goes through.

    Args:
        work: an empty folder.
        uri: of a bucket.
        model: checkpoint folder.
        engine: already loaded from it.
        texts: of ``PROMPTS`` prompts.
        images: in the shard.
    """

    def __init__(
        self,
        work: Path,
        uri: str,
        model: Path,
        engine: Engine,
        texts: list[str],
        images: int,
    ) -> None:
        self.work, self.uri, self.engine, self.images = work, uri, engine, images
        self.attempt = 0
        self.prompts, self.dataset, self.blobs = work / "prompts", work / "dataset", work / "blobs"
        self.blob_prompts = work / "blob-prompts"
        for folder in (self.prompts, self.blob_prompts, self.dataset):
            folder.mkdir(parents=True)
        photos = draw_photos(min(DISTINCT, images), PHOTO)
        source_uri = f"{uri}/in"
        source = open_folder(source_uri)
        for i in range(images):
            source.write(f"photo-{i:04}.jpg", photos[i % len(photos)])
        encode_prompts.run(model=model, encoded_prompts=self.blob_prompts, prompts=texts, threshold=THRESHOLD)
        fetch_dataset.run(
            source_uri=source_uri, output_uri=f"{uri}/out", encoded_prompts=self.blob_prompts,
            dataset=self.dataset, limits=Limits(shard_size=images),
        )  # fmt: skip
        self.preprocess(self.blob_prompts)
        self.pixels = read_views(self.views)
        self.embeddings = EncodedPrompts(self.blob_prompts).table().embeddings
        maps = np.stack(list(engine.probabilities(self.pixels[:DISTINCT], self.embeddings)))
        prompts = [
            {"name": text, "texts": [text], "threshold": threshold}
            for text, threshold in zip(texts, thresholds_of(maps, *COVERAGE), strict=True)
        ]
        encode_prompts.run(model=model, encoded_prompts=self.prompts, prompts=prompts)
        whole = (0, 0, *PHOTO)
        drawn = (({"image": i, "box": whole}, draw_maps(i)) for i in range(images))
        segment_images.write_maps(Probabilities(self.blobs), drawn, {})

    @property
    def views(self) -> Path:
        """The last attempt's output of preprocess_images."""
        return self.work / f"views-{self.attempt}"

    @property
    def maps(self) -> Path:
        """The last attempt's output of segment_images."""
        return self.work / f"maps-{self.attempt}"

    def preprocess(self, prompts: Path | None = None) -> None:
        """Begins an attempt."""
        self.attempt += 1
        preprocess_images.run(
            dataset=self.dataset, shard="shard-000", encoded_prompts=prompts or self.prompts, views=self.views
        )

    def segment(self) -> None:
        """Does what segment_images does once its engine is loaded."""
        found = segment_images.segment(self.engine, PackedViews(self.views).views_path, self.embeddings)
        segment_images.write_maps(Probabilities(self.maps), found, self.engine.describe())

    def postprocess(self, *, blobs: bool = False) -> None:
        """Writes masks, label maps and overlays, each attempt to a place of its own."""
        postprocess_masks.run(
            views=self.views,
            probabilities=self.blobs if blobs else self.maps,
            encoded_prompts=self.blob_prompts if blobs else self.prompts,
            masks=self.work / f"masks-{self.attempt}{'-blobs' * blobs}",
            output_uri=f"{self.uri}/out/attempt-{self.attempt}{'-blobs' * blobs}",
        )

    def coverage(self, *, blobs: bool = False) -> float:
        """Mean share of foreground in the last attempt's masks."""
        folder = self.work / f"masks-{self.attempt}{'-blobs' * blobs}"
        return fmean(row["coverage"] for row in ShardMasks(folder).masks(["coverage"]))


def read_views(folder: Path) -> NDArray[np.uint8]:
    """Reads all that preprocess_images wrote: uint8 (B, S, S, 3)."""
    values = [v for batch in records.read_arrow(PackedViews(folder).views_path) for v in batch["pixels"]]
    return np.stack([np.frombuffer(v.as_buffer(), np.uint8).reshape(SIDE, SIDE, 3) for v in values])


def measure_chain(
    model: Path, engine: Engine, texts: list[str], *, images: int, rounds: int
) -> dict[str, Any]:
    """Runs steps and engine in turns.

    Args:
        model: checkpoint folder.
        engine: already loaded from it.
        texts: prompts; the first ``PROMPTS`` are taken.
        images: in the shard.
        rounds: that count, after one that does not.
    """
    with (
        tempfile.TemporaryDirectory(prefix="clipseg-bench-") as folder,
        EmbeddedStore(Path(folder) / "store") as store,
        patch.dict(os.environ, store.environment()),
    ):
        store.make_bucket("bench")
        chain = Chain(Path(folder) / "work", "s3://bench", model, engine, texts[:PROMPTS], images)
        times = alternate(
            {
                "preprocess_images": chain.preprocess,
                "segment_images": chain.segment,
                "postprocess_masks": chain.postprocess,
                "postprocess_masks_blobs": partial(chain.postprocess, blobs=True),
                "engine": partial(run_engine, engine, chain.pixels, chain.embeddings),
            },
            rounds,
            warm=rounds > 1,  # the steps before have warmed the engine
        )
        coverage = {"coverage": chain.coverage(blobs=True), "coverage_fragmented": chain.coverage()}
    shared = [times[step] for step in STEPS]
    return {
        "overhead_vs_engine_fragmented": ratio(summed(*shared, times["postprocess_masks"]), times["engine"]),
        "overhead_vs_engine": ratio(summed(*shared, times["postprocess_masks_blobs"]), times["engine"]),
        "steps": {
            **coverage,
            "images": images,
            "prompts": PROMPTS,
            "seconds_an_image": {name: median(series) / images for name, series in times.items()},
        },
    }
