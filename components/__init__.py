"""The components of the suite; each folder holds one, with its README and metadata."""

from clipseg_kfp.components.encode_prompts.component import encode_prompts
from clipseg_kfp.components.evaluate_masks.component import evaluate_masks
from clipseg_kfp.components.fetch_dataset.component import fetch_dataset
from clipseg_kfp.components.fetch_model.component import fetch_model
from clipseg_kfp.components.image import carry_image
from clipseg_kfp.components.postprocess_masks.component import postprocess_masks
from clipseg_kfp.components.preprocess_images.component import preprocess_images
from clipseg_kfp.components.publish_results.component import publish_results
from clipseg_kfp.components.rank_prompts.component import rank_prompts
from clipseg_kfp.components.segment_images.component import segment_images

#: In the order of the pipeline.
ALL = (
    fetch_model,
    encode_prompts,
    fetch_dataset,
    preprocess_images,
    segment_images,
    postprocess_masks,
    evaluate_masks,
    publish_results,
    rank_prompts,
)

for _component in ALL:
    carry_image(_component)

__all__ = [
    "ALL",
    "encode_prompts",
    "evaluate_masks",
    "fetch_dataset",
    "fetch_model",
    "postprocess_masks",
    "preprocess_images",
    "publish_results",
    "rank_prompts",
    "segment_images",
]
