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
    precision: str = "auto",
    tile_size: int = 0,
    tile_ground_resolution: float = 0.0,
    tile_overlap: float = 0.25,
    meters_per_pixel: float = 0.0,
    flip: bool = False,
    support_uri: str = "",
    engineering: str = "paper",
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
        precision: Of inference: auto or float32; bfloat16 (where the hardware has it, else float32; take it
            on GPUs); int8 (openvino only: calibrated on a shard's own views, where it has 150 or more).
        tile_size: Side of tiles in pixels of the source; larger images are looked at in overlapping tiles as
            well as in whole. 0 cuts none.
        tile_ground_resolution: Instead of tile_size, the meters that a pixel of the model shall cover.
        tile_overlap: Least overlap of neighboring tiles, as a part of their side.
        meters_per_pixel: Ground resolution of the images; 0 takes what their files say (GeoTIFF).
        flip: Average the maps of every view with those of its mirror image: twice the time.
        support_uri: Example pictures, a folder a thing: each is one more prompt, named after its folder.
            <name>/images/x.jpg with <name>/masks/x.png (white where the thing is), or <name>/x.jpg alone.
        engineering: paper crops the example pictures with masks to the thing and blurs and fades the rest;
            none leaves them as they are.
        prompt_sets: Sets to compare, in place of the prompts: lists of prompts or URIs of prompt files, by name.
        endpoint: URL of the S3 endpoint; empty takes S3_ENDPOINT from the environment.
        encoded_prompts: The prompts with their conditional embeddings, what later steps need to know of the
            model, and the configuration: a digest of the model, the prompts and all else that decides pixels.
    """
    from clipseg_kfp.steps.running import run_step

    return run_step("encode_prompts", locals())
