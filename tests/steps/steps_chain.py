"""Runs the steps one after the other, as the pipeline does."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from grouped import grouped
from numpy.typing import NDArray
from PIL import Image

from clipseg_kfp.options import Outputs
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
from clipseg_kfp.steps.artifacts import ShardMasks, Summary
from clipseg_kfp.storage import Folder, open_folder, open_object


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
    dataset: Summary
    shards: list[Path]
    evaluation: evaluate_masks.Evaluation
    published: publish_results.Published
    maps: int
    folder: Folder
    manifest: dict[str, Any] = field(default_factory=dict)

    def images(self) -> dict[str, dict[str, Any]]:
        rows = [row for shard in self.shards for row in ShardMasks(shard).images()]
        return {row["key"]: row for row in rows}

    def masks(self) -> list[dict[str, Any]]:
        return [row for shard in self.shards for row in ShardMasks(shard).masks()]

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
        groups = grouped(device="cpu", **options)
        outputs = groups.get("outputs", Outputs())
        named = outputs.model_copy(update={"run_id": run_id if check_run_id else ""})
        name = run_id or f"run {self.runs}"
        self.views_seen.clear()
        fetch_model.run(model_uri=str(self.model), model=dirs["model"])
        config = encode_prompts.run(
            model=dirs["model"],
            encoded_prompts=dirs["prompts"],
            prompts=prompts or ["a circle", "red things"],
            threshold=threshold,
            **_of(groups, "views", "inference", "support"),
        )
        dataset = fetch_dataset.run(
            source_uri=source or self.source,
            output_uri=self.output,
            encoded_prompts=dirs["prompts"],
            dataset=dirs["dataset"],
            job_id=name,
            outputs=named,
            **_of(groups, "limits", "ground_truth"),
        )
        self.hook()
        shards = [
            self.shard(work / shard, shard, dirs, {**groups, "outputs": outputs}, name)
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
            job_id=name,
            model_uri="file:///tiny",
            outputs=outputs,
        )
        manifest = json.loads(object_bytes(published.manifest))
        folder = open_folder(self.output).child(config)
        maps = sum(self.views_seen)
        return Run(config, dataset, shards, evaluation, published, maps, folder, manifest)

    def shard(self, work: Path, shard: str, dirs: dict[str, Path], groups: Any, job_id: str) -> Path:
        views, maps, masks = (work / name for name in ("views", "maps", "masks"))
        views.mkdir(parents=True), maps.mkdir(), masks.mkdir()
        preprocess_images.run(
            dataset=dirs["dataset"],
            shard=shard,
            encoded_prompts=dirs["prompts"],
            views=views,
            **_of(groups, "limits"),
        )
        segment_images.run(
            views=views,
            encoded_prompts=dirs["prompts"],
            model=dirs["model"],
            probabilities=maps,
            **_of(groups, "inference"),
        )
        postprocess_masks.run(
            views=views,
            probabilities=maps,
            encoded_prompts=dirs["prompts"],
            masks=masks,
            output_uri=self.output,
            job_id=job_id,
            **_of(groups, "outputs"),
        )
        return masks


def _of(groups: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: groups[name] for name in names if name in groups}
