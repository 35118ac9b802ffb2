"""Checkpoints that tests share; a folder of tests takes the fixtures into its ``conftest.py``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from clipseg_kfp.images.decode import to_model_input

DEMO_MODEL = Path(__file__).parents[1] / "examples" / "demo-model"

#: What makes each tiny checkpoint differ from the first one; names of the vision tower's fields have a dot.
TINY_VARIANTS: dict[str, dict[str, Any]] = {
    "complex": {},
    "simple": {"use_complex_transposed_convolution": False},
    "conditional_1": {"conditional_layer": 1},
    "last_conditional": {"conditional_layer": 2, "extract_layers": [0, 1, 3]},
    "unsorted": {"extract_layers": [2, 0, 1]},
    "repeated": {"extract_layers": [1, 1, 2]},
    "one_layer": {"extract_layers": [1]},
    "five_layers": {"extract_layers": [0, 1, 2, 3, 4], "vision.num_hidden_layers": 5},
    "interpolated": {"vision.image_size": 48},
}
TINY_SIZE = 64

Build = Callable[[str], Path]


@pytest.fixture(scope="session")
def demo_model() -> Path:
    """The checkpoint that the project trained itself."""
    if not (DEMO_MODEL / "model.safetensors").exists():
        pytest.fail(f"{DEMO_MODEL} is missing; 'make demo-model' trains it")
    return DEMO_MODEL


@pytest.fixture(scope="session")
def build_tiny(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """Makes the checkpoint of a variant; each is made once."""
    root = tmp_path_factory.mktemp("tiny")

    def build(variant: str) -> Path:
        folder = root / variant
        if not folder.exists():
            save_tiny(folder, TINY_VARIANTS[variant])
        return folder

    return build


@pytest.fixture(scope="session")
def tiny_model(build_tiny: Build) -> Path:
    """A small random-weight checkpoint: never to be changed, copy it first."""
    return build_tiny("complex")


def save_tiny(folder: Path, changes: dict[str, Any]) -> None:
    """Writes a random-weight CLIPSeg of 64 pixels with a tokenizer and a processor of its own."""
    from transformers import (
        CLIPSegConfig,
        CLIPSegForImageSegmentation,
        CLIPSegProcessor,
        ViTImageProcessorPil,
    )

    from tools.train_demo_model import build_tokenizer

    tokenizer = build_tokenizer()
    vision = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
        "image_size": TINY_SIZE,
        "patch_size": 16,
    }
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 24,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    fields = {
        "projection_dim": 24,
        "extract_layers": [0, 1, 2],
        "reduce_dim": 16,
        "decoder_num_attention_heads": 2,
        "decoder_intermediate_size": 32,
        "use_complex_transposed_convolution": True,
    }
    for name, value in changes.items():
        part, _, field = name.rpartition(".")
        (vision if part else fields)[field] = value
    torch.manual_seed(1)
    model = CLIPSegForImageSegmentation(CLIPSegConfig(text_config=text, vision_config=vision, **fields))
    reset_decoder(model)
    model.save_pretrained(folder)
    images = ViTImageProcessorPil(
        size={"height": TINY_SIZE, "width": TINY_SIZE},
        image_mean=[0.48, 0.46, 0.41],
        image_std=[0.27, 0.26, 0.28],
    )
    CLIPSegProcessor(image_processor=images, tokenizer=tokenizer).save_pretrained(folder)


def reset_decoder(model: Any) -> None:
    """Gives the decoder PyTorch's own initialization: transformers' leaves logits in the hundreds."""
    for module in model.decoder.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    """Soft blobs with noise: neither flat nor all edges."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (7, 9, 3), dtype=np.uint8)).resize((width, height), 3)
    noisy = np.asarray(coarse, np.int16) + rng.integers(-20, 21, (height, width, 3))
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def views(count: int, size: int = TINY_SIZE) -> NDArray[np.uint8]:
    """Pictures as the model takes them."""
    return np.stack([to_model_input(picture(90, 70, seed), size) for seed in range(count)])


def embed(folder: Path, entries: list[Any]) -> NDArray[np.float32]:
    """Embeddings of prompts, float32 (P, projection_dim), as the pipeline makes them."""
    from clipseg_kfp.engine.checkpoint import load_model, load_tokenizer, read_facts
    from clipseg_kfp.prompts import Encoder, Files, encode, gather, parse_prompts

    facts = read_facts(folder)
    encoder = Encoder(load_model(folder), facts, lambda: load_tokenizer(folder))
    return encode(gather(parse_prompts(entries), facts, 0.5, Files()), encoder)[1]
