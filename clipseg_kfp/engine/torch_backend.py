"""The halves of the model in torch: on CPUs without OpenVINO, and on GPUs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clipseg_kfp.engine.backends import not_finite
from clipseg_kfp.engine.dimensions import Dimensions
from clipseg_kfp.engine.network import Decoder, Encoder, split
from clipseg_kfp.model import ModelFacts, load_model
from clipseg_kfp.resources import has_bfloat16

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class TorchBackend:
    """See ``Backend``.

    Args:
        encoder: on any device.
        decoder: likewise.
        size: of the network.
        device: ``cpu`` or ``cuda``.
        precision: ``float32`` or ``bfloat16``.
        compiled: hand both halves to ``torch.compile``, which takes a minute first.
    """

    name = "torch"
    out_of_memory: tuple[type[BaseException], ...] = (torch.OutOfMemoryError,)

    def __init__(
        self,
        encoder: Encoder,
        decoder: Decoder,
        size: Dimensions,
        device: str,
        precision: str,
        *,
        compiled: bool = False,
    ) -> None:
        self.device, self.precision, self.size = device, precision, size
        self._device, self._dtype = torch.device(device), _DTYPES[precision]
        self._encoder: Any = encoder.to(self._device, self._dtype)
        self._decoder: Any = decoder.to(self._device, self._dtype)
        if compiled:
            self._encoder, self._decoder = torch.compile(self._encoder), torch.compile(self._decoder)
        on_gpu = device == "cuda"
        self.batch_size, self.pairs = (32, 256) if on_gpu else (4, 8)
        self.memory_mb = int(torch.cuda.mem_get_info()[0] * 0.5 / 1e6) if on_gpu else 256

    @torch.inference_mode()
    def encode(self, pixels: NDArray[np.uint8]) -> tuple[Tensor, ...]:
        """See ``Backend``."""
        batch = torch.from_numpy(np.require(pixels, requirements=["C", "W"]))
        if self.device == "cuda":
            batch = batch.pin_memory().to(self._device, non_blocking=True)
        with torch.backends.cudnn.flags(allow_tf32=False):  # or float32 on a GPU would be less than float32
            parts: tuple[Tensor, ...] = self._encoder(batch)
        return parts

    @torch.inference_mode()
    def _run(self, activations: tuple[Tensor, ...], embeddings: NDArray[np.float32]) -> tuple[Tensor, Tensor]:
        condition = torch.from_numpy(embeddings).to(self._device, self._dtype)
        with torch.backends.cudnn.flags(allow_tf32=False):
            logits, levels = self._decoder(condition, *activations)
        shape = (len(activations[0]), len(embeddings), *logits.shape[1:])
        return logits.view(shape), levels.view(shape)

    def decode(self, activations: tuple[Tensor, ...], embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
        """See ``Backend``."""
        logits: NDArray[np.float32] = self._run(activations, embeddings)[0].cpu().numpy()
        return logits

    def begin(
        self, activations: tuple[Tensor, ...], embeddings: NDArray[np.float32]
    ) -> tuple[Tensor, Tensor]:
        """See ``Backend``."""
        logits, levels = self._run(activations, embeddings)
        # One number: a value that is not finite anywhere makes the sum so.
        return levels, logits.sum()

    def finish(self, pending: tuple[Tensor, Tensor]) -> NDArray[np.uint8]:
        """See ``Backend``."""
        levels, total = pending
        found: NDArray[np.uint8] = levels.cpu().numpy()
        if not bool(torch.isfinite(total)):
            raise not_finite(self.precision)
        return found


def choose_precision(device: str, precision: str) -> str:
    """What a device computes in: bfloat16 if asked to, and only where its hardware has it."""
    if precision != "bfloat16":
        return "float32"
    on_gpu = device == "cuda"
    able = torch.cuda.is_bf16_supported(including_emulation=False) if on_gpu else has_bfloat16()
    return "bfloat16" if able else "float32"


def load_torch(
    folder: Path, facts: ModelFacts, device: str = "auto", precision: str = "auto", *, compiled: bool = False
) -> TorchBackend:
    """Loads a checkpoint folder; on a CPU, with as many threads as the container may use.

    Raises:
        ModelError: the checkpoint cannot be used.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    encoder, decoder, size = split(load_model(folder), facts)
    return TorchBackend(
        encoder, decoder, size, device, choose_precision(device, precision), compiled=compiled
    )
