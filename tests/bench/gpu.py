"""Images a second on a GPU, against the documented use at the same precision.

On a GPU the processor's work on the CPU hides the model's, so the documented use is also timed on inputs that
are ready, as the engine is, and on several images at once, which is how one would use it in earnest.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import fullsize
import numpy as np
from compare import Embeddings
from contestants import Documented, load_torch_engine, run_engine
from timing import alternate

from clipseg_kfp.engine import Engine

COUNTS = (1, 8, 20)
PRECISIONS = ("float32", "bfloat16")
PAIRS = 64  # (image, prompt) pairs that the documented use takes at once, where inputs are ready
BATCHES = 4  # of the engine, so that the next one is prepared while the device works

#: What to time, and how many images it does.
Contestant = tuple[Callable[[], object], int]


def measure_gpu(
    folder: Path,
    prompts: list[str],
    embeddings: Embeddings,
    rounds: int,
    *,
    device: str = "cuda",
    compiled: bool = True,
) -> dict[str, Any]:
    """Times all contestants in turns.

    Args:
        folder: of the checkpoint.
        prompts: at least as many as the largest of ``COUNTS``.
        embeddings: of those prompts.
        rounds: that count.
        device: of torch; anything but ``cuda`` only shows that this code runs.
        compiled: time the engine with ``torch.compile``, too.

    Returns:
        Images a second by number of prompts and contestant.
    """
    documented = {precision: Documented(folder, device, precision) for precision in PRECISIONS}
    engines = {}
    for precision in PRECISIONS:
        for with_compile in (False, True) if compiled else (False,):
            engine = load_torch_engine(folder, device, precision, compiled=with_compile)
            if engine.backend.precision == precision:  # not every device has bfloat16
                engines[f"clipseg-kfp {precision}{' compiled' * with_compile}"] = engine
    found = {}
    for count in COUNTS:
        contestants = [
            *(_documented(use, precision, prompts[:count]) for precision, use in documented.items()),
            *(_engine(name, engine, embeddings[:count]) for name, engine in engines.items()),
        ]
        calls = {name: call for group in contestants for name, (call, _) in group.items()}
        images = {name: count for group in contestants for name, (_, count) in group.items()}
        times = alternate(calls, rounds)
        found[str(count)] = {name: images[name] / median(times[name]) for name in calls}
    return {"images_a_second": found}


def _documented(use: Documented, precision: str, prompts: list[str]) -> dict[str, Contestant]:
    several = fullsize.draw_pictures(max(1, PAIRS // len(prompts)) if use.device == "cuda" else 1)
    ready = use.prepare(several, prompts)
    return {
        f"transformers {precision}": (partial(use, several[0], prompts), 1),
        f"transformers {precision}, batched, inputs ready": (
            partial(use.probabilities, ready),
            len(several),
        ),
    }


def _engine(name: str, engine: Engine, embeddings: Embeddings) -> dict[str, Contestant]:
    views = fullsize.views_of(fullsize.draw_pictures(engine.batch_size))
    if engine.backend.device == "cuda":
        views = np.concatenate([views] * BATCHES)
    return {name: (partial(run_engine, engine, views, embeddings), len(views))}
