"""Runs the model: every view encoded once, every prompt decoded from it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from clipseg_kfp import records
from clipseg_kfp.engine import Engine, Pending, check_choices, int8
from clipseg_kfp.errors import OptionsError, ParameterError, Problem
from clipseg_kfp.options import Inference
from clipseg_kfp.runtime.concurrency import ordered_map, prefetched
from clipseg_kfp.runtime.progress import say, track
from clipseg_kfp.runtime.resources import cpu_limit
from clipseg_kfp.steps.artifacts import EncodedPrompts, PackedViews, Probabilities
from clipseg_kfp.steps.handover import Handover
from clipseg_kfp.steps.timing import timed
from clipseg_kfp.views import averaged_with_flip, mirrored

STEP = "segment_images"

Rows = list[dict[str, Any]]


@timed(STEP, "probabilities", "views")
def run(
    *,
    views: Path,
    encoded_prompts: Path,
    model: Path,
    probabilities: Path,
    inference: Inference | None = None,
) -> dict[str, Any]:
    """Writes ``probabilities.arrow`` (``records.PROBABILITIES``) and ``engine.json`` into ``probabilities``.

    Args:
        views: preprocess_images' output.
        encoded_prompts: encode_prompts' output.
        model: checkpoint folder.
        probabilities: output folder.
        inference: how the model is computed; its precision must be that of the encoded prompts.

    Returns:
        What ``engine.json`` holds: the number of (view, prompt) maps, and how they were computed.

    Raises:
        OptionsError: another precision than the configuration of the prompts names.
        ParameterError: a choice that is not available here, or prompts encoded with another model.
        ModelError: the checkpoint cannot be used, or int8 would change the masks.
    """
    inference = inference or Inference()
    prompts = EncodedPrompts(encoded_prompts)
    precision = prompts.precision()
    if inference.pixels() != Inference.read({"precision": precision}).pixels():
        raise OptionsError(
            [
                Problem(
                    "inference.precision",
                    "precision_differs",
                    f"'{precision}', which the prompts were encoded for, not '{inference.precision}'",
                    "Give encode_prompts and segment_images the same.",
                )
            ]
        )
    check_choices(inference)
    view_file = PackedViews(views).views_path
    total = records.count_rows(view_file)
    if not total:
        say(STEP, "nothing to segment")
        return write_maps(Probabilities(probabilities), [], {})
    table = prompts.table()
    embeddings = table.embeddings
    facts: dict[str, Any] = {}
    if precision == "int8" and total < int8.WORTHWHILE:
        say(STEP, f"{total} views are too few to gain from int8; float32 is used")
        inference = inference.model_copy(update={"precision": "float32"})
    if inference.precision == "int8":
        calibration, held_out = _samples(view_file, total)
        engine, agreement = int8.load_int8(
            model,
            calibration=calibration,
            held_out=held_out,
            embeddings=embeddings,
            thresholds=[row.threshold or 0.5 for row in table.base],  # Otsu's and hidden ones have none
            min_iou=inference.int8_min_iou,
            batch_size=inference.batch_size,
            memory_mb=inference.memory_mb,
        )
        facts["int8"] = asdict(agreement)
    else:
        engine = Engine.load(model, inference)
    if engine.facts.digest != prompts.facts().digest:
        raise ParameterError(
            "The prompts were encoded with another model.",
            "Encode them with this model.",
            code="prompts_of_another_model",
            where="encoded_prompts",
        )
    how = engine.describe()
    say(STEP, f"{total:,} views, {len(embeddings)} prompts, {', '.join(how.values())}, {cpu_limit()} threads")
    results = segment(engine, view_file, embeddings, flip=prompts.views().flip)
    results = track(STEP, results, total, unit="views")
    return write_maps(Probabilities(probabilities), results, {**how, **facts})


def handover(facts: dict[str, Any]) -> Handover:
    """The number of maps, for the UI; ``engine.json`` has the rest."""
    return Handover(metadata={"probabilities": {"maps": facts["maps"]}})


def segment(
    engine: Engine, views: Path, embeddings: NDArray[np.float32], *, flip: bool = False
) -> Iterator[tuple[dict[str, Any], NDArray[np.uint8]]]:
    """Yields each view's image and box with its probabilities, uint8 (P, S, S).

    Reading, inference and the caller's work run in three threads with a batch waiting between them, so that the
    cores never wait for the disk.

    Args:
        engine: loaded.
        views: file of preprocess_images.
        embeddings: float32 (P, projection_dim).
        flip: average with the maps of mirrored views.
    """

    def started() -> Iterator[tuple[Rows, list[Pending]]]:
        for rows, pixels in prefetched(_batches(views, engine.batch_size)):
            if flip:  # together, so that both halves are there to be averaged
                both = [list(engine.begin(side, embeddings)) for side in (pixels, mirrored(pixels))]
                yield rows, [*both[0], *both[1]]
                continue
            begun = 0
            for pending in engine.begin(pixels, embeddings):
                yield rows[begun : begun + pending.images], [pending]
                begun += pending.images

    for rows, parts in prefetched(started()):
        maps = [levels for pending in parts for levels in engine.finish(pending)]
        if flip:
            maps = [averaged_with_flip(*pair) for pair in zip(maps, maps[len(rows) :], strict=False)]
        yield from zip(rows, maps, strict=True)


def write_maps(
    target: Probabilities, results: Iterable[tuple[dict[str, Any], NDArray[np.uint8]]], facts: dict[str, Any]
) -> dict[str, Any]:
    """Writes what ``segment`` yields, and how it was computed.

    Args:
        target: output folder.
        results: each view's image and box with its probabilities.
        facts: for ``engine.json``.

    Returns:
        The facts and the number of maps.
    """

    def packed(result: tuple[dict[str, Any], NDArray[np.uint8]]) -> Rows:
        view, probabilities = result
        return [
            {**view, "prompt": i, "probability": records.pack_map(levels)}
            for i, levels in enumerate(probabilities)
        ]

    maps = 0
    with records.ArrowWriter(target.maps_path, records.PROBABILITIES, 64) as writer:
        # A GPU makes maps several times as fast as one core packs them.
        for rows in ordered_map(packed, results, workers=cpu_limit()):
            for row in rows:
                writer.append(row)
            maps += len(rows)
    facts = {"maps": maps, **facts}
    target.write_engine(facts)
    return facts


def _batches(path: Path, size: int) -> Iterator[tuple[Rows, NDArray[np.uint8]]]:
    def views() -> Iterator[tuple[dict[str, Any], NDArray[np.uint8]]]:
        for batch in records.read_arrow(path):
            yield from zip(batch.select(["image", "box"]).to_pylist(), _pixels(batch["pixels"]), strict=True)

    source = views()
    while chunk := list(islice(source, size)):
        yield [row for row, _ in chunk], np.stack([pixels for _, pixels in chunk])


def _samples(path: Path, total: int) -> tuple[list[NDArray[np.uint8]], list[NDArray[np.uint8]]]:
    """Reads the views that int8 calibrates on, and those that it is compared on."""
    views = (view for batch in records.read_arrow(path) for view in _pixels(batch["pixels"]))
    calibration, held_out = (set(indexes) for indexes in int8.sample(total))
    copies = {i: view.copy() for i, view in enumerate(views) if i in calibration or i in held_out}
    return [copies[i] for i in sorted(calibration)], [copies[i] for i in sorted(held_out - calibration)]


def _pixels(column: pa.LargeBinaryArray) -> NDArray[np.uint8]:
    """All views of a batch, uint8 (B, S, S, 3), as they lie in its memory."""
    _, offsets, data = column.buffers()
    ends = np.frombuffer(offsets, np.int64)[column.offset : column.offset + len(column) + 1]
    flat = np.frombuffer(data, np.uint8)[ends[0] : ends[-1]]
    side = math.isqrt(flat.size // (3 * len(column)))
    return flat.reshape(-1, side, side, 3)
