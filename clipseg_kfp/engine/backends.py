"""What a backend is, and which one runs where."""

from __future__ import annotations

import importlib.util
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from clipseg_kfp.errors import ModelError, ParameterError
from clipseg_kfp.runtime.progress import say

if TYPE_CHECKING:
    from clipseg_kfp.engine.checkpoint import ModelFacts
    from clipseg_kfp.engine.dimensions import Dimensions

BACKENDS = ("auto", "torch", "openvino")
DEVICES = ("auto", "cpu", "cuda")
PRECISIONS = ("auto", "float32", "bfloat16", "int8")
INSTALL = "pip install 'clipseg-kfp[openvino]'"


class Backend(Protocol):
    """The two halves of the model at work.

    ``encode``, ``decode`` and ``begin`` may return before a device has finished; ``finish`` waits.

    Attributes:
        name: ``torch`` or ``openvino``.
        device: ``cpu`` or ``cuda``.
        precision: what it computes in: ``float32``, ``bfloat16`` or ``int8``.
        size: of the network.
        out_of_memory: what it raises when a batch does not fit.
        batch_size: images that are worth encoding at once.
        pairs: (image, prompt) pairs that are worth decoding at once.
        memory_mb: what activations may take, unless the user says otherwise.
    """

    name: str
    device: str
    precision: str
    size: Dimensions
    out_of_memory: tuple[type[BaseException], ...]
    batch_size: int
    pairs: int
    memory_mb: int

    def encode(self, pixels: NDArray[np.uint8]) -> tuple[Any, ...]:
        """Takes uint8 (B, S, S, 3) to the decoder's inputs, each (B, tokens, reduced)."""
        ...

    def decode(self, activations: tuple[Any, ...], embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
        """Takes them and (P, projection_dim) to logits, float32 (B, P, S, S)."""
        ...

    def begin(self, activations: tuple[Any, ...], embeddings: NDArray[np.float32]) -> Any:
        """As ``decode``, but to probabilities, and without waiting for them."""
        ...

    def finish(self, pending: Any) -> NDArray[np.uint8]:
        """Waits for what ``begin`` returned: uint8 (B, P, S, S), ``round(255 * sigmoid(logits))``."""
        ...


def check_options(
    backend: str = "auto",
    device: str = "auto",
    precision: str = "auto",
    batch_size: int = 0,
    memory_mb: int = 0,
) -> None:
    """The part of ``check_choices`` that holds on any machine.

    Raises:
        ParameterError: an unknown value, or a negative size.
    """
    for name, value, allowed in (
        ("backend", backend, BACKENDS),
        ("device", device, DEVICES),
        ("precision", precision, PRECISIONS),
    ):
        if value not in allowed:
            raise ParameterError(f"{name} is '{value}'.", f"Give {', '.join(allowed[:-1])} or {allowed[-1]}.")
    for name, size in (("batch_size", batch_size), ("memory_mb", memory_mb)):
        if size < 0:
            raise ParameterError(f"{name} is {size}.", "Give a positive number, or 0 to have it chosen.")


def check_choices(
    backend: str = "auto",
    device: str = "auto",
    precision: str = "auto",
    batch_size: int = 0,
    memory_mb: int = 0,
) -> None:
    """Says at once what is wrong with a choice, without loading anything.

    Raises:
        ParameterError: an unknown value, a negative size, a backend that is not installed, a device that is
            not there, or a combination that does not exist.
    """
    check_options(backend, device, precision, batch_size, memory_mb)
    if backend == "openvino" and not installed("openvino"):
        raise ParameterError(
            "backend is 'openvino', which is not installed.", f"{INSTALL}, or take backend torch."
        )
    if backend == "openvino" and device == "cuda":
        raise ParameterError("backend openvino runs on CPUs, and device is 'cuda'.", "Take backend torch.")
    if precision == "int8":
        if backend == "torch" or device == "cuda":
            raise ParameterError(
                "precision int8 exists for backend openvino on CPUs only.", "Take float32 or bfloat16."
            )
        missing = [name for name in ("openvino", "nncf") if not installed(name)]
        if missing:
            raise ParameterError(
                f"precision is 'int8', and {' and '.join(missing)} {'are' if missing[1:] else 'is'} not "
                "installed.",
                "pip install 'clipseg-kfp[int8]', or take float32 or bfloat16.",
            )
    if device == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise ParameterError("device is 'cuda', and there is no CUDA device here.", "Give auto or cpu.")


def installed(name: str) -> bool:
    """Whether a package can be imported."""
    return importlib.util.find_spec(name) is not None


def load_backend(folder: Path, facts: ModelFacts, *, backend: str, device: str, precision: str) -> Backend:
    """Loads a checkpoint for the best backend that the choices allow.

    ``auto`` takes CUDA where there is one, and on an Intel or AMD CPU OpenVINO where it is installed. If
    that fails at converting this very model, or gives other results than torch, torch it is.

    Args:
        folder: of the checkpoint.
        facts: of the checkpoint.
        backend: one that ``check_choices`` has passed, as the others.
        device: likewise.
        precision: likewise, but for ``int8``.

    Raises:
        ModelError: the checkpoint cannot be used.
    """
    if _takes_openvino(backend, device, precision):
        from clipseg_kfp.engine.openvino_backend import load_openvino

        try:
            return load_openvino(folder, facts, precision)
        except ConversionError as error:
            if backend == "openvino":
                raise
            say("engine", f"{error.message} Going on with torch.")
    from clipseg_kfp.engine.torch_backend import load_torch

    return load_torch(folder, facts, device, precision)


def not_finite(precision: str) -> ModelError:
    """The error of results that are no numbers."""
    return ModelError(
        f"The model's results are not finite (computed in {precision}).",
        "Check the checkpoint and the prompts' embeddings, or take precision float32.",
    )


class ConversionError(ModelError):
    """A sound checkpoint that OpenVINO cannot take over, or not with the same results."""

    def __init__(self, message: str) -> None:
        """There is one remedy."""
        super().__init__(message, "Take backend torch.")


def _takes_openvino(backend: str, device: str, precision: str) -> bool:
    if backend != "auto":
        return backend == "openvino"
    if device == "cuda" or platform.machine().lower() not in ("x86_64", "amd64") or not installed("openvino"):
        return False
    return device == "cpu" or not _has_cuda()


def _has_cuda() -> bool:
    # Importing torch takes seconds; without a driver there is nothing to ask it.
    if not (Path("/dev/nvidiactl").exists() or Path("/dev/dxg").exists()):
        return False
    import torch

    return bool(torch.cuda.is_available())
