"""Runs the model: every view encoded once, every prompt decoded from it."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from clipseg_kfp import records
from clipseg_kfp.engine import Engine, Pending, check_choices, int8
from clipseg_kfp.errors import ModelError, OptionsError, ParameterError, Problem
from clipseg_kfp.options import Inference
from clipseg_kfp.runtime.concurrency import ordered_map, prefetched
from clipseg_kfp.runtime.progress import say, track
from clipseg_kfp.runtime.resources import cpu_limit
from clipseg_kfp.steps.artifacts import EncodedPrompts, PackedViews, Probabilities
from clipseg_kfp.steps.handover import Handover
from clipseg_kfp.steps.timing import timed
from clipseg_kfp.views import averaged_with_flip, mirrored

STEP = "segment_images"
T = TypeVar("T")

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
    failed: dict[int, str] = {}
    results = segment(engine, view_file, embeddings, flip=prompts.views().flip, failed=failed)
    results = track(STEP, results, total, unit="views")
    target = Probabilities(probabilities)
    facts = write_maps(target, results, {**how, **facts})
    target.write_failed(failed)
    return facts


def handover(facts: dict[str, Any]) -> Handover:
    """The number of maps, for the UI; ``engine.json`` has the rest."""
    return Handover(metadata={"probabilities": {"maps": facts["maps"]}})


def segment(
    engine: Engine,
    views: Path,
    embeddings: NDArray[np.float32],
    *,
    flip: bool = False,
    failed: dict[int, str] | None = None,
) -> Iterator[tuple[dict[str, Any], NDArray[np.uint8]]]:
    """Yields each view's image and box with its probabilities, uint8 (P, S, S).

    Reading, inference and the caller's work run in three threads with a batch waiting between them, so that the
    cores never wait for the disk. Where a batch's results are not finite, its views are tried one by one, and images
    whose own views fail are left out: unless no view at all goes through, which is no image's fault.

    Args:
        engine: loaded.
        views: file of preprocess_images.
        embeddings: float32 (P, projection_dim).
        flip: average with the maps of mirrored views.
        failed: takes the images that were left out, and why; ``None`` raises instead.
    """
    turn = threading.Lock()  # a backend's ``begin`` is for one thread at a time

    def begun(pixels: NDArray[np.uint8]) -> list[Pending]:
        sides = (pixels, mirrored(pixels)) if flip else (pixels,)  # together, so that both can be averaged
        with turn:
            return [pending for side in sides for pending in engine.begin(side, embeddings)]

    def next_of(parts: Iterator[Pending]) -> list[Pending]:
        with turn:
            return [next(parts)]

    def maps_of(parts: list[Pending], count: int) -> list[NDArray[np.uint8]]:
        maps = [levels for pending in parts for levels in engine.finish(pending)]
        return [averaged_with_flip(*pair) for pair in zip(maps, maps[count:], strict=False)] if flip else maps

    def started() -> Iterator[tuple[Rows, NDArray[np.uint8], list[Pending] | ModelError]]:
        for rows, pixels in prefetched(_batches(views, engine.batch_size)):
            at, parts = 0, engine.begin(pixels, embeddings)
            while at < len(rows):
                pending = _attempt(partial(begun, pixels) if flip else partial(next_of, parts))
                stop = len(rows)
                if not flip and not isinstance(pending, ModelError):
                    stop = at + sum(part.images for part in pending)
                yield rows[at:stop], pixels[at:stop], pending
                at = stop

    def alone(rows: Rows, pixels: NDArray[np.uint8]) -> Iterator[tuple[dict[str, Any], NDArray[np.uint8]]]:
        for i, row in enumerate(rows):
            parts = _attempt(partial(begun, pixels[i : i + 1]))
            maps = parts if isinstance(parts, ModelError) else _attempt(partial(maps_of, parts, 1))
            if not isinstance(maps, ModelError):
                yield row, maps[0]
                continue
            errors.append(maps)
            if failed is not None:
                failed[row["image"]] = f"{STEP} cannot do it: {maps.message}"

    errors: list[ModelError] = []
    any_done = False
    for rows, pixels, parts in prefetched(started()):
        maps = parts if isinstance(parts, ModelError) else _attempt(partial(maps_of, parts, len(rows)))
        if isinstance(maps, ModelError) and failed is None:
            raise maps
        for result in alone(rows, pixels) if isinstance(maps, ModelError) else zip(rows, maps, strict=True):
            any_done = True
            yield result
    if errors and not any_done:
        raise errors[0]


def _attempt(work: Callable[[], T]) -> T | ModelError:
    """What the work returns, or its error that may be one image's: nothing else in here depends on the pixels."""
    try:
        return work()
    except ModelError as error:
        if error.code != "results_not_finite":
            raise
        return error


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
