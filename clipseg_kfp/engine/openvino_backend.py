"""The halves of the model in OpenVINO: faster than torch on Intel and AMD CPUs, with the same results.

A checkpoint is converted once, checked against torch, and kept in the cache folder under its digest. From
then on neither torch nor transformers is imported, which saves seconds and some hundred megabytes.
"""

from __future__ import annotations

import json
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipseg_kfp.cache import cache_folder
from clipseg_kfp.engine import private  # noqa: F401 - before openvino
from clipseg_kfp.engine.backends import ConversionError, not_finite
from clipseg_kfp.engine.dimensions import Dimensions
from clipseg_kfp.model import ModelFacts, load_model
from clipseg_kfp.progress import say
from clipseg_kfp.resources import cpu_limit

import openvino as ov  # isort: skip

ENCODER, DECODER, SIZE = "encoder.xml", "decoder.xml", "size.json"
#: Raised whenever the converted form changes.
LAYOUT = 1
#: Largest difference of logits to torch's, as a share of their deviation.
PARITY = 1e-3


class OpenVinoBackend:
    """See ``Backend``.

    Args:
        encoder: of ``Encoder``'s form, in float32 or quantized.
        decoder: of ``Decoder``'s form.
        size: of the network.
        precision: ``float32``, ``bfloat16``, or ``int8`` for a quantized encoder beside a float32 decoder.
    """

    name = "openvino"
    device = "cpu"
    out_of_memory: tuple[type[BaseException], ...] = ()
    batch_size, pairs, memory_mb = 4, 8, 256

    def __init__(self, encoder: ov.Model, decoder: ov.Model, size: Dimensions, precision: str) -> None:
        self.precision, self.size = precision, size
        self._encode, self._decode = (_compile(half, precision) for half in (encoder, decoder))

    def encode(self, pixels: NDArray[np.uint8]) -> tuple[NDArray[np.float32], ...]:
        """See ``Backend``."""
        found = self._encode.infer([pixels], share_inputs=True)
        return tuple(found[i] for i in range(len(found)))

    def _run(
        self, activations: tuple[NDArray[np.float32], ...], embeddings: NDArray[np.float32]
    ) -> list[Any]:
        """Runs the decoder; the next run writes its results to the same place."""
        found = self._decode.infer([embeddings, *activations], share_inputs=True, share_outputs=True)
        shape = (len(activations[0]), len(embeddings))
        return [found[i].reshape(*shape, *found[i].shape[1:]) for i in range(2)]

    def decode(
        self, activations: tuple[NDArray[np.float32], ...], embeddings: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """See ``Backend``."""
        logits: NDArray[np.float32] = self._run(activations, embeddings)[0].copy()
        return logits

    def begin(
        self, activations: tuple[NDArray[np.float32], ...], embeddings: NDArray[np.float32]
    ) -> NDArray[np.uint8]:
        """See ``Backend``."""
        logits, levels = self._run(activations, embeddings)
        # A value that is not finite anywhere makes the sum so. OpenVINO's ReLU takes NaN for 0, so that the
        # logits alone would not tell.
        if not all(np.isfinite(part.sum()) for part in (*activations, logits)):
            raise not_finite(self.precision)
        found: NDArray[np.uint8] = levels.copy()
        return found

    def finish(self, pending: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """See ``Backend``."""
        return pending


def _compile(model: ov.Model, precision: str) -> Any:
    """Prepares a model for this process's share of the CPUs and returns a request to run it with."""
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": cpu_limit(),
        # Left alone, CPUs with bfloat16 would use it.
        "INFERENCE_PRECISION_HINT": "bf16" if precision == "bfloat16" else "f32",
        "ENABLE_CPU_PINNING": False,  # several pods share a node's cores
    }
    return ov.Core().compile_model(model, "CPU", settings).create_infer_request()


def load_openvino(folder: Path, facts: ModelFacts, precision: str = "auto") -> OpenVinoBackend:
    """Loads a checkpoint folder, converting it first where the cache does not have it.

    Args:
        folder: of the checkpoint.
        facts: of the checkpoint; its digest names the cache entry.
        precision: ``auto``, ``float32``, or ``bfloat16``, which is float32 where the CPU has none.

    Raises:
        ConversionError: OpenVINO cannot take over this checkpoint, or not with the same results.
        ModelError: the checkpoint cannot be used at all.
    """
    able = "BF16" in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    chosen = "bfloat16" if precision == "bfloat16" and able else "float32"
    encoder, decoder, size = read_converted(folder, facts)
    return OpenVinoBackend(encoder, decoder, size, chosen)


def read_converted(folder: Path, facts: ModelFacts) -> tuple[ov.Model, ov.Model, Dimensions]:
    """Returns both halves of a checkpoint in float32, converted now or earlier.

    Raises:
        ConversionError: see ``load_openvino``.
        ModelError: the checkpoint cannot be used at all.
    """
    version = ov.__version__.split("-")[0]
    place = cache_folder("openvino") / f"{facts.digest}-{facts.image_size}-{LAYOUT}-{version}"
    if not place.exists():
        _convert(folder, facts, place)
    core = ov.Core()
    size = Dimensions(**json.loads((place / SIZE).read_text("utf-8")))
    return core.read_model(place / ENCODER), core.read_model(place / DECODER), size


def _convert(folder: Path, facts: ModelFacts, place: Path) -> None:
    """Fills ``place``, at once and as a whole: a process that dies half-way leaves nothing of that name."""
    from clipseg_kfp.engine.network import split

    say("engine", "converting the model for OpenVINO, once")
    encoder, decoder, size = split(load_model(folder), facts)
    with tempfile.TemporaryDirectory(dir=place.parent, prefix="unfinished-") as temporary:
        unfinished = Path(temporary) / "model"
        unfinished.mkdir()
        try:
            _write(encoder, decoder, size, facts, unfinished)
        except Exception as error:  # its converter passes on whatever its front ends raise
            if isinstance(error, ConversionError):
                raise
            line = next(iter(str(error).splitlines()), type(error).__name__)
            raise ConversionError(f"OpenVINO cannot convert this model: {line}.") from error
        try:
            unfinished.replace(place)
        except OSError:
            if not place.exists():  # another process was first: its files are as good
                raise


def _write(encoder: Any, decoder: Any, size: Dimensions, facts: ModelFacts, target: Path) -> None:
    import torch

    generator = torch.Generator().manual_seed(0)
    side = size.image_size
    # Two images and three prompts, so that no size is taken for a constant.
    pixels = torch.randint(0, 256, (2, side, side, 3), dtype=torch.uint8, generator=generator)
    embeddings = torch.randn(3, facts.projection_dim, generator=generator)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of tracing, about shapes that are constant on purpose
        activations = encoder(pixels)
        logits, _ = decoder(embeddings, *activations)
        first = ov.convert_model(encoder, example_input=pixels, input=[[-1, side, side, 3]])
        reduced = [-1, size.tokens, size.reduced]
        second = ov.convert_model(
            decoder,
            example_input=(embeddings, *activations),
            input=[[-1, facts.projection_dim], *[reduced] * size.activations],
        )
    ov.save_model(first, target / ENCODER, compress_to_fp16=False)
    ov.save_model(second, target / DECODER, compress_to_fp16=False)
    (target / SIZE).write_text(json.dumps(size.to_json()), "utf-8")
    converted = OpenVinoBackend(first, second, size, "float32")
    _check_parity(converted, pixels[:1].numpy(), embeddings[:1].numpy(), logits[:1, None].numpy())


def _check_parity(
    converted: OpenVinoBackend,
    pixels: NDArray[np.uint8],
    embeddings: NDArray[np.float32],
    expected: NDArray[np.float32],
) -> None:
    found = converted.decode(converted.encode(pixels), embeddings)
    difference = float(np.abs(found - expected).max())
    scale = float(expected.std())
    if not difference <= PARITY * scale:
        raise ConversionError(
            f"OpenVINO's logits of this model differ from torch's by {difference:.2g}, more than {PARITY:g} "
            f"of their deviation of {scale:.2g}."
        )
