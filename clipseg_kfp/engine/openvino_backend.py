"""The halves of the model in OpenVINO: faster than torch on Intel and AMD CPUs, with the same results.

A checkpoint is converted once, checked against torch, and kept in the cache folder under its digest. From
then on neither torch nor transformers is imported, which saves seconds and some hundred megabytes. What is kept is
sealed: nobody else may have written it, and its bytes and its name are those of the conversion.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from clipseg_kfp.engine import conversion
from clipseg_kfp.engine.backends import ConversionError, not_finite
from clipseg_kfp.engine.checkpoint import ModelFacts
from clipseg_kfp.engine.dimensions import Dimensions
from clipseg_kfp.engine.openvino_import import ov
from clipseg_kfp.errors import ModelError
from clipseg_kfp.runtime.cache import cache_folder, configured_folder
from clipseg_kfp.runtime.progress import say
from clipseg_kfp.runtime.resources import cpu_limit

#: Raised whenever the converted form changes.
LAYOUT = 3
SEAL = "seal.json"  # in a conversion: its name, and the sha256 of each file
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
    name = f"{facts.digest}-{facts.image_size}-{LAYOUT}-{version}"
    if found := _cached(configured_folder("openvino") / name):
        return found
    place = cache_folder("openvino") / name
    with FileLock(cache_folder("locks") / "openvino"):  # two at once would need twice the memory
        if found := _cached(place):  # meanwhile, by another process
            return found
        if place.is_symlink():
            place.unlink()
        shutil.rmtree(place, ignore_errors=True)  # damaged
        _convert(folder, facts, place)
    return _read(place)


def _cached(place: Path) -> tuple[ov.Model, ov.Model, Dimensions] | None:
    """Returns an earlier conversion, if it is there, whole, and the one that was made under this name."""
    if not place.exists():
        return None
    try:
        _check_seal(place)
        return _read(place)
    except (OSError, RuntimeError, ValueError, TypeError, KeyError) as error:
        say("engine", f"{place} is damaged and not used: {str(error).strip().splitlines()[-1:]}")
        return None


def _seal(folder: Path, name: str) -> None:
    """Records what a conversion is, and lets nobody else write it."""
    digests = {path.name: _digest(path) for path in folder.iterdir()}
    (folder / SEAL).write_text(json.dumps({"name": name, "files": digests}), "utf-8")
    for path in folder.iterdir():
        path.chmod(0o644)
    folder.chmod(0o755)


def _check_seal(folder: Path) -> None:
    """Raises ``ValueError`` where a conversion is not what was sealed, or others could have written it."""
    paths = list(folder.iterdir())
    for path in (folder, *paths):
        facts = path.lstat()
        if stat.S_ISLNK(facts.st_mode):
            raise ValueError(f"{path.name} is a link")
        if hasattr(os, "geteuid") and (facts.st_uid not in (0, os.geteuid()) or facts.st_mode & 0o022):
            raise ValueError(f"others may write {path.name}")
    sealed = json.loads((folder / SEAL).read_text("utf-8"))
    found = {path.name: _digest(path) for path in paths if path.name != SEAL}
    if sealed != {"name": folder.name, "files": found}:
        raise ValueError("its files are not those that were converted")


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _read(folder: Path) -> tuple[ov.Model, ov.Model, Dimensions]:
    core = ov.Core()
    size = Dimensions(**json.loads((folder / conversion.SIZE).read_text("utf-8")))
    return core.read_model(folder / conversion.ENCODER), core.read_model(folder / conversion.DECODER), size


def _convert(folder: Path, facts: ModelFacts, place: Path) -> None:
    """Fills ``place``, at once and as a whole: a process that dies half-way leaves nothing of that name."""
    say("engine", "converting the model for OpenVINO, once")
    for stale in place.parent.glob("unfinished-*"):  # of a process that was killed
        shutil.rmtree(stale, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=place.parent, prefix="unfinished-") as temporary:
        unfinished = Path(temporary) / "model"
        # In a process of its own, whose memory goes with it: torch's weights and OpenVINO's beside each
        # other would not fit what the step may take.
        done = subprocess.run(
            # -P: nothing of the user's folder takes the place of a module.
            [sys.executable, "-P", "-m", "clipseg_kfp.engine.conversion", folder.absolute(), unfinished],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise _failure(done.stdout, done.stderr, done.returncode)
        _check_parity(unfinished)
        _seal(unfinished, place.name)
        unfinished.replace(place)


def _failure(out: str, err: str, status: int) -> ModelError:
    """What ended a conversion: the checkpoint's fault in its own words, else OpenVINO's."""
    try:
        record = json.loads(out.splitlines()[-1])
        return ModelError(record["what"], record["remedy"], code=record["code"], where=record["where"])
    except (IndexError, ValueError, KeyError, TypeError):
        if status < 0:
            return ConversionError(
                f"Converting the model for OpenVINO was killed (signal {-status}); perhaps for memory.",
                "openvino_conversion_killed",
            )
        last = (err.strip().splitlines() or [f"it ended with status {status}"])[-1]
        return ConversionError(f"OpenVINO cannot convert this model: {last}.")


def _check_parity(folder: Path) -> None:
    """Compares with what torch made of the same input."""
    with np.load(folder / conversion.SAMPLE) as sample:
        pixels, embeddings, expected = (sample[name] for name in ("pixels", "embeddings", "logits"))
    converted = OpenVinoBackend(*_read(folder), "float32")
    found = converted.decode(converted.encode(pixels), embeddings)
    difference, scale = float(np.abs(found - expected).max()), float(expected.std())
    if not difference <= PARITY * scale:
        raise ConversionError(
            f"OpenVINO's logits of this model differ from torch's by {difference:.2g}, more than {PARITY:g} "
            f"of their deviation of {scale:.2g}.",
            "openvino_parity",
        )
