"""Segmentation by example: pictures of things in, masks of such things in a bucket of images out."""

from typing import Any

from kfp import dsl

from clipseg_kfp.options import Support
from clipseg_kfp.pipelines.graph import segment_bucket
from clipseg_kfp.pipelines.parameters import with_shared


@dsl.pipeline(
    name="one-shot-segmentation",
    description="Segments every image of a bucket by example pictures: masks, tables and a report.",
)
@with_shared
def one_shot_segmentation(
    support: dict = Support.defaults(),  # noqa: B008 - KFP copies defaults
    prompts: list = [],  # noqa: B006
    prompts_uri: str = "",
    threshold: float = 0.5,
    **shared: Any,
) -> str:
    """Segments every image of a bucket by example pictures of what to look for.

    Args:
        support: Example pictures, one folder per thing; uri says where they are.
        prompts: What else to look for: texts, logic with the names of the pictures' folders, as in
            batch-segmentation.
        prompts_uri: A JSON or YAML prompt file instead of the list.
        threshold: Probability from which a pixel belongs to a mask, between 0 and 1.
        **shared: See ``pipelines.parameters``.

    Returns:
        URI of the run's manifest.
    """
    manifest: str = segment_bucket(
        support=support, prompts=prompts, prompts_uri=prompts_uri, threshold=threshold, **shared
    )
    return manifest
