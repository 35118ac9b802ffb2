"""KFP interface of encode_prompts."""

from kfp import dsl

from clipseg_kfp.components.decorator import component


@component
def encode_prompts(
    model: dsl.Input[dsl.Model],
    prompts: list,
    encoded_prompts: dsl.Output[dsl.Dataset],
    prompts_uri: str = "",
    threshold: float = 0.5,
    views: dict = {},  # noqa: B006 - KFP copies it
    inference: dict = {},  # noqa: B006
    support: dict = {},  # noqa: B006
    prompt_sets: dict = {},  # noqa: B006 - KFP copies it
    endpoint: str = "",
):
    """Encodes the prompt set once, so that inference needs no text tower, and names the configuration.

    Args:
        model: The checkpoint.
        prompts: Texts, or objects: texts, images, stored embeddings, mixes, logic; each with threshold and
            cleaning (docs/prompts.md). Ignored where prompts_uri is given.
        prompts_uri: A JSON or YAML prompt file instead; relative names in it start at its own folder.
        threshold: Probability from which a pixel belongs to a mask, for prompts without their own.
        views: How the model looks at images: tiles, mirror images.
        inference: How the model is computed; only precision matters here.
        support: Example pictures, one folder per thing: each is one more prompt.
        prompt_sets: Sets to compare, in place of the prompts: lists of prompts or URIs of prompt files, by name.
        endpoint: URL of the S3 endpoint; empty takes S3_ENDPOINT from the environment.
        encoded_prompts: The prompts with their conditional embeddings, what later steps need to know of the
            model, and the configuration: a digest of the model, the prompts and all else that decides pixels.
    """
    from clipseg_kfp.steps.running import run_step

    return run_step("encode_prompts", locals())
