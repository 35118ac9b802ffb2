"""An 8-bit encoder for CPUs: about three times as fast, and used only where its masks are the same.

The encoder's weights and activations are quantized with ranges from images of the run itself (NNCF's
post-training quantization for transformers); the decoder, a tenth of the work, stays in float32. Other
images of the run are then segmented both ways, and their masks compared.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from clipseg_kfp.engine.backends import check_choices
from clipseg_kfp.engine.checkpoint import read_facts
from clipseg_kfp.engine.core import Engine
from clipseg_kfp.errors import ModelError
from clipseg_kfp.runtime.progress import say

#: With fewer views than this, calibrating takes longer than it saves.
WORTHWHILE = 150
CALIBRATION, HELD_OUT = 32, 16


@dataclass(frozen=True)
class Agreement:
    """How masks of two precisions agree, over some views.

    Attributes:
        views: compared.
        iou: intersection over union of all masks together; ``None`` where neither has any foreground.
        worst: the same for the prompt where it is lowest.
        worst_prompt: its index.
    """

    views: int
    iou: float | None
    worst: float | None
    worst_prompt: int | None


def sample(count: int) -> tuple[list[int], list[int]]:
    """Chooses views to calibrate on and views to compare on: evenly spaced, none in both.

    >>> sample(12)
    ([0, 1, 3, 4, 6, 7, 9, 10], [2, 5, 8, 11])
    """
    chosen = np.unique(np.linspace(0, count - 1, min(count, CALIBRATION + HELD_OUT)).round().astype(int))
    held_out = chosen[2::3]
    return [int(i) for i in np.setdiff1d(chosen, held_out)], [int(i) for i in held_out]


def compare(
    expected: Sequence[NDArray[np.uint8]], found: Sequence[NDArray[np.uint8]], thresholds: Sequence[float]
) -> Agreement:
    """Compares the masks of probability maps.

    Args:
        expected: one uint8 (P, S, S) per view.
        found: the same, computed otherwise.
        thresholds: one per prompt.
    """
    both = np.zeros(len(thresholds), np.int64)
    either = np.zeros(len(thresholds), np.int64)
    cut = np.asarray(thresholds).reshape(-1, 1, 1) * 255
    for a, b in zip(expected, found, strict=True):
        first, second = a >= cut, b >= cut
        both += (first & second).sum((1, 2))
        either += (first | second).sum((1, 2))
    present = np.flatnonzero(either)
    if not present.size:
        return Agreement(len(expected), None, None, None)
    by_prompt = both[present] / either[present]
    worst = int(by_prompt.argmin())
    return Agreement(
        len(expected), float(both.sum() / either.sum()), float(by_prompt[worst]), int(present[worst])
    )


def load_int8(
    folder: Path,
    *,
    calibration: Sequence[NDArray[np.uint8]],
    held_out: Sequence[NDArray[np.uint8]],
    embeddings: ArrayLike,
    thresholds: Sequence[float],
    min_iou: float,
    batch_size: int = 0,
    memory_mb: int = 0,
) -> tuple[Engine, Agreement]:
    """Loads a checkpoint with an encoder of 8 bits, if its masks are those of float32.

    Args:
        folder: of the checkpoint.
        calibration: views, uint8 (S, S, 3), that set the ranges of activations.
        held_out: others, to compare masks on.
        embeddings: the run's prompts, (P, projection_dim).
        thresholds: one per prompt.
        min_iou: ``Inference.int8_min_iou``.
        batch_size: as for ``Engine``.
        memory_mb: as for ``Engine``.

    Returns:
        The engine and how its masks agree with float32. Where the held-out views show none of the
        prompts, there is no evidence that 8 bits would do, and the engine is one of float32.

    Raises:
        ModelError: the masks differ by more than ``min_iou`` allows, or the checkpoint cannot be used.
        ParameterError: OpenVINO or NNCF is not installed, or a negative size.
    """
    check_choices(backend="openvino", device="cpu", precision="int8")
    from clipseg_kfp.engine.openvino_backend import OpenVinoBackend, read_converted

    facts = read_facts(folder)
    sizes = {"batch_size": batch_size, "memory_mb": memory_mb}
    encoder, decoder, size = read_converted(folder, facts)
    exact = Engine(OpenVinoBackend(encoder, decoder, size, "float32"), facts, **sizes)
    expected = _segment(exact, held_out, embeddings)
    say("engine", f"calibrating int8 on {len(calibration)} views")
    quantized = OpenVinoBackend(_quantize(encoder, calibration), decoder, size, "int8")
    engine = Engine(quantized, facts, **sizes)
    agreement = compare(expected, _segment(engine, held_out, embeddings), thresholds)
    if agreement.iou is None:
        say("engine", f"none of the prompts is in the {len(held_out)} held-out views; going on in float32")
        return exact, agreement
    say(
        "engine",
        f"int8 agrees with float32 by an IoU of {agreement.iou:.4f} on {agreement.views} views; worst is "
        f"prompt {(agreement.worst_prompt or 0) + 1} of those inferred, {agreement.worst:.4f}",
    )
    if agreement.iou < min_iou:
        raise ModelError(
            f"The masks of int8 agree with those of float32 by an IoU of {agreement.iou:.4f} only; "
            f"int8_min_iou asks for {min_iou:g}.",
            "Take precision float32 or bfloat16, or lower int8_min_iou.",
            code="int8_disagrees",
            where="inference.int8_min_iou",
        )
    return engine, agreement


def _segment(
    engine: Engine, views: Sequence[NDArray[np.uint8]], embeddings: ArrayLike
) -> list[NDArray[np.uint8]]:
    return list(engine.probabilities(np.stack(views), embeddings))


def _quantize(encoder: Any, views: Sequence[NDArray[np.uint8]]) -> Any:
    import nncf

    nncf.set_log_level(logging.ERROR)
    with redirect_stdout(io.StringIO()):  # its progress bars do not belong into a step's log
        return nncf.quantize(
            encoder,
            nncf.Dataset([view[None] for view in views]),
            subset_size=len(views),
            model_type=nncf.ModelType.TRANSFORMER,
            preset=nncf.QuantizationPreset.MIXED,
        )
