"""Prompt sets and thresholds compared on labeled images, which are encoded once for all of them."""

from typing import Any

from kfp import dsl

from clipseg_kfp.options import Outputs
from clipseg_kfp.pipelines.graph import segment_bucket
from clipseg_kfp.pipelines.parameters import with_shared


@dsl.pipeline(
    name="prompt-evaluation",
    description="Compares prompt sets on labeled images: a ranking, and the best threshold of each prompt.",
)
@with_shared
def prompt_evaluation(
    prompt_sets: dict,
    outputs: dict = Outputs(label_maps=False).model_dump(mode="json"),  # noqa: B008 - KFP copies defaults
    **shared: Any,
) -> str:
    """Compares prompt sets on labeled images: a ranking, and the best threshold of each prompt.

    Every image is encoded once and all prompts are decoded from it; all thresholds are counted in one pass.
    Images are taken whether or not an earlier run has done them.

    Args:
        prompt_sets: What to compare, as a JSON object: each set is a list of prompts, or the URI of a prompt
            file: {"plain": ["a cat"], "photo": ["a photo of a cat"]}. Prompts of one class are compared with
            the same ground truth.
        outputs: What is written besides masks and tables: label maps, overlays, probabilities, formats.
        **shared: See ``pipelines.parameters``.

    Returns:
        URI of the run's manifest; beside it lie evaluation.parquet and thresholds.json.
    """
    manifest: str = segment_bucket(prompt_sets=prompt_sets, outputs=outputs, full=True, rank=True, **shared)
    return manifest
