"""What is measured on: a checkpoint of the real size with random weights, drawn pictures, worded prompts.

The size is that of CIDAS/clipseg-rd64-refined, text tower and embedding table included. Speed and memory do
not depend on the values of weights; masks do, so nothing here says anything about quality.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clipseg_kfp.demo.scenes import COLORS, SHAPES, TEXTURES, Query, draw_scene, phrase
from clipseg_kfp.images.decode import to_model_input

WORK = Path(__file__).parents[2] / ".bench"
SIDE = 352
VOCABULARY = 49_408
LOGIT_MEAN, LOGIT_STD = -2.0, 2.0
PICTURE = (640, 480)  # a usual picture of the tutorials


def build_model(folder: Path = WORK / "model") -> Path:
    """Writes the checkpoint unless it is there already; returns its folder."""
    if (folder / "processor_config.json").exists():  # written last
        return folder
    import torch
    from transformers import (
        CLIPSegConfig,
        CLIPSegForImageSegmentation,
        CLIPSegProcessor,
        ViTImageProcessorPil,
    )

    from tools.train_demo_model import build_tokenizer

    shutil.rmtree(folder, ignore_errors=True)
    tokenizer = build_tokenizer()
    ends = {
        name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")
    }  # the demo's vocabulary is the lower end of the table
    config = CLIPSegConfig(
        text_config={"vocab_size": VOCABULARY, **ends},
        vision_config={"patch_size": 16, "image_size": 224},
        projection_dim=512,
        reduce_dim=64,
        extract_layers=[3, 6, 9],
        use_complex_transposed_convolution=True,
    )
    torch.manual_seed(0)
    model: Any = CLIPSegForImageSegmentation(config).eval()
    for module in model.decoder.modules():  # transformers' own initialization gives logits in the hundreds
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    images = ViTImageProcessorPil(
        size={"height": SIDE, "width": SIDE},
        image_mean=[0.485, 0.456, 0.406],
        image_std=[0.229, 0.224, 0.225],
    )
    processor: Any = CLIPSegProcessor(image_processor=images, tokenizer=tokenizer)
    _scale_logits(model, processor)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def _scale_logits(model: Any, processor: Any) -> None:
    """Gives logits a trained model's spread by the last convolution; else differences would look small."""
    import torch

    prompts, pictures = word_prompts(4), draw_pictures(1)
    inputs = processor(text=prompts, images=pictures * len(prompts), padding=True, return_tensors="pt")
    with torch.no_grad():
        logits = model(**inputs).logits
        last = model.decoder.transposed_convolution[-1]
        factor = LOGIT_STD / logits.std()
        last.weight.mul_(factor)
        last.bias.copy_((last.bias - logits.mean()) * factor + LOGIT_MEAN)


def word_prompts(count: int) -> list[str]:
    """Words prompts that differ, as people write them: about as many tokens as with CLIP's vocabulary."""
    rng = np.random.default_rng(0)
    found: dict[str, None] = {}
    while len(found) < count:
        shape, color, texture = (str(rng.choice(list(choices))) for choices in (SHAPES, COLORS, TEXTURES))
        found[phrase(Query(shape, color, texture), rng)] = None
    return list(found)


def draw_pictures(count: int, size: tuple[int, int] = PICTURE) -> list[Image.Image]:
    """Draws pictures that differ."""
    return [draw_scene(seed, size).image for seed in range(count)]


def views_of(pictures: list[Image.Image]) -> NDArray[np.uint8]:
    """Turns pictures into the model's input, uint8 (B, S, S, 3)."""
    return np.stack([to_model_input(picture, SIDE) for picture in pictures])
