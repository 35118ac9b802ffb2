"""What a backend is, and which one runs where."""

from __future__ import annotations

import importlib.util
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from clipseg_kfp.errors import ModelError, ParameterError
from clipseg_kfp.options import Inference
from clipseg_kfp.runtime.progress import say

if TYPE_CHECKING:
    from clipseg_kfp.engine.checkpoint import ModelFacts
    from clipseg_kfp.engine.dimensions import Dimensions


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


def check_choices(inference: Inference | None = None, /, **options: Any) -> Inference:
    """Checks what this machine cannot do, without loading anything.

    Args:
        inference: what is asked for.
        options: in place of the group, such as ``backend="torch"``.

    Returns:
        The group.

    Raises:
        OptionsError: values that no machine takes.
        ParameterError: a package that is not installed, or a device that is not there.
    """
    inference = inference or Inference.read(options)
    if inference.backend == "openvino":
        _require("inference.backend", "openvino", ("openvino",))
    if inference.precision == "int8":
        _require("inference.precision", "int8", ("openvino", "nncf"))
    if inference.device == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise ParameterError(
                "inference.device is 'cuda', and there is no CUDA device here.",
                "Give auto or cpu.",
                code="device_missing",
                where="inference.device",
            )
    return inference


def _require(option: str, value: str, packages: tuple[str, ...]) -> None:
    if missing := [name for name in packages if not installed(name)]:
        raise ParameterError(
            f"{option} is '{value}'. It needs {' and '.join(packages)}; not installed: {', '.join(missing)}.",
            f"pip install 'clipseg-kfp[{value}]', or give auto.",
            code="package_missing",
            where=option,
        )


def installed(name: str) -> bool:
    """Whether a package can be imported."""
    return importlib.util.find_spec(name) is not None


def load_backend(folder: Path, facts: ModelFacts, inference: Inference) -> Backend:
    """Loads a checkpoint for the best backend that the choices allow.

    ``auto`` takes CUDA where there is one, and on an Intel or AMD CPU OpenVINO where it is installed. If
    that fails at converting this very model, or gives other results than torch, torch it is.

    Args:
        folder: of the checkpoint.
        facts: of the checkpoint.
        inference: as ``check_choices`` has passed it; not with ``int8``.

    Raises:
        ModelError: the checkpoint cannot be used.
    """
    if _takes_openvino(inference):
        from clipseg_kfp.engine.openvino_backend import load_openvino

        try:
            return load_openvino(folder, facts, inference.precision)
        except ConversionError as error:
            if inference.backend == "openvino":
                raise
            say("engine", f"{error.message} Going on with torch.")
    from clipseg_kfp.engine.torch_backend import load_torch

    return load_torch(folder, facts, inference.device, inference.precision)


def not_finite(precision: str) -> ModelError:
    """The error of results with NaN or infinity."""
    return ModelError(
        f"The model's results are not finite (computed in {precision}).",
        "Check the checkpoint and the prompts' embeddings, or take precision float32.",
        code="results_not_finite",
        where=precision,
    )


class ConversionError(ModelError):
    """A sound checkpoint that OpenVINO cannot take over, or not with the same results."""

    def __init__(self, message: str, code: str = "openvino_conversion") -> None:
        """There is one remedy."""
        super().__init__(message, "Take backend torch.", code=code, where="inference.backend")


def _takes_openvino(inference: Inference) -> bool:
    if inference.backend != "auto":
        return inference.backend == "openvino"
    if platform.machine().lower() not in ("x86_64", "amd64") or not installed("openvino"):
        return False
    return inference.device == "cpu" or (inference.device == "auto" and not _has_cuda())


def _has_cuda() -> bool:
    # Importing torch takes seconds; without a driver there is nothing to ask it.
    if not (Path("/dev/nvidiactl").exists() or Path("/dev/dxg").exists()):
        return False
    import torch

    return bool(torch.cuda.is_available())
