"""KFP interface of rank_prompts."""

from kfp import dsl

from clipseg_kfp.components.decorator import component


@component
def rank_prompts(
    evaluation: dsl.Input[dsl.Dataset],
    encoded_prompts: dsl.Input[dsl.Dataset],
    ranking: dsl.Output[dsl.Dataset],
    metrics: dsl.Output[dsl.Metrics],
    classification: dsl.Output[dsl.ClassificationMetrics],
    table: dsl.Output[dsl.Markdown],
    page: dsl.Output[dsl.HTML],
    source_uri: str = "",
):
    """Ranks prompts and prompt sets by their agreement with ground truth.

    Args:
        evaluation: From evaluate_masks.
        encoded_prompts: From encode_prompts.
        source_uri: Names the images on the page.
        ranking: ranking.csv, best first, and thresholds.json, as a prompt's calibrated threshold reads it.
        metrics: The best prompt's and the best set's figures, for the UI.
        classification: ROC and confusion matrix of the best set's pixels, for the UI.
        table: The ranking, for the UI.
        page: The ranking with curves of IoU over thresholds, for the UI.
    """
    from clipseg_kfp.steps.running import run_step

    return run_step("rank_prompts", locals())
