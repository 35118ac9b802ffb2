"""The halves of the model in torch: on CPUs without OpenVINO, and on GPUs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clipseg_kfp.engine.backends import not_finite
from clipseg_kfp.engine.checkpoint import ModelFacts, load_model
from clipseg_kfp.engine.dimensions import Dimensions
from clipseg_kfp.engine.network import Decoder, Encoder, split
from clipseg_kfp.runtime.resources import has_bfloat16

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class _Results:
    """What ``TorchBackend.begin`` started.

    Attributes:
        levels: uint8 (B, P, S, S) in the host's memory.
        total: the sum of all logits, there too; a value that is not finite anywhere makes it so.
        arrived: when both are there; ``None`` where they are already.
    """

    levels: Tensor
    total: Tensor
    arrived: torch.cuda.Event | None = None


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
        # Results leave the device on a stream of their own, while the next batch is computed.
        self._leaving = torch.cuda.Stream(self._device) if on_gpu else None  # type: ignore[no-untyped-call]
        self.batch_size, self.pairs = (32, 256) if on_gpu else (4, 8)
        self.memory_mb = int(torch.cuda.mem_get_info()[0] * 0.5 / 1e6) if on_gpu else 256

    @torch.inference_mode()
    def encode(self, pixels: NDArray[np.uint8]) -> tuple[Tensor, ...]:
        """See ``Backend``."""
        batch = torch.from_numpy(np.require(pixels, requirements=["C", "W"]))
        if self.device == "cuda":
            batch = batch.pin_memory().to(self._device, non_blocking=True)
        parts: tuple[Tensor, ...] = self._encoder(batch)
        return parts

    @torch.inference_mode()
    def _run(self, activations: tuple[Tensor, ...], embeddings: NDArray[np.float32]) -> tuple[Tensor, Tensor]:
        condition = torch.from_numpy(embeddings).to(self._device, self._dtype)
        # Or float32 on a GPU would be less than float32; "enabled", too, is off unless it is named.
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            logits, levels = self._decoder(condition, *activations)
        shape = (len(activations[0]), len(embeddings), *logits.shape[1:])
        return logits.view(shape), levels.view(shape)

    def decode(self, activations: tuple[Tensor, ...], embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
        """See ``Backend``."""
        logits: NDArray[np.float32] = self._run(activations, embeddings)[0].cpu().numpy()
        return logits

    @torch.inference_mode()
    def begin(self, activations: tuple[Tensor, ...], embeddings: NDArray[np.float32]) -> _Results:
        """See ``Backend``."""
        logits, levels = self._run(activations, embeddings)
        total = logits.sum()
        if self._leaving is None:
            return _Results(levels, total)
        del logits  # the allocator may hand its memory to the next batch
        self._leaving.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._leaving):
            found = [_fetched(tensor, self._leaving) for tensor in (levels, total)]
            return _Results(found[0], found[1], self._leaving.record_event())

    def finish(self, pending: _Results) -> NDArray[np.uint8]:
        """See ``Backend``."""
        if pending.arrived is not None:
            pending.arrived.synchronize()  # of this batch only: later ones may still be computed
        if not bool(torch.isfinite(pending.total)):
            raise not_finite(self.precision)
        found: NDArray[np.uint8] = pending.levels.numpy()
        return found


def _fetched(tensor: Tensor, stream: torch.cuda.Stream) -> Tensor:
    """Begins to copy a device's tensor to page-locked memory, the only kind that a copy need not wait for."""
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    host.copy_(tensor, non_blocking=True)
    tensor.record_stream(stream)  # or the allocator would reuse it before it has left
    return host


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
