"""The logits of every backend against the documented use of transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fixtures import TINY_SIZE, TINY_VARIANTS, Build, embed, picture, reset_decoder
from numpy.typing import NDArray
from PIL import Image

from clipseg_kfp.engine import Engine
from clipseg_kfp.engine.checkpoint import load_tokenizer
from clipseg_kfp.images.decode import to_model_input

TEXTS = ["a red circle", "the blue striped square on the left", "star"]


def documented(folder: Path, image: Image.Image, texts: list[str]) -> NDArray[np.float32]:
    """Logits (P, S, S) as the documentation of transformers gets them."""
    from transformers import CLIPSegForImageSegmentation, CLIPSegProcessor, ViTImageProcessorPil

    processor: Any = CLIPSegProcessor(
        image_processor=ViTImageProcessorPil.from_pretrained(folder), tokenizer=load_tokenizer(folder)
    )
    model = CLIPSegForImageSegmentation.from_pretrained(folder).eval()
    inputs = processor(text=texts, images=[image] * len(texts), padding=True, return_tensors="pt")
    with torch.inference_mode():
        return model(**inputs).logits.numpy()


def ours(folder: Path, image: Image.Image, texts: list[str], backend: str) -> NDArray[np.float32]:
    """The same by the way that the pipeline's steps take."""
    embeddings = embed(folder, list(texts))
    engine = Engine.load(folder, backend=backend, device="cpu", precision="float32")
    pixels = to_model_input(image, engine.facts.image_size)[None]
    return engine.decode(engine.encode(pixels), embeddings)[0]


def assert_same(found: NDArray[np.float32], expected: NDArray[np.float32]) -> None:
    """Equal within 1e-4, and within a thousandth of the deviation where logits are small."""
    assert found.shape == expected.shape
    difference, scale = float(np.abs(found - expected).max()), float(expected.std())
    print(f"largest difference {difference:.2e}, deviation of the logits {scale:.3f}")
    assert difference < 1e-4
    assert difference < 1e-3 * scale


@pytest.mark.parametrize("shape", [(320, 200), (97, 260), (160, 160)])
def test_demo_model_gives_the_logits_of_the_documented_use(
    demo_model: Path, shape: tuple[int, int], backend: str
) -> None:
    image = picture(*shape)
    expected, found = documented(demo_model, image, TEXTS), ours(demo_model, image, TEXTS, backend)
    assert found.shape == expected.shape == (3, 160, 160)
    assert float(expected.std()) > 0.1, "logits this flat would prove nothing"
    assert_same(found, expected)


@pytest.mark.parametrize("variant", TINY_VARIANTS)
def test_every_variant_gives_the_logits_of_the_documented_use(
    build_tiny: Build, variant: str, backend: str
) -> None:
    folder, image = build_tiny(variant), picture(120, 75)
    expected, found = documented(folder, image, TEXTS), ours(folder, image, TEXTS, backend)
    assert found.shape == expected.shape == (3, TINY_SIZE, TINY_SIZE)
    assert not np.allclose(expected[0], expected[1], atol=1e-3), "prompts without effect prove nothing"
    assert_same(found, expected)


@pytest.mark.parametrize("variant", ["complex", "simple"])
def test_one_prompt_gives_the_logits_of_the_documented_use(
    build_tiny: Build, variant: str, backend: str
) -> None:
    folder, image = build_tiny(variant), picture(120, 75)
    expected = documented(folder, image, TEXTS[:1]).reshape(1, TINY_SIZE, TINY_SIZE)
    assert_same(ours(folder, image, TEXTS[:1], backend), expected)


@pytest.mark.slow
def test_full_size_architecture_gives_the_logits_of_the_documented_use(tmp_path: Path, backend: str) -> None:
    """Random weights in the shape of clipseg-rd64-refined: 224 px positions stretched to a 352 px input."""
    from transformers import CLIPSegConfig, CLIPSegForImageSegmentation, ViTImageProcessorPil

    torch.manual_seed(0)
    model = CLIPSegForImageSegmentation(
        CLIPSegConfig(
            text_config={"num_hidden_layers": 1},  # prompts enter as embeddings
            vision_config={"patch_size": 16, "image_size": 224},
            projection_dim=512,
            reduce_dim=64,
            extract_layers=(3, 6, 9),
            use_complex_transposed_convolution=True,
        )
    ).eval()
    reset_decoder(model)
    model.save_pretrained(tmp_path)
    processor = ViTImageProcessorPil(
        size={"height": 352, "width": 352}, image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225]
    )
    processor.save_pretrained(tmp_path)
    conditional, image = 8 * torch.randn(2, 512), picture(500, 333)
    pixel_values = processor([image] * 2, return_tensors="pt")["pixel_values"]
    with torch.inference_mode():
        expected = model(pixel_values=pixel_values, conditional_embeddings=conditional).logits.numpy()
    engine = Engine.load(tmp_path, backend=backend, device="cpu")
    found = engine.decode(engine.encode(to_model_input(image, 352)[None]), conditional)[0]
    assert found.shape == (2, 352, 352)
    assert not np.allclose(expected[0], expected[1], atol=1e-2 * float(expected.std()))
    assert_same(found, expected)
