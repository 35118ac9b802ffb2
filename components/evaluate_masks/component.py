"""KFP interface of evaluate_masks."""

from typing import List  # noqa: UP035 - KFP reads this form

from kfp import dsl

from clipseg_kfp.container import DEFAULT_IMAGE


@dsl.component(base_image=DEFAULT_IMAGE, install_kfp_package=False)
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
    from pathlib import Path

    from clipseg_kfp.steps import evaluate_masks as step
    from clipseg_kfp.steps import running

    with running(step.STEP):
        found = step.run(
            shards=[Path(shard.path) for shard in masks],
            target=Path(evaluation.path),
            endpoint=endpoint,
        )
        for name, value in found.figures().items():
            metrics.log_metric(name, value)
