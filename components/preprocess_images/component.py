"""KFP interface of preprocess_images."""

from kfp import dsl

from clipseg_kfp.components.decorator import component


@component
def preprocess_images(
    dataset: dsl.Input[dsl.Dataset],
    shard: str,
    encoded_prompts: dsl.Input[dsl.Dataset],
    views: dsl.Output[dsl.Dataset],
    limits: dict = {},  # noqa: B006 - KFP copies it
    endpoint: str = "",
):
    """Fetches a shard's images, decodes them safely and packs them for the model.

    Images that cannot be used go to quarantine with a reason; they never cost their neighbors.

    Args:
        dataset: From fetch_dataset.
        shard: Name of the shard.
        encoded_prompts: From encode_prompts; tells the model's input size.
        limits: Which images are too large; those go to quarantine.
        endpoint: URL of the S3 endpoint; empty takes S3_ENDPOINT from the environment.
        views: Packed views and previews, and what became of each image.
    """
    from clipseg_kfp.steps.running import run_step

    return run_step("preprocess_images", locals())
