"""KFP interface of postprocess_masks."""

from kfp import dsl

from clipseg_kfp.components.decorator import component


@component
def postprocess_masks(
    views: dsl.Input[dsl.Dataset],
    probabilities: dsl.Input[dsl.Dataset],
    encoded_prompts: dsl.Input[dsl.Dataset],
    output_uri: str,
    masks: dsl.Output[dsl.Dataset],
    job_id: str = "",
    outputs: dict = {},  # noqa: B006 - KFP copies it
    endpoint: str = "",
):
    """Brings masks to the size of their source, writes them to the bucket and measures them.

    Args:
        views: From preprocess_images.
        probabilities: From segment_images.
        encoded_prompts: From encode_prompts.
        output_uri: Where results go.
        job_id: Names the run where outputs.run_id is empty; without both, its progress is not told in the results.
        outputs: What is written besides masks.
        endpoint: URL of the S3 endpoint; empty takes S3_ENDPOINT from the environment.
        masks: A row an image and prompt (run lengths, box, area, probabilities), and a few pictures.
    """
    from clipseg_kfp.steps.running import run_step

    return run_step("postprocess_masks", locals())
