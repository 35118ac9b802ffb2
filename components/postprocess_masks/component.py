"""KFP interface of postprocess_masks."""

from kfp import dsl

from clipseg_kfp.components.decorator import component


@component
def postprocess_masks(
    views: dsl.Input[dsl.Dataset],
    probabilities: dsl.Input[dsl.Dataset],
    encoded_prompts: dsl.Input[dsl.Dataset],
    output_uri: str,
    job_id: str,
    masks: dsl.Output[dsl.Dataset],
    label_maps: bool = True,
    overlays: bool = True,
    probability_bits: int = 0,
    run_id: str = "",
    endpoint: str = "",
):
    """Brings masks to the size of their source, writes them to the bucket and measures them.

    Args:
        views: From preprocess_images.
        probabilities: From segment_images.
        encoded_prompts: From encode_prompts.
        output_uri: Where results go.
        job_id: Names the run where run_id is empty.
        label_maps: Write a palette map of the most probable prompt for each image.
        overlays: Write a preview with all masks painted in for each image.
        probability_bits: 8 or 16 also writes probabilities of new images, as grayscale PNGs; 0 does not.
        run_id: Name of the run in the results, where it is told that the shard is done.
        endpoint: URL of the S3 endpoint; empty takes S3_ENDPOINT from the environment.
        masks: A row an image and prompt (run lengths, box, area, probabilities), and a few pictures.
    """
    from clipseg_kfp.steps.running import run_step

    return run_step("postprocess_masks", locals())
