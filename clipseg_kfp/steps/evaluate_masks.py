"""Compares masks with ground truth, where there is any."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clipseg_kfp import records
from clipseg_kfp.concurrency import ordered_map
from clipseg_kfp.errors import ObjectChangedError, ObjectUnreadableError
from clipseg_kfp.images import ImageRejectedError, decode_mask
from clipseg_kfp.masks import decode_rle
from clipseg_kfp.metrics import Confusion
from clipseg_kfp.naming import safe_segment
from clipseg_kfp.progress import say, track
from clipseg_kfp.results import json_bytes
from clipseg_kfp.steps.postprocess_masks import MASKS
from clipseg_kfp.steps.preprocess_images import IMAGES
from clipseg_kfp.storage import ObjectTooLargeError, open_object

STEP = "evaluate_masks"
TABLE, METRICS = "evaluation.parquet", "metrics.json"
FETCH_THREADS = 4
MAX_TRUTH_BYTES = 100_000_000
FIGURES = 50  # prompts with a figure of their own in Kubeflow; metrics.json has all


@dataclass
class Evaluation:
    """Agreement with ground truth.

    Attributes:
        prompts: pixel counts of each prompt that has ground truth, by name.
        unmatched: names of ground-truth classes that are no prompt.
        unusable: ground-truth files that could not be read, with the reason.
    """

    prompts: dict[str, Confusion] = field(default_factory=dict)
    unmatched: list[str] = field(default_factory=list)
    unusable: list[str] = field(default_factory=list)

    @property
    def mean_iou(self) -> float | None:
        """The paper's mIoU: mean over prompts of the foreground IoU; ``None`` without ground truth."""
        values = [confusion.iou for confusion in self.prompts.values()]
        return float(np.mean(values)) if values else None

    def figures(self) -> dict[str, float]:
        """The numbers for Kubeflow's table of metrics; empty without ground truth.

        Totals, and the first prompts under names that are plain ASCII.
        """
        if self.mean_iou is None:
            return {}
        whole = self.to_json()
        totals = {name: float(whole[name]) for name in ("mean_iou", "iou_fg", "iou_bin")}
        prompts = islice(self.prompts.items(), FIGURES)
        return totals | {f"iou_{safe_segment(name)}": confusion.iou for name, confusion in prompts}

    def to_json(self) -> dict[str, Any]:
        """The content of ``metrics.json``."""
        total = sum(self.prompts.values(), Confusion())
        return {
            "mean_iou": self.mean_iou,
            "iou_fg": total.iou if self.prompts else None,
            "iou_bin": (total.iou + total.iou_background) / 2 if self.prompts else None,
            "pairs": total.images,
            "per_prompt": {
                name: {
                    "iou": c.iou,
                    "precision": c.precision,
                    "recall": c.recall,
                    "images": c.images,
                }
                for name, c in self.prompts.items()
            },
            "unmatched_ground_truth": self.unmatched,
            "unusable_ground_truth": self.unusable,
        }


def run(*, shards: Sequence[Path], target: Path, endpoint: str = "") -> Evaluation:
    """Writes ``evaluation.parquet`` and ``metrics.json`` into ``target``.

    Args:
        shards: postprocess_masks' outputs.
        target: output folder.
        endpoint: S3 endpoint URL.

    Returns:
        Counts by prompt; empty where no image has ground truth.

    Raises:
        StorageError: ground truth cannot be read because the store fails as a whole.
    """
    target.mkdir(parents=True, exist_ok=True)
    evaluation = Evaluation()
    pairs = 0
    for shard in shards:
        pairs += _evaluate_shard(shard, evaluation, endpoint)
    evaluation.unmatched = sorted(set(evaluation.unmatched))
    evaluation.prompts = dict(sorted(evaluation.prompts.items()))
    records.write_parquet(
        target / TABLE,
        records.EVALUATION,
        (
            {
                "prompt": name,
                **{
                    k: getattr(c, k) for k in ("images", "tp", "fp", "fn", "tn", "iou", "precision", "recall")
                },
            }
            for name, c in evaluation.prompts.items()
        ),
    )
    (target / METRICS).write_bytes(json_bytes(evaluation.to_json()))
    for name in evaluation.unmatched:
        say(STEP, f"ground truth for '{name}', which is not among the prompts, was left out")
    for problem in evaluation.unusable:
        say(STEP, f"ground truth left out: {problem}")
    if evaluation.mean_iou is None:
        say(STEP, "no ground truth to compare with")
    else:
        say(STEP, f"mean IoU {evaluation.mean_iou:.3f} over {len(evaluation.prompts)} prompts, {pairs} pairs")
    return evaluation


def _evaluate_shard(shard: Path, evaluation: Evaluation, endpoint: str) -> int:
    truths = {
        (row["key"], row["version"], truth["prompt"]): truth["uri"]
        for row in records.read_parquet(shard / IMAGES, columns=["key", "version", "status", "ground_truth"])
        if row["status"] == "done"
        for truth in row["ground_truth"]
    }
    if not truths:
        return 0
    known: set[str] = set()

    def pairs() -> Iterator[tuple[dict[str, Any], str]]:
        columns = ["key", "version", "prompt", "width", "height", "rle"]
        for row in records.read_parquet(shard / MASKS, columns=columns):
            known.add(row["prompt"])
            if uri := truths.get((row["key"], row["version"], row["prompt"])):
                yield row, uri

    def load(pair: tuple[dict[str, Any], str]) -> tuple[dict[str, Any], NDArray[np.bool_] | str]:
        row, uri = pair
        folder, key = open_object(uri, endpoint)
        try:
            return row, decode_mask(folder.read(key, limit=MAX_TRUTH_BYTES), key)
        except (ImageRejectedError, ObjectChangedError, ObjectTooLargeError, ObjectUnreadableError) as error:
            return row, f"{uri}: {error}"

    compared = 0
    total = len(truths)
    for row, truth in track(STEP, ordered_map(load, pairs(), FETCH_THREADS), total, unit="masks"):
        if isinstance(truth, str):
            evaluation.unusable.append(truth)
            continue
        predicted = decode_rle(row["rle"], row["width"], row["height"])
        if predicted.shape != truth.shape:  # the paper brings predictions to the ground truth's size
            height, width = truth.shape
            resized = Image.fromarray(predicted).resize((width, height), Image.Resampling.NEAREST)
            predicted = np.asarray(resized)
        evaluation.prompts.setdefault(row["prompt"], Confusion()).add(predicted, truth)
        compared += 1
    evaluation.unmatched.extend({prompt for _, _, prompt in truths} - known)
    return compared


def metrics_of(folder: Path) -> dict[str, Any]:
    """Reads ``metrics.json`` from this step's output."""
    import json

    value: dict[str, Any] = json.load(io.BytesIO((folder / METRICS).read_bytes()))
    return value
