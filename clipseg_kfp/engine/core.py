"""The engine: what it checks, and how it bounds memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from clipseg_kfp.engine.backends import Backend, check_choices, load_backend
from clipseg_kfp.engine.checkpoint import ModelFacts, read_facts
from clipseg_kfp.errors import ModelError, ParameterError
from clipseg_kfp.options import Inference
from clipseg_kfp.runtime.progress import say


@dataclass(frozen=True)
class Activations:
    """What ``Engine.encode`` keeps of B images, wherever the backend has it.

    Attributes:
        parts: each (B, tokens, reduced).
    """

    parts: tuple[Any, ...]

    def __len__(self) -> int:
        """The number of images."""
        return len(self.parts[0])

    def __getitem__(self, which: slice) -> Activations:
        return Activations(tuple(part[which] for part in self.parts))


@dataclass(frozen=True)
class Pending:
    """Work that ``Engine.begin`` started.

    Attributes:
        images: how many images it is about.
        chunks: what the backend returned for some prompts each.
    """

    images: int
    chunks: tuple[Any, ...]


class Engine:
    """A CLIPSeg at work, on whatever backend.

    Args:
        backend: a loaded one; ``load`` finds it.
        facts: of the checkpoint.
        batch_size: see ``Inference``.
        memory_mb: see ``Inference``. Batches and chunks of prompts are cut to fit; weights and results come on
            top.

    Raises:
        OptionsError: a negative size.
    """

    def __init__(
        self, backend: Backend, facts: ModelFacts, *, batch_size: int = 0, memory_mb: int = 0
    ) -> None:
        Inference.read({"batch_size": batch_size, "memory_mb": memory_mb})
        self.facts = facts
        self.backend = backend
        memory = (memory_mb or backend.memory_mb) * 1e6
        width = 2 if backend.precision == "bfloat16" else 4
        fitting = max(1, int(memory / (backend.size.encoding_floats * width)))
        #: Images encoded at once, at most.
        self.batch_size = min(batch_size or backend.batch_size, fitting)
        fitting = max(1, int(memory / (backend.size.decoding_floats * width)))
        #: (image, prompt) pairs decoded at once, at most.
        self.pairs = min(backend.pairs, fitting)

    @classmethod
    def load(cls, folder: Path, inference: Inference | None = None, /, **options: Any) -> Engine:
        """Loads a checkpoint folder.

        Args:
            folder: with config.json, weights and the processor's configuration.
            inference: how to compute. ``auto`` is never bfloat16, or the same run would give other masks on
                another node. ``int8`` needs images to calibrate on: ``clipseg_kfp.engine.int8.load_int8``.
            options: of ``Inference``, in place of the group, such as ``backend="torch"``.

        Raises:
            ModelError: the checkpoint cannot be used.
            ParameterError: a choice that cannot be had here.
        """
        inference = check_choices(inference, **options)
        if inference.precision == "int8":
            raise ParameterError(
                "int8 needs images to calibrate on.",
                "Use clipseg_kfp.engine.int8.load_int8.",
                code="int8_without_images",
                where="inference.precision",
            )
        facts = read_facts(folder)
        backend = load_backend(folder, facts, inference)
        return cls(backend, facts, batch_size=inference.batch_size, memory_mb=inference.memory_mb)

    def describe(self) -> dict[str, Any]:
        """What a run records of how it computed."""
        backend = self.backend
        return {"backend": backend.name, "device": backend.device, "precision": backend.precision}

    def encode(self, pixels: NDArray[np.uint8]) -> Activations:
        """Encodes images, all at once.

        Args:
            pixels: uint8 (B, S, S, 3), S the model's image size.

        Raises:
            ParameterError: views of another shape or type.
        """
        size = self.facts.image_size
        if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[1:] != (size, size, 3):
            raise ParameterError(
                f"Views must be uint8 (B, {size}, {size}, 3), not {pixels.dtype} {pixels.shape}.",
                "Cut them with clipseg_kfp.views.",
                code="views_shape",
                where="pixels",
            )
        return Activations(self.backend.encode(np.ascontiguousarray(pixels)))

    def decode(self, activations: Activations, embeddings: ArrayLike) -> NDArray[np.float32]:
        """Decodes every image under every prompt.

        Args:
            activations: what ``encode`` returned for B images.
            embeddings: (P, projection_dim), not normalized.

        Returns:
            Logits, float32 (B, P, S, S).

        Raises:
            ParameterError: no prompts, a wrong width, or values that are not finite.
        """
        vectors = self.check_embeddings(embeddings)
        step = max(1, self.pairs // max(1, len(activations)))
        chunks = [
            self.backend.decode(activations.parts, vectors[i : i + step])
            for i in range(0, len(vectors), step)
        ]
        return np.concatenate(chunks, axis=1)

    def check_embeddings(self, embeddings: ArrayLike) -> NDArray[np.float32]:
        """Returns the embeddings as float32.

        Raises:
            ParameterError: unless they are finite (P, projection_dim) with P >= 1.
        """
        vectors = np.asarray(embeddings, dtype=np.float32)
        width = self.facts.projection_dim
        if vectors.ndim == 0 or len(vectors) == 0:
            code, problem, remedy = (
                "prompts_empty",
                "There are no prompts to segment by.",
                "Give at least one.",
            )
        elif vectors.ndim != 2 or vectors.shape[1] != width:
            code, remedy = "embeddings_shape", "Encode the prompts with the same model."
            problem = f"The embeddings have the shape {vectors.shape}; the model takes (P, {width})."
        elif not np.isfinite(vectors).all():
            code, remedy = "embeddings_not_finite", "Encode the prompts again."
            problem = "The embeddings hold values that are not finite."
        else:
            return vectors
        raise ParameterError(problem, remedy, code=code, where="embeddings")

    def probabilities(self, pixels: NDArray[np.uint8], embeddings: ArrayLike) -> Iterator[NDArray[np.uint8]]:
        """Yields one uint8 (P, S, S) array per image: ``round(255 * sigmoid(logits))``.

        At most ``batch_size`` images are encoded and ``pairs`` (image, prompt) pairs decoded at a time.
        Where a device runs out of memory, batches are halved, and stay so.

        Args:
            pixels: uint8 (B, S, S, 3).
            embeddings: (P, projection_dim), not normalized.

        Raises:
            ModelError: a single image does not fit the device's memory, or results are not finite.
            ParameterError: as ``encode`` and ``decode``.
        """
        for pending in self.begin(pixels, embeddings):
            yield from self.finish(pending)

    def begin(self, pixels: NDArray[np.uint8], embeddings: ArrayLike) -> Iterator[Pending]:
        """Starts work on images, some at a time, so that another thread can wait for it in ``finish``.

        Args:
            pixels: uint8 (B, S, S, 3).
            embeddings: (P, projection_dim), not normalized.
        """
        vectors = self.check_embeddings(embeddings)
        start = 0
        while start < len(pixels):
            size = self.batch_size
            try:
                activations = self.encode(pixels[start : start + size])
            except self.backend.out_of_memory as error:
                self.batch_size = self._halved("batch_size", size, error)
                continue
            start += size
            yield from self._begin_decoding(activations, vectors)

    def _begin_decoding(self, activations: Activations, embeddings: NDArray[np.float32]) -> Iterator[Pending]:
        start = 0
        while start < len(activations):
            pairs = self.pairs
            images = max(1, pairs // len(embeddings))  # several, where prompts are few
            part = activations[start : start + images]
            prompts = max(1, pairs // len(part))
            try:
                chunks = tuple(
                    self.backend.begin(part.parts, embeddings[i : i + prompts])
                    for i in range(0, len(embeddings), prompts)
                )
            except self.backend.out_of_memory as error:
                self.pairs = self._halved("pairs", pairs, error)
                continue
            start += len(part)
            yield Pending(len(part), chunks)

    def _halved(self, name: str, size: int, error: BaseException) -> int:
        if size == 1:
            raise ModelError(
                f"The {self.backend.device} device has too little memory for a single image.",
                "Free its memory, or take device cpu.",
                code="device_memory",
                where=name,
            ) from error
        say("engine", f"out of memory: {name} goes from {size} to {size // 2}")
        return size // 2

    def finish(self, pending: Pending) -> Iterator[NDArray[np.uint8]]:
        """Waits for a part that ``begin`` yielded; yields one uint8 (P, S, S) array per image.

        Raises:
            ModelError: results that are not finite.
        """
        chunks = [self.backend.finish(chunk) for chunk in pending.chunks]
        yield from chunks[0] if len(chunks) == 1 else np.concatenate(chunks, axis=1)
