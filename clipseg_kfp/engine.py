"""CLIPSeg inference that pays for an image once, however many prompts there are.

The documented use of transformers repeats the whole vision tower for every prompt. The decoder reads three
intermediate activations only, and those do not depend on the prompt: ``encode`` computes them once with the
blocks that they need, ``decode`` turns them into logits for all prompts.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from clipseg_kfp.errors import ModelError, ParameterError
from clipseg_kfp.model import ModelFacts, load_model, read_facts

if TYPE_CHECKING:
    from transformers import CLIPSegForImageSegmentation

DECODE_CHUNK = 8  # (image, prompt) pairs decoded at once: about 10 MB each at 352 pixels


class Engine:
    """A CLIPSeg without the parts that masks do not need.

    Args:
        model: loaded in float32; its text tower and unused vision blocks are dropped.
        facts: image size, mean and deviation of the checkpoint's processor.
        device: ``auto`` takes CUDA where there is one.
        decode_chunk: (image, prompt) pairs decoded at once; bounds memory.

    Raises:
        ModelError: a configuration that the decoder cannot work with.
    """

    def __init__(
        self,
        model: CLIPSegForImageSegmentation,
        facts: ModelFacts,
        device: str = "auto",
        decode_chunk: int = DECODE_CHUNK,
    ) -> None:
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self.facts = facts
        self.device = torch.device(device)
        self.decode_chunk = decode_chunk
        config: Any = model.config
        vision: Any = model.clip.vision_model
        layers = [int(i) for i in config.extract_layers]
        if not layers or min(layers) < 0 or max(layers) >= len(vision.encoder.layers):
            raise ModelError(f"extract_layers {layers} name blocks that the vision tower does not have.")
        if not 0 <= config.conditional_layer < len(layers):
            raise ModelError(
                f"conditional_layer {config.conditional_layer} lies outside the decoder: prompts would have "
                "no effect."
            )
        self._layers = layers
        self._embeddings = vision.embeddings.to(self.device)
        self._norm = vision.pre_layrnorm.to(self.device)
        self._blocks: nn.ModuleList = vision.encoder.layers[: max(layers) + 1].to(self.device)
        decoder: Any = model.decoder
        self._decoder = decoder.to(self.device)
        # Folds (x / 255 - mean) / std into one multiplication and one addition.
        mean, std = torch.tensor(facts.mean), torch.tensor(facts.std)
        self._scale = (1 / (255 * std)).view(1, 3, 1, 1).to(self.device)
        self._shift = (-mean / std).view(1, 3, 1, 1).to(self.device)

    @classmethod
    def load(cls, folder: Path, device: str = "auto") -> Engine:
        """Loads a checkpoint folder; on a CPU, with as many threads as the container may use."""
        return cls(load_model(folder), read_facts(folder), device)

    @torch.inference_mode()
    def encode(self, pixels: NDArray[np.uint8]) -> list[Tensor]:
        """Encodes images.

        Args:
            pixels: uint8 (B, S, S, 3), S the model's image size.

        Returns:
            The decoder's reduced activations, deepest first, each float32 (B, 1 + tokens, reduce_dim).

        Raises:
            ParameterError: views of another shape or type.
        """
        size = self.facts.image_size
        if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[1:] != (size, size, 3):
            raise ParameterError(
                f"Views must be uint8 (B, {size}, {size}, 3), not {pixels.dtype} {pixels.shape}."
            )
        batch = torch.from_numpy(np.require(pixels, requirements=["C", "W"])).to(self.device)
        values = batch.permute(0, 3, 1, 2).float() * self._scale + self._shift
        hidden = self._norm(self._embeddings(values, interpolate_pos_encoding=True))
        extracted: dict[int, Tensor] = {}
        for i, block in enumerate(self._blocks):
            hidden = block(hidden, None)
            if i in self._layers:
                extracted[i] = hidden
        # transformers hands the decoder the activations in the order of extract_layers, reversed
        return [
            reduce(extracted[layer])
            for reduce, layer in zip(self._decoder.reduces, reversed(self._layers), strict=True)
        ]

    @torch.inference_mode()
    def decode(self, reduced: list[Tensor], embeddings: Tensor) -> Tensor:
        """Decodes every image under every prompt.

        Args:
            reduced: what ``encode`` returned for B images.
            embeddings: float32 (P, projection_dim), not normalised.

        Returns:
            Logits, float32 (B, P, S, S).

        Raises:
            ParameterError: no prompts, a wrong width, or values that are not finite.
        """
        self.check_embeddings(embeddings)
        return torch.cat(list(self._decode_chunks(reduced, embeddings)), dim=1)

    def check_embeddings(self, embeddings: Tensor) -> None:
        """Raises ``ParameterError`` unless the embeddings are finite (P, projection_dim) with P >= 1."""
        width = self.facts.projection_dim
        if embeddings.ndim == 0 or len(embeddings) == 0:
            raise ParameterError("There are no prompts to segment by.", "Give at least one prompt.")
        if embeddings.ndim != 2 or embeddings.shape[1] != width:
            raise ParameterError(
                f"The embeddings have the shape {tuple(embeddings.shape)}; the model takes (P, {width}).",
                "Encode the prompts with the same model.",
            )
        if not bool(torch.isfinite(embeddings).all()):
            raise ParameterError("The embeddings hold values that are not finite.")

    def _decode_chunks(self, reduced: list[Tensor], embeddings: Tensor) -> Iterator[Tensor]:
        """Yields logits (B, p, S, S) of a few prompts at a time."""
        step = max(1, self.decode_chunk // max(1, reduced[0].shape[0]))
        for i in range(0, len(embeddings), step):
            yield self._decode_chunk(reduced, embeddings[i : i + step])

    @torch.inference_mode()
    def _decode_chunk(self, reduced: list[Tensor], embeddings: Tensor) -> Tensor:
        decoder = self._decoder
        images, prompts = reduced[0].shape[0], len(embeddings)
        embeddings = embeddings.to(self.device, torch.float32)
        # FiLM: (P, 1, R), to be broadcast over images and tokens
        gain, bias = decoder.film_mul(embeddings)[:, None], decoder.film_add(embeddings)[:, None]
        output = torch.zeros((), device=self.device)  # (B, 1 or P, tokens, R): one for all until FiLM
        for i, layer in enumerate(decoder.layers):
            output = reduced[i][:, None] + output
            if i == decoder.conditional_layer:
                output = gain * output + bias
            shape = output.shape
            output = layer(output.flatten(0, 1), attention_mask=None).view(shape)
        tokens = output.flatten(0, 1)[:, 1:].transpose(1, 2)  # without the class token
        side = round(tokens.shape[2] ** 0.5)
        grid = tokens.reshape(images * prompts, tokens.shape[1], side, side)
        logits: Tensor = decoder.transposed_convolution(grid)
        return logits.view(images, prompts, *logits.shape[-2:])

    def probabilities(self, pixels: NDArray[np.uint8], embeddings: Tensor) -> Iterator[NDArray[np.uint8]]:
        """Yields one uint8 (P, S, S) array an image: ``round(255 * sigmoid(logits))``.

        Logits exist for ``decode_chunk`` (image, prompt) pairs at a time, bytes for one image's prompts.

        Raises:
            ParameterError: as ``encode`` and ``decode``.
        """
        self.check_embeddings(embeddings)
        reduced = self.encode(pixels)
        together = max(1, self.decode_chunk // len(embeddings))  # images, where prompts are few
        for start in range(0, len(pixels), together):
            part = [activation[start : start + together] for activation in reduced]
            chunks = [_to_bytes(logits) for logits in self._decode_chunks(part, embeddings)]
            yield from np.concatenate(chunks, axis=1)


def _to_bytes(logits: Tensor) -> NDArray[np.uint8]:
    levels: NDArray[np.uint8] = (logits.sigmoid() * 255).round().to(torch.uint8).cpu().numpy()
    return levels
