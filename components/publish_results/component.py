"""KFP interface of publish_results."""

from typing import List  # noqa: UP035 - KFP reads this form

from kfp import dsl

from clipseg_kfp.components.decorator import component


@component
def publish_results(
    masks: dsl.Input[List[dsl.Dataset]],  # noqa: UP006
    dataset: dsl.Input[dsl.Dataset],
    encoded_prompts: dsl.Input[dsl.Dataset],
    evaluation: dsl.Input[dsl.Dataset],
    output_uri: str,
    job_id: str,
    report: dsl.Output[dsl.HTML],
    metrics: dsl.Output[dsl.Metrics],
    model_uri: str = "",
    outputs: dict = {},  # noqa: B006 - KFP copies it
    endpoint: str = "",
) -> str:
    """Writes the run's tables, COCO file, metrics and report, and its manifest last: then the run exists.

    Args:
        masks: From postprocess_masks, of all shards.
        dataset: From fetch_dataset.
        encoded_prompts: From encode_prompts.
        evaluation: From evaluate_masks.
        output_uri: Where results go.
        job_id: Names the run where outputs.run_id is empty.
        model_uri: Recorded in the manifest.
        outputs: The name of the run, and the formats besides COCO.
        endpoint: URL of the S3 endpoint; empty takes S3_ENDPOINT from the environment.
        report: The report, for the UI; the same page lies in the bucket.
        metrics: Counts of images and masks, for the UI.

    Returns:
        URI of the manifest.
    """
    from clipseg_kfp.steps.running import run_step

    return run_step("publish_results", locals())
