"""KFP interface of encode_prompts."""

from kfp import dsl

from clipseg_kfp.container import DEFAULT_IMAGE


@dsl.component(base_image=DEFAULT_IMAGE, install_kfp_package=False)
def encode_prompts(
    model: dsl.Input[dsl.Model],
    prompts: list,
    encoded_prompts: dsl.Output[dsl.Dataset],
    prompts_uri: str = "",
    threshold: float = 0.5,
    precision: str = "auto",
    endpoint: str = "",
):
    """Encodes the prompt set once, so that inference needs no text tower, and names the configuration.

    Args:
        model: The checkpoint.
        prompts: Texts, or objects with name, texts and threshold. Ignored where prompts_uri is given.
        prompts_uri: A JSON or YAML prompt file instead.
        threshold: Probability from which a pixel belongs to a mask, for prompts without their own.
        precision: What inference will compute in: a part of the configuration, for it changes last bits.
        endpoint: URL of the S3 endpoint; empty takes S3_ENDPOINT from the environment.
        encoded_prompts: One conditional embedding a prompt, what later steps need to know of the model,
            and the configuration: a digest of the model, the prompts and whatever else changes a pixel.
    """
    from pathlib import Path

    from clipseg_kfp.steps import encode_prompts as step
    from clipseg_kfp.steps import running

    with running(step.STEP):
        encoded_prompts.metadata["configuration"] = step.run(
            model=Path(model.path),
            target=Path(encoded_prompts.path),
            prompts=prompts,
            prompts_uri=prompts_uri,
            threshold=threshold,
            precision=precision,
            endpoint=endpoint,
        )
