"""KFP interface of segment_images."""

from kfp import dsl

from clipseg_kfp.container import DEFAULT_IMAGE


@dsl.component(base_image=DEFAULT_IMAGE, install_kfp_package=False)
def segment_images(
    views: dsl.Input[dsl.Dataset],
    encoded_prompts: dsl.Input[dsl.Dataset],
    model: dsl.Input[dsl.Model],
    probabilities: dsl.Output[dsl.Dataset],
    batch_size: int = 4,
    device: str = "auto",
):
    """Runs CLIPSeg: every view is encoded once, and every prompt decoded from it.

    Args:
        views: From preprocess_images.
        encoded_prompts: From encode_prompts.
        model: From fetch_model.
        batch_size: Views encoded at once.
        device: auto, cpu or cuda.
        probabilities: One map of 8-bit probabilities a view and prompt, at the model's resolution.
    """
    from pathlib import Path

    from clipseg_kfp.steps import running
    from clipseg_kfp.steps import segment_images as step

    with running(step.STEP):
        probabilities.metadata["maps"] = step.run(
            views=Path(views.path),
            prompts=Path(encoded_prompts.path),
            model=Path(model.path),
            target=Path(probabilities.path),
            batch_size=batch_size,
            device=device,
        )
