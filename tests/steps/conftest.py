"""A tiny model of the real class, and the chain of steps on folders or on the real store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from steps_chain import Chain
from transformers import CLIPSegForImageSegmentation

from clipseg_kfp.engine import Engine
from tools.train_demo_model import build_config, build_processor, build_tokenizer

SIDE = 32


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random checkpoint: 32 pixels, three narrow blocks; prompts make a difference."""
    folder = tmp_path_factory.mktemp("tiny-model")
    tokenizer = build_tokenizer()
    config = build_config(tokenizer)
    for part in (config.text_config, config.vision_config):
        part.hidden_size, part.intermediate_size, part.num_attention_heads = 32, 32, 2
    config.text_config.num_hidden_layers, config.vision_config.num_hidden_layers = 1, 3
    config.vision_config.image_size = SIDE
    config.projection_dim, config.reduce_dim, config.extract_layers = 32, 16, [0, 1, 2]
    torch.manual_seed(0)
    model = CLIPSegForImageSegmentation(config)
    for module in model.decoder.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    model.save_pretrained(folder)
    processor = build_processor(tokenizer)
    processor.image_processor.size = {"height": SIDE, "width": SIDE}
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(params=["folder"])
def chain(
    request: pytest.FixtureRequest, tmp_path: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> Chain:
    """A chain on folders, or on the real store where a test asks for it indirectly."""
    seen: list[int] = []
    begin = Engine.begin

    def counted(self: Engine, pixels: Any, embeddings: Any) -> Any:
        seen.append(len(pixels) * len(embeddings))
        return begin(self, pixels, embeddings)

    monkeypatch.setattr(Engine, "begin", counted)
    if request.param == "s3":
        request.getfixturevalue("s3_env")
        root = f"s3://{request.getfixturevalue('bucket')}"
    else:
        root = str(tmp_path / "root")
        (tmp_path / "root" / "in").mkdir(parents=True)
    return Chain(tmp_path / "work", model_folder, f"{root}/in", f"{root}/out", seen)
