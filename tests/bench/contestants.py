"""Who is compared: the documented use of transformers, and the engine on each backend and precision."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import fullsize
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from clipseg_kfp.engine import Engine
from clipseg_kfp.engine.checkpoint import load_model, read_facts
from clipseg_kfp.engine.int8 import load_int8
from clipseg_kfp.engine.torch_backend import load_torch
from clipseg_kfp.prompts import Encoder
from clipseg_kfp.runtime.progress import say
from clipseg_kfp.runtime.resources import has_bfloat16


class Documented:
    """What the documentation of transformers shows: the image once a prompt, text encoded along with it.

    Args:
        folder: of the checkpoint.
        device: of torch.
        precision: ``float32`` or ``bfloat16``.
    """

    def __init__(self, folder: Path, device: str = "cpu", precision: str = "float32") -> None:
        from transformers import CLIPSegProcessor

        self.dtype, self.device = getattr(torch, precision), device
        self.processor: Any = CLIPSegProcessor.from_pretrained(folder, local_files_only=True)
        self.model = load_model(folder).to(torch.device(device), self.dtype)  # sets the threads of torch, too
        self.encoder = Encoder(self.model, read_facts(folder), lambda: self.processor.tokenizer)

    def embed(self, prompts: list[str]) -> NDArray[np.float32]:
        """Encodes prompts as the pipeline does, with the same weights: float32 (P, projection_dim)."""
        return self.encoder.texts(prompts)

    def prepare(self, images: list[Image.Image], prompts: list[str]) -> Any:
        """Calls the processor and brings what it returns to the device."""
        inputs = self.processor(
            text=prompts * len(images),
            images=[image for image in images for _ in prompts],
            padding=True,
            return_tensors="pt",
        ).to(self.device)
        inputs["pixel_values"] = inputs["pixel_values"].to(self.dtype)
        return inputs

    @torch.inference_mode()
    def logits(self, inputs: Any) -> Tensor:
        """Runs the model: (B * P, S, S)."""
        logits: Tensor = self.model(**inputs).logits
        return logits

    @torch.inference_mode()
    def probabilities(self, inputs: Any) -> Tensor:
        """Runs the model and waits for probabilities in the host's memory."""
        return self.logits(inputs).sigmoid().cpu()

    def __call__(self, image: Image.Image, prompts: list[str]) -> Tensor:
        """All of it for one image."""
        return self.probabilities(self.prepare([image], prompts))


def run_engine(engine: Engine, pixels: NDArray[np.uint8], embeddings: NDArray[np.float32]) -> None:
    """Segments views and lets go of the maps at once."""
    for _ in engine.probabilities(pixels, embeddings):
        pass


def run_ours(engine: Engine, images: list[Image.Image], embeddings: NDArray[np.float32]) -> None:
    """What the pipeline does to images: the model's input, then all prompts, which were encoded before."""
    run_engine(engine, fullsize.views_of(images), embeddings)


def load_torch_engine(folder: Path, device: str, precision: str, *, compiled: bool = False) -> Engine:
    """Loads the torch backend, with ``torch.compile`` where asked to."""
    facts = read_facts(folder)
    return Engine(load_torch(folder, facts, device, precision, compiled=compiled), facts)


def load_engines(folder: Path, embeddings: NDArray[np.float32], calibration: int) -> dict[str, Engine]:
    """Loads what this CPU and these packages allow.

    Args:
        folder: of the checkpoint.
        embeddings: of some prompts, for the check after calibrating 8 bits.
        calibration: views to calibrate 8 bits on; few are enough for speed.

    Returns:
        ``torch`` and ``openvino`` in float32; other precisions with their name behind a hyphen.
    """
    engines = {"torch": load_torch_engine(folder, "cpu", "float32")}
    with_openvino = importlib.util.find_spec("openvino") is not None
    if with_openvino:
        engines["openvino"] = Engine.load(folder, backend="openvino", device="cpu", precision="float32")
    if has_bfloat16():
        engines["torch-bfloat16"] = load_torch_engine(folder, "cpu", "bfloat16")
        if with_openvino:
            name = "openvino-bfloat16"
            engines[name] = Engine.load(folder, backend="openvino", device="cpu", precision="bfloat16")
    if with_openvino and importlib.util.find_spec("nncf"):
        views = list(fullsize.views_of(fullsize.draw_pictures(calibration + 2)))
        # Random weights have no masks worth comparing: nearly every pixel is above such a threshold.
        engines["openvino-int8"], _ = load_int8(
            folder,
            calibration=views[:-2],
            held_out=views[-2:],
            embeddings=embeddings[:1],
            thresholds=[1e-6],
            min_iou=1e-6,
        )
    for name, engine in list(engines.items()):
        if engine.backend.precision != (name.partition("-")[2] or "float32"):
            say("bench", f"{name} computes in {engine.backend.precision} here and is left out")
            del engines[name]
    return engines
