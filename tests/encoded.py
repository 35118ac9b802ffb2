"""What encode_prompts leaves behind, made by hand: prompts without a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from clipseg_kfp.engine.checkpoint import ModelFacts
from clipseg_kfp.options import Inference, Views
from clipseg_kfp.prompts import Files, gather, parse_prompts
from clipseg_kfp.steps.artifacts import EncodedPrompts


def write_encoded(
    folder: Path,
    facts: ModelFacts,
    prompts: list[Any],
    *,
    views: Views | None = None,
    inference: Inference | None = None,
    configuration: str = "config",
) -> Path:
    """Writes the folder of encoded prompts; their embeddings are zeros."""
    gathered = list(gather(parse_prompts(prompts), facts, 0.5, Files("", "")))
    EncodedPrompts(folder).write(
        gathered,
        np.zeros((len(gathered), facts.projection_dim), np.float32),
        facts=facts,
        classes={},
        views=views or Views(),
        inference=inference or Inference(),
        configuration=configuration,
    )
    return folder
