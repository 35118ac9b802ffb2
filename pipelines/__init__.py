"""The pipelines of the suite; each folder holds one, with its README and compiled package."""

from clipseg_kfp.components.image import carry_image
from clipseg_kfp.pipelines.batch_segmentation.pipeline import batch_segmentation
from clipseg_kfp.pipelines.one_shot_segmentation.pipeline import one_shot_segmentation
from clipseg_kfp.pipelines.prompt_evaluation.pipeline import prompt_evaluation

#: By the name of their folder.
ALL = {
    "batch_segmentation": batch_segmentation,
    "one_shot_segmentation": one_shot_segmentation,
    "prompt_evaluation": prompt_evaluation,
}

for _pipeline in ALL.values():
    carry_image(_pipeline)

__all__ = ["ALL", "batch_segmentation", "one_shot_segmentation", "prompt_evaluation"]
