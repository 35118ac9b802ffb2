"""KFP interface of segment_images."""

from kfp import dsl

from clipseg_kfp.components.decorator import component


@component
def segment_images(
    views: dsl.Input[dsl.Dataset],
    encoded_prompts: dsl.Input[dsl.Dataset],
    model: dsl.Input[dsl.Model],
    probabilities: dsl.Output[dsl.Dataset],
    batch_size: int = 0,
    memory_mb: int = 0,
    backend: str = "auto",
    device: str = "auto",
    int8_min_iou: float = 0.99,
):
    """Runs CLIPSeg: every view is encoded once, and every prompt decoded from it.

    Args:
        views: From preprocess_images.
        encoded_prompts: From encode_prompts.
        model: From fetch_model.
        batch_size: Views encoded at once, at most; 0 takes what suits the device.
        memory_mb: Megabytes that activations may take; 0 takes what suits the device. Weights, some 600 MB
            for the full-size model, come on top.
        backend: torch, openvino (CPUs only), or auto: openvino on Intel and AMD CPUs.
        device: auto, cpu or cuda.
        int8_min_iou: With precision int8, the least IoU of masks with those of float32 on held-out views;
            below it the task fails.
        probabilities: One map of 8-bit probabilities a view and prompt, at the model's resolution, and in
            engine.json how they were computed.
    """
    from clipseg_kfp.steps.running import run_step

    return run_step("segment_images", locals())
