"""Runs the steps one after the other, as the pipeline does."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clipseg_kfp import records
from clipseg_kfp.steps import (
    encode_prompts,
    evaluate_masks,
    fetch_dataset,
    fetch_model,
    postprocess_masks,
    preprocess_images,
    publish_results,
    segment_images,
)
from clipseg_kfp.storage import Folder, open_folder, open_object

LISTING = (
    *("shard_size", "limit", "full", "max_quarantined"),
    *("ground_truth_uri", "ground_truth_format", "ground_truth_classes"),
)
LOOKS = ("precision", "tile_size", "tile_ground_resolution", "tile_overlap", "meters_per_pixel", "flip")


def picture(seed: int, width: int = 40, height: int = 30, kind: str = "PNG", **options: Any) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def mask_picture(mask: NDArray[np.bool_]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(mask.astype(np.uint8) * np.uint8(255)).save(buffer, "PNG")
    return buffer.getvalue()


def object_bytes(uri: str) -> bytes:
    folder, key = open_object(uri)
    return folder.read(key)


@dataclass
class Run:
    """What one run of the whole chain left behind."""

    config: str
    dataset: fetch_dataset.Dataset
    shards: list[Path]
    evaluation: evaluate_masks.Evaluation
    published: publish_results.Published
    maps: int
    folder: Folder
    manifest: dict[str, Any] = field(default_factory=dict)

    def images(self) -> dict[str, dict[str, Any]]:
        rows = [
            row for shard in self.shards for row in records.read_parquet(shard / preprocess_images.IMAGES)
        ]
        return {row["key"]: row for row in rows}

    def masks(self) -> list[dict[str, Any]]:
        return [row for shard in self.shards for row in records.read_parquet(shard / postprocess_masks.MASKS)]

    def pixels(self, key: str) -> NDArray[Any]:
        return np.asarray(Image.open(io.BytesIO(self.folder.read(key))))


@dataclass
class Chain:
    """Runs the steps one after the other, as the pipeline does."""

    work: Path
    model: Path
    source: str
    output: str
    views_seen: list[int]
    hook: Callable[[], None] = lambda: None
    runs: int = 0

    def __call__(
        self,
        prompts: list[Any] | None = None,
        *,
        threshold: float = 0.5,
        run_id: str = "",
        source: str = "",
        check_run_id: bool = True,
        **options: Any,
    ) -> Run:
        self.runs += 1
        work = self.work / f"run-{self.runs}"
        dirs = {name: work / name for name in ("model", "prompts", "dataset", "evaluation")}
        for path in dirs.values():
            path.mkdir(parents=True)
        take = {name: options.pop(name) for name in LISTING if name in options}
        limits = {n: options.pop(n) for n in ("max_megapixels", "max_megabytes") if n in options}
        looks = {name: options.pop(name) for name in LOOKS if name in options}
        formats = options.pop("formats", ())
        name = run_id or f"run {self.runs}"
        self.views_seen.clear()
        fetch_model.run(model_uri=str(self.model), model=dirs["model"])
        config = encode_prompts.run(
            model=dirs["model"],
            encoded_prompts=dirs["prompts"],
            prompts=prompts or ["a circle", "red things"],
            threshold=threshold,
            **looks,
        )
        dataset = fetch_dataset.run(
            source_uri=source or self.source,
            output_uri=self.output,
            encoded_prompts=dirs["prompts"],
            dataset=dirs["dataset"],
            run_id=run_id if check_run_id else "",
            job_id=name,
            **take,
        )
        self.hook()
        shards = [
            self.shard(work / shard, shard, dirs, limits, {"job_id": name, **options})
            for shard in dataset.shards
        ]
        evaluation = evaluate_masks.run(masks=shards, evaluation=dirs["evaluation"])
        published = publish_results.run(
            masks=shards,
            dataset=dirs["dataset"],
            encoded_prompts=dirs["prompts"],
            evaluation=dirs["evaluation"],
            report=work / "report.html",
            output_uri=self.output,
            run_id=name,
            model_uri="file:///tiny",
            formats=formats,
        )
        manifest = json.loads(object_bytes(published.manifest))
        folder = open_folder(self.output).child(config)
        maps = sum(self.views_seen)
        return Run(config, dataset, shards, evaluation, published, maps, folder, manifest)

    def shard(self, work: Path, shard: str, dirs: dict[str, Path], limits: Any, options: Any) -> Path:
        views, maps, masks = (work / name for name in ("views", "maps", "masks"))
        views.mkdir(parents=True), maps.mkdir(), masks.mkdir()
        preprocess_images.run(
            dataset=dirs["dataset"], shard=shard, encoded_prompts=dirs["prompts"], views=views, **limits
        )
        segment_images.run(
            views=views,
            encoded_prompts=dirs["prompts"],
            model=dirs["model"],
            probabilities=maps,
            device="cpu",
        )
        postprocess_masks.run(
            views=views,
            probabilities=maps,
            encoded_prompts=dirs["prompts"],
            masks=masks,
            output_uri=self.output,
            **options,
        )
        return masks
