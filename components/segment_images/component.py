"""KFP interface of segment_images."""

from kfp import dsl

from clipseg_kfp.components.decorator import component


@component
def segment_images(
    views: dsl.Input[dsl.Dataset],
    encoded_prompts: dsl.Input[dsl.Dataset],
    model: dsl.Input[dsl.Model],
    probabilities: dsl.Output[dsl.Dataset],
    inference: dict = {},  # noqa: B006 - KFP copies it
):
    """Runs CLIPSeg: every view is encoded once, and every prompt decoded from it.

    Args:
        views: From preprocess_images.
        encoded_prompts: From encode_prompts.
        model: From fetch_model.
        inference: How the model is computed. Its precision must be the one that the prompts were encoded for.
        probabilities: One map of 8-bit probabilities a view and prompt, at the model's resolution, and in
            engine.json how they were computed.
    """
    from clipseg_kfp.steps.running import run_step

    return run_step("segment_images", locals())
