"""KFP interface of evaluate_masks."""

from typing import List  # noqa: UP035 - KFP reads this form

from kfp import dsl

from clipseg_kfp.components.decorator import component


@component
def evaluate_masks(
    masks: dsl.Input[List[dsl.Dataset]],  # noqa: UP006
    evaluation: dsl.Output[dsl.Dataset],
    metrics: dsl.Output[dsl.Metrics],
    endpoint: str = "",
):
    """Compares masks with ground truth, where there is any: IoU of each prompt and their mean.

    Args:
        masks: From postprocess_masks, of all shards.
        endpoint: URL of the S3 endpoint; empty takes S3_ENDPOINT from the environment.
        evaluation: Pixel counts of each prompt, and metrics.json.
        metrics: mean_iou, iou_fg, iou_bin and the IoU of each prompt, for the UI.
    """
    from clipseg_kfp.steps.running import run_step

    return run_step("evaluate_masks", locals())
