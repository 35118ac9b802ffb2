"""Runs the model: every view encoded once, every prompt decoded from it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from clipseg_kfp import records
from clipseg_kfp.engine import Engine, Pending, check_choices, int8
from clipseg_kfp.errors import ParameterError
from clipseg_kfp.prompts import read_table
from clipseg_kfp.results import json_bytes
from clipseg_kfp.runtime.concurrency import ordered_map, prefetched
from clipseg_kfp.runtime.progress import say, track
from clipseg_kfp.runtime.resources import cpu_limit
from clipseg_kfp.steps.encode_prompts import TABLE, read_facts_of
from clipseg_kfp.steps.handover import Handover
from clipseg_kfp.steps.preprocess_images import VIEWS
from clipseg_kfp.steps.settings import Settings
from clipseg_kfp.steps.timing import timed
from clipseg_kfp.views import averaged_with_flip, mirrored

STEP = "segment_images"
PROBABILITIES, ENGINE = "probabilities.arrow", "engine.json"

Rows = list[dict[str, Any]]


@timed(STEP, "probabilities", "views")
def run(
    *,
    views: Path,
    encoded_prompts: Path,
    model: Path,
    probabilities: Path,
    batch_size: int = 0,
    memory_mb: int = 0,
    backend: str = "auto",
    device: str = "auto",
    int8_min_iou: float = 0.99,
) -> dict[str, Any]:
    """Writes ``probabilities.arrow`` (``records.PROBABILITIES``) and ``engine.json`` into ``probabilities``.

    Args:
        views: preprocess_images' output.
        encoded_prompts: encode_prompts' output.
        model: checkpoint folder.
        probabilities: output folder.
        batch_size: views encoded at once, at most; 0 takes what suits the device.
        memory_mb: what activations may take; 0 takes what suits the device.
        backend: ``auto``, ``torch`` or ``openvino``.
        device: ``auto``, ``cpu`` or ``cuda``.
        int8_min_iou: with precision int8, the least agreement of masks with float32.

    Returns:
        What ``engine.json`` holds: the number of (view, prompt) maps, and how they were computed.

    Raises:
        ParameterError: a bad size or choice, or prompts encoded with another model.
        ModelError: the checkpoint cannot be used, or int8 would change the masks.
    """
    settings = Settings.read(encoded_prompts)
    precision = settings.precision
    check_choices(backend, device, precision, batch_size, memory_mb)
    int8.check_min_iou(int8_min_iou)
    total = records.count_rows(views / VIEWS)
    if not total:
        say(STEP, "nothing to segment")
        return write_maps(probabilities, [], {})
    table = read_table(encoded_prompts / TABLE)
    embeddings = table.embeddings
    sizes = {"batch_size": batch_size, "memory_mb": memory_mb}
    facts: dict[str, Any] = {}
    if precision == "int8" and total < int8.WORTHWHILE:
        say(STEP, f"{total} views are too few for int8 to pay; going on in float32")
        precision = "float32"
    if precision == "int8":
        calibration, held_out = _samples(views / VIEWS, total)
        engine, agreement = int8.load_int8(
            model,
            calibration=calibration,
            held_out=held_out,
            embeddings=embeddings,
            thresholds=[row.threshold or 0.5 for row in table.base],  # Otsu's and hidden ones have none
            min_iou=int8_min_iou,
            **sizes,
        )
        facts["int8"] = asdict(agreement)
    else:
        engine = Engine.load(model, backend=backend, device=device, precision=precision, **sizes)
    if engine.facts.digest != read_facts_of(encoded_prompts).digest:
        raise ParameterError("The prompts were encoded with another model.", "Encode them again.")
    how = engine.describe()
    say(STEP, f"{total:,} views, {len(embeddings)} prompts, {', '.join(how.values())}, {cpu_limit()} threads")
    results = segment(engine, views / VIEWS, embeddings, flip=settings.flip)
    results = track(STEP, results, total, unit="views")
    return write_maps(probabilities, results, {**how, **facts})


def handover(facts: dict[str, Any]) -> Handover:
    """The number of maps, for the UI; ``engine.json`` has the rest."""
    return Handover(metadata={"probabilities": {"maps": facts["maps"]}})


def segment(
    engine: Engine, views: Path, embeddings: NDArray[np.float32], *, flip: bool = False
) -> Iterator[tuple[dict[str, Any], NDArray[np.uint8]]]:
    """Yields each view's image and box with its probabilities, uint8 (P, S, S).

    Reading, inference and whatever the caller does run in three threads with a batch waiting between them,
    so that the cores never wait for the disk.

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
        found = [maps for pending in parts for maps in engine.finish(pending)]
        if flip:
            found = [averaged_with_flip(*pair) for pair in zip(found, found[len(rows) :], strict=False)]
        yield from zip(rows, found, strict=True)


def write_maps(
    target: Path, results: Iterable[tuple[dict[str, Any], NDArray[np.uint8]]], facts: dict[str, Any]
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
    with records.ArrowWriter(target / PROBABILITIES, records.PROBABILITIES, 64) as writer:
        # A GPU makes maps several times as fast as one core packs them.
        for rows in ordered_map(packed, results, workers=cpu_limit()):
            for row in rows:
                writer.append(row)
            maps += len(rows)
    facts = {"maps": maps, **facts}
    (target / ENGINE).write_bytes(json_bytes(facts))
    return facts


def _batches(path: Path, size: int) -> Iterator[tuple[Rows, NDArray[np.uint8]]]:
    rows: Rows = []
    parts: list[NDArray[np.uint8]] = []
    for batch in records.read_arrow(path):
        found, pixels = batch.select(["image", "box"]).to_pylist(), _pixels(batch["pixels"])
        while found:
            wanted = size - len(rows)
            rows, found = rows + found[:wanted], found[wanted:]
            parts, pixels = [*parts, pixels[:wanted]], pixels[wanted:]
            if len(rows) == size:
                yield rows, np.concatenate(parts)
                rows, parts = [], []
    if rows:
        yield rows, np.concatenate(parts)


def _samples(path: Path, total: int) -> tuple[list[NDArray[np.uint8]], list[NDArray[np.uint8]]]:
    """Reads the views that int8 calibrates on, and those that it is compared on."""
    views = (view for batch in records.read_arrow(path) for view in _pixels(batch["pixels"]))
    calibration, held_out = (set(indexes) for indexes in int8.sample(total))
    found: tuple[list[NDArray[np.uint8]], list[NDArray[np.uint8]]] = ([], [])
    for i, view in enumerate(views):
        if i in calibration:
            found[0].append(view.copy())
        elif i in held_out:
            found[1].append(view.copy())
    return found


def _pixels(column: pa.LargeBinaryArray) -> NDArray[np.uint8]:
    """All views of a batch, uint8 (B, S, S, 3), as they lie in its memory."""
    _, offsets, data = column.buffers()
    ends = np.frombuffer(offsets, np.int64)[column.offset : column.offset + len(column) + 1]
    flat = np.frombuffer(data, np.uint8)[ends[0] : ends[-1]]
    side = math.isqrt(flat.size // (3 * len(column)))
    return flat.reshape(-1, side, side, 3)
