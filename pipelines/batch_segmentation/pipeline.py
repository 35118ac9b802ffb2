"""The main pipeline: a bucket of images in, masks and metrics in the bucket out."""

from typing import Any

from kfp import dsl

from clipseg_kfp.pipelines.graph import segment_bucket
from clipseg_kfp.pipelines.parameters import with_shared


@dsl.pipeline(
    name="batch-segmentation",
    description="Segments every image of a bucket by prompts: masks, tables and a report in the bucket.",
)
@with_shared
def batch_segmentation(prompts: list, prompts_uri: str = "", threshold: float = 0.5, **shared: Any) -> str:
    """Segments every image of a bucket by prompts.

    Args:
        prompts: What to look for, as a JSON list: ["a cat", "a cup"], or objects: texts, images, stored
            embeddings, mixes, logic; each with threshold and cleaning (docs/prompts.md).
        prompts_uri: A JSON or YAML prompt file. It takes the place of the list, which may then be [].
        threshold: Probability from which a pixel belongs to a mask, between 0 and 1.
        **shared: See ``pipelines.parameters``.

    Returns:
        URI of the run's manifest.
    """
    manifest: str = segment_bucket(prompts=prompts, prompts_uri=prompts_uri, threshold=threshold, **shared)
    return manifest
