"""Runs the model: every view encoded once, every prompt decoded from it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from clipseg_kfp import records
from clipseg_kfp.errors import ParameterError
from clipseg_kfp.progress import say, track
from clipseg_kfp.prompts import read_table
from clipseg_kfp.steps.encode_prompts import TABLE, read_facts_of
from clipseg_kfp.steps.preprocess_images import VIEWS

if TYPE_CHECKING:  # seconds to import: later steps want the file names of this module only
    import torch

    from clipseg_kfp.engine import Engine

STEP = "segment_images"
PROBABILITIES = "probabilities.arrow"


def run(
    *,
    views: Path,
    prompts: Path,
    model: Path,
    target: Path,
    batch_size: int = 4,
    device: str = "auto",
) -> int:
    """Writes ``probabilities.arrow`` (``records.PROBABILITIES``) into ``target``.

    Args:
        views: preprocess_images' output.
        prompts: encode_prompts' output.
        model: checkpoint folder.
        target: output folder.
        batch_size: views encoded at once.
        device: ``auto``, ``cpu`` or ``cuda``.

    Returns:
        The number of (view, prompt) maps.

    Raises:
        ParameterError: a bad batch size or device, or prompts encoded with another model.
        ModelError: the checkpoint cannot be used.
    """
    if batch_size < 1:
        raise ParameterError(f"batch_size is {batch_size}.", "Give 1 or more.")
    if device not in ("auto", "cpu", "cuda"):
        raise ParameterError(f"device is '{device}'.", "Give auto, cpu or cuda.")
    total = sum(batch.num_rows for batch in records.read_arrow(views / VIEWS))
    maps = 0
    with records.ArrowWriter(target / PROBABILITIES, records.PROBABILITIES, 64) as writer:
        if not total:
            say(STEP, "nothing to segment")
            return 0
        results = _infer(views / VIEWS, prompts, model, batch_size, device, total)
        for view, probabilities in track(STEP, results, total, unit="views"):
            for i, probability in enumerate(probabilities):
                writer.append({**view, "prompt": i, "probability": probability.tobytes()})
                maps += 1
    return maps


def _infer(
    views: Path, prompts: Path, model: Path, batch_size: int, device: str, total: int
) -> Iterator[tuple[dict[str, Any], NDArray[np.uint8]]]:
    """Yields each view's image and box with its probabilities, uint8 (P, S, S)."""
    import torch

    from clipseg_kfp.engine import Engine

    if device == "cuda" and not torch.cuda.is_available():
        raise ParameterError("device is 'cuda', and there is no CUDA device here.", "Give auto or cpu.")
    _, table = read_table(prompts / TABLE)
    embeddings = torch.from_numpy(table)
    engine = Engine.load(model, device)
    if engine.facts.digest != read_facts_of(prompts).digest:
        raise ParameterError("The prompts were encoded with another model.", "Encode them again.")
    threads = torch.get_num_threads()
    say(STEP, f"{total:,} views, {len(table)} prompts, {engine.device.type}, {threads} threads")
    for batch in _batches(views, batch_size):
        yield from _segment(engine, batch, embeddings)


def _segment(
    engine: Engine, batch: pa.RecordBatch, embeddings: torch.Tensor
) -> Iterator[tuple[dict[str, Any], NDArray[np.uint8]]]:
    size = engine.facts.image_size
    pixels = np.stack(
        [
            np.frombuffer(value.as_buffer(), np.uint8).reshape(size, size, 3)
            for value in batch.column("pixels")
        ]
    )
    rows = batch.select(["image", "box"]).to_pylist()
    yield from zip(rows, engine.probabilities(pixels, embeddings), strict=True)


def _batches(path: Path, size: int) -> Iterator[pa.RecordBatch]:
    for batch in records.read_arrow(path):
        for start in range(0, batch.num_rows, size):
            yield batch.slice(start, size)
