"""Compares masks and probabilities with ground truth, where there is any."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

from clipseg_kfp import records
from clipseg_kfp.masks.raster import Mask
from clipseg_kfp.metrics import Bootstrap
from clipseg_kfp.metrics.agreement import Comparison, compare
from clipseg_kfp.metrics.evaluation import Evaluation, resample
from clipseg_kfp.report.pictures import truth_png
from clipseg_kfp.runtime.concurrency import ordered_map
from clipseg_kfp.runtime.progress import say, track
from clipseg_kfp.steps.artifacts import EvaluationTables, ShardMasks
from clipseg_kfp.steps.handover import Handover
from clipseg_kfp.steps.timing import timed
from clipseg_kfp.truth import GroundTruth, Reader, UnusableTruthError

STEP = "evaluate_masks"
THREADS = 4
BYTES_AT_ONCE = 400_000_000
BYTES_PER_PIXEL = 20
MAX_TRUTH_BYTES = 100_000_000
ROWS_AT_ONCE = 128  # of PER_IMAGE, with some hundred numbers each

_Pair = tuple[dict[str, Any], dict[str, Any], GroundTruth]
_IMAGE = ("key", "version")  # columns that name a version of an image
_version = itemgetter(*_IMAGE)


@timed(STEP, "evaluation")
def run(*, masks: Sequence[Path], evaluation: Path, endpoint: str = "") -> Evaluation:
    """Writes tables, metrics, curves and the best thresholds into ``evaluation``.

    Memory does not grow with the images: only counts of each pair of mask and ground truth are kept.

    Args:
        masks: postprocess_masks' outputs.
        evaluation: output folder.
        endpoint: S3 endpoint URL.

    Returns:
        Counts by prompt; empty where no image has ground truth.

    Raises:
        StorageError: the store as a whole cannot be read.
    """
    evaluation.mkdir(parents=True, exist_ok=True)
    tables, shards = EvaluationTables(evaluation), [ShardMasks(folder) for folder in masks]
    found = Evaluation()
    unmatched: set[str] = set()
    reader = Reader(endpoint, MAX_TRUTH_BYTES)

    def per_image() -> Iterator[dict[str, Any]]:
        for shard in shards:
            yield from _evaluate_shard(shard, found, unmatched, reader)

    pairs = records.write_parquet(tables.images_path, records.PER_IMAGE, per_image(), ROWS_AT_ONCE)
    found.unmatched = sorted(unmatched)
    found.prompts = dict(sorted(found.prompts.items()))
    found.histograms = dict(sorted(found.histograms.items()))
    found.measure_spread(_resample(tables.images_path, found))
    records.write_parquet(tables.prompts_path, records.EVALUATION, map(found.row, found.prompts))
    tables.write(metrics=found.to_json(), curves=found.curves(), thresholds={"thresholds": found.thresholds})
    _draw_truth(shards, tables, reader)
    _tell(found, pairs)
    return found


def handover(found: Evaluation) -> Handover:
    """The figures, for the UI."""
    return Handover(metrics={"metrics": found.figures()})


def _draw_truth(shards: Sequence[ShardMasks], tables: EvaluationTables, reader: Reader) -> None:
    """Draws small pictures of the ground truth of the images that the report will show."""
    chosen = tables.report_tables((shard.masks_path for shard in shards), shards).choice()
    with records.ArrowWriter(tables.truths_path, records.TRUTHS) as writer:
        for shard in shards if chosen else ():
            categories = _categories(shard)
            for row in shard.images():
                if row["status"] != "done" or not row["ground_truth"] or _version(row) not in chosen:
                    continue
                if png := truth_png(_truths(row, categories, reader)):
                    writer.append({"key": row["key"], "version": row["version"], "png": png})


def _categories(shard: ShardMasks) -> dict[str, int]:
    """Category ids by prompt; a shard's first image has all of them."""
    ids: dict[str, int] = {}
    for row in shard.masks(["prompt", "category_id"]):
        if row["prompt"] in ids:
            break
        ids[row["prompt"]] = row["category_id"]
    return ids


def _truths(row: dict[str, Any], categories: dict[str, int], reader: Reader) -> Iterator[tuple[int, Mask]]:
    size: tuple[int, ...] | None = None
    for truth in row["ground_truth"]:
        if truth["prompt"] not in categories:
            continue
        try:
            mask = reader.read(GroundTruth(**truth), row["width"], row["height"]).mask
        except UnusableTruthError:
            continue
        size = size or mask.shape
        if (
            mask.shape == size
        ):  # pictures of one image may differ in size; only those of the first size are drawn
            yield categories[truth["prompt"]], mask


def _evaluate_shard(
    shard: ShardMasks, evaluation: Evaluation, unmatched: set[str], reader: Reader
) -> Iterator[dict[str, Any]]:
    total, largest = _extent(shard)
    if not total:
        return

    # A pixel takes up to about 20 bytes, most of them while the ground truth is decoded.
    workers = max(1, min(THREADS, BYTES_AT_ONCE // (BYTES_PER_PIXEL * largest)))
    at_once = max(largest, BYTES_AT_ONCE // (BYTES_PER_PIXEL * workers))

    def measure(pair: _Pair, alone: bool = False) -> tuple[_Pair, Comparison | UnusableTruthError]:
        row, score, truth = pair
        most = None if alone else at_once
        try:
            return pair, compare(row, score, reader.read(truth, row["width"], row["height"], most))
        except UnusableTruthError as error:
            return pair, error

    results = ordered_map(measure, _pairs(shard, unmatched), workers, 2 if workers == THREADS else 0)
    for pair, first in track(STEP, results, total, unit="masks"):
        row, large = pair[0], isinstance(first, UnusableTruthError) and first.code == "truth_too_large"
        # Ground truth may be far larger than its image: it is measured here, one at a time.
        result = measure(pair, alone=True)[1] if large else first
        if isinstance(result, UnusableTruthError):
            evaluation.leave_out(str(result))
            continue
        evaluation.add(row["prompt"], result.counts, result.boundary, result.histogram)
        yield _row(row, result)


def _extent(shard: ShardMasks) -> tuple[int, int]:
    """The number of pairs, at most, and the pixels of the largest of their images."""
    total = largest = 0
    for row in shard.images(["status", "width", "height", "ground_truth"]):
        if row["status"] == "done" and row["ground_truth"]:
            total += len(row["ground_truth"])
            largest = max(largest, row["width"] * row["height"])
    return total, largest


def _pairs(shard: ShardMasks, unmatched: set[str]) -> Iterator[_Pair]:
    """Yields masks with their probabilities and their ground truth; all three tables have one order."""
    masks = groupby(shard.masks([*_IMAGE, "prompt", "width", "height", "rle"]), _version)
    scores = (row for batch in records.read_arrow(shard.scores_path) for row in batch.to_pylist())
    for row in shard.images([*_IMAGE, "status", "ground_truth"]):
        if row["status"] != "done":
            continue
        name, group = next(masks)
        if name != _version(row):
            raise AssertionError(f"masks and images are out of step at {row['key']}")
        truths = {truth["prompt"]: GroundTruth(**truth) for truth in row["ground_truth"]}
        for mask in group if truths else ():
            if truth := truths.pop(mask["prompt"], None):
                score = next(scores)
                if (*_version(score), score["prompt"]) != (*name, mask["prompt"]):
                    raise AssertionError(f"masks and probabilities are out of step at {row['key']}")
                yield mask, score, truth
        unmatched.update(truths)


def _row(row: dict[str, Any], result: Comparison) -> dict[str, Any]:
    """The row of ``records.PER_IMAGE``."""
    counts = ("tp", "fp", "fn", "tn", "iou", "dice", "precision", "recall")
    return {
        **{name: row[name] for name in (*_IMAGE, "prompt")},
        "width": result.width,
        "height": result.height,
        **{name: getattr(result.counts, name) for name in counts},
        "boundary_iou": result.boundary,
        "sweep_tp": result.histogram.tp.tolist(),
        "sweep_fp": result.histogram.fp.tolist(),
    }


def _resample(table: Path, evaluation: Evaluation) -> Bootstrap:
    columns = [*_IMAGE, "prompt", "tp", "fp", "fn", "sweep_tp", "sweep_fp"]
    return resample(records.read_parquet(table, columns, ROWS_AT_ONCE), evaluation)


def _tell(evaluation: Evaluation, pairs: int) -> None:
    for name in evaluation.unmatched:
        say(STEP, f"ground truth for '{name}', which is not among the prompts, was left out")
    for problem in evaluation.unusable:
        say(STEP, f"ground truth left out: {problem}")
    if evaluation.unusable_count > len(evaluation.unusable):
        say(STEP, f"ground truth left out: {evaluation.unusable_count:,} pictures and shapes in all")
    if evaluation.mean_iou is None:
        say(STEP, "no ground truth to compare with" if not pairs else "the ground truth has no foreground")
    else:
        say(STEP, f"mean IoU {evaluation.mean_iou:.3f} over {len(evaluation.present)} prompts, {pairs} pairs")
    for name in evaluation.prompts:
        if name not in evaluation.present:
            images, alarms = evaluation.prompts[name].images, evaluation.presence[name][1]
            say(STEP, f"'{name}' is not in the ground truth; false alarms in {alarms} of {images} images")
