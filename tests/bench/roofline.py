"""How near the encoder comes to what the machine can do: matrix multiplications in the same minutes.

The roof is the best median rate of float32 multiplications, among torch's and OpenVINO's and among a large
square one and the shape of the encoder's own MLP: with torch's alone, shares above 1 would be possible where
OpenVINO's kernels suit the CPU better.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import numpy as np

from clipseg_kfp.engine.dimensions import Dimensions
from clipseg_kfp.runtime.resources import cpu_limit

SQUARE = 4096
IMAGES = 4  # as many as an engine encodes at once on a CPU
SMALL_REPEATS = 8  # of the MLP's shape, so that one timing takes about as long as the square one

Shape = tuple[int, int, int]


def encoder_flops(size: Dimensions, blocks: int) -> float:
    """Floating-point operations of encoding one image: two for each multiply-accumulate.

    Counted are the multiplications of matrices in the patch embedding and in the blocks; normalization,
    activations and the reduction for the decoder (0.2 %) are not, which keeps the shares of the roof low.

    Args:
        size: of the network.
        blocks: that are computed.
    """
    tokens, hidden = size.tokens, size.hidden
    patches = (tokens - 1) * hidden * 3 * size.patch**2
    projections = 4 * tokens * hidden**2  # query, key, value and output
    attention = 2 * tokens**2 * hidden
    mlp = 2 * tokens * hidden * size.intermediate
    return 2.0 * (patches + blocks * (projections + attention + mlp))


def shape_flops(shape: Shape) -> float:
    """Floating-point operations of (m, k) times (k, n)."""
    return 2.0 * shape[0] * shape[1] * shape[2]


class Yardstick:
    """One multiplication, repeated.

    Args:
        shape: m, k and n.
        repeats: of it in a call.
        multiply: does it once.
    """

    def __init__(self, shape: Shape, repeats: int, multiply: Callable[[], object]) -> None:
        self._multiply, self._repeats = multiply, repeats
        self.flops = shape_flops(shape) * repeats

    def __call__(self) -> None:
        for _ in range(self._repeats):
            self._multiply()


def yardsticks(size: Dimensions) -> dict[str, Yardstick]:
    """Makes all that can be made here; names begin with who computes."""
    shapes: dict[str, tuple[Shape, int]] = {
        "4096": ((SQUARE, SQUARE, SQUARE), 1),
        "mlp": ((IMAGES * size.tokens, size.hidden, size.intermediate), SMALL_REPEATS),
    }
    makers = {"torch": _in_torch}
    if importlib.util.find_spec("openvino"):
        makers["openvino"] = _in_openvino
    return {
        f"{who} {name}": Yardstick(shape, repeats, make(shape))
        for who, make in makers.items()
        for name, (shape, repeats) in shapes.items()
    }


def _operands(shape: Shape) -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    rows, inner, columns = shape
    return (
        rng.standard_normal((rows, inner), dtype=np.float32),
        rng.standard_normal((inner, columns), dtype=np.float32),
    )


def _in_torch(shape: Shape) -> Callable[[], object]:
    import torch

    torch.set_num_threads(cpu_limit())
    left, right = (torch.from_numpy(operand) for operand in _operands(shape))
    out = torch.empty(shape[0], shape[2])
    return lambda: torch.mm(left, right, out=out)


def _in_openvino(shape: Shape) -> Callable[[], object]:
    import openvino as ov
    from openvino import opset13 as ops

    left, right = _operands(shape)
    given = ops.parameter(left.shape, np.float32)
    # A constant, as a layer's weights are: OpenVINO then packs it beforehand, as it does in the encoder.
    model = ov.Model([ops.matmul(given, ops.constant(right), False, False)], [given])
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": cpu_limit(),
        "INFERENCE_PRECISION_HINT": "f32",
    }
    request = ov.Core().compile_model(model, "CPU", settings).create_infer_request()
    return lambda: request.infer([left], share_inputs=True, share_outputs=True)
