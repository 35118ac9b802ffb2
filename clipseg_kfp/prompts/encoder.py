"""Encodes what prompts are made of with a CLIPSeg's own towers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from clipseg_kfp.errors import ParameterError
from clipseg_kfp.prompts.definitions import Ingredient, ResolvedPrompt, about
from clipseg_kfp.prompts.sets import PromptSet
from clipseg_kfp.prompts.templates import filled

if TYPE_CHECKING:
    from transformers import CLIPSegForImageSegmentation, CLIPTokenizer

    from clipseg_kfp.engine.checkpoint import ModelFacts

TEXTS_AT_ONCE, IMAGES_AT_ONCE = 64, 8
#: Their mean length is what ``norm: text`` stands for.
COMMON_THINGS = (
    "a person", "a car", "a dog", "a cat", "a tree", "a house", "a chair", "a table", "a cup", "a bottle",
    "a book", "a flower", "a bird", "a road", "the sky", "water", "grass", "a wall", "a window", "food",
)  # fmt: skip


class Encoder:
    """The two towers that embed prompts.

    Args:
        model: loaded in float32, whole.
        facts: the color mean and deviation of its input.
        tokenizer: loads the tokenizer; called for the first text.
    """

    def __init__(
        self, model: CLIPSegForImageSegmentation, facts: ModelFacts, tokenizer: Callable[[], CLIPTokenizer]
    ) -> None:
        self._model, self._facts, self._load_tokenizer = model, facts, tokenizer
        config: Any = model.config
        self.width = int(config.projection_dim)
        self._limit = int(config.text_config.max_position_embeddings)

    @cached_property
    def _tokenizer(self) -> CLIPTokenizer:
        return self._load_tokenizer()

    def check(self, text: str) -> None:
        """Raises ``ParameterError`` for a text longer than the model reads."""
        _check_length(text, self._tokenizer, self._limit)

    def texts(self, texts: list[str]) -> NDArray[np.float32]:
        """Text projections, not normalized: float32 (N, D)."""
        import torch

        tokens = self._tokenizer(texts, padding=True, return_tensors="pt")
        with torch.inference_mode():
            features: Any = self._model.clip.get_text_features(**tokens)
        return np.asarray(features.pooler_output.numpy(), np.float32)

    def images(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Image projections, not normalized, of all blocks of the vision tower.

        Args:
            pixels: uint8 (N, S, S, 3).

        Returns:
            float32 (N, D): what transformers makes of ``conditional_pixel_values``.
        """
        import torch

        mean, std = np.array(self._facts.mean, np.float32), np.array(self._facts.std, np.float32)
        values = (pixels.astype(np.float32) / np.float32(255) - mean) / std
        with torch.inference_mode():
            features: Any = self._model.clip.get_image_features(
                torch.from_numpy(np.ascontiguousarray(values.transpose(0, 3, 1, 2)))
            )
        return np.asarray(features.pooler_output.numpy(), np.float32)

    @cached_property
    def text_length(self) -> float:
        """The mean length of the model's embeddings of some common things."""
        return float(np.linalg.norm(self.texts(list(COMMON_THINGS)), axis=1).mean())


def _check_length(text: str, tokenizer: CLIPTokenizer, limit: int) -> None:
    count = len(tokenizer(text)["input_ids"])
    if count > limit:
        raise ParameterError(
            f"a text has {count} tokens; this model reads {limit}.", "Shorten it.", code="text_too_long"
        )


def check_texts(prompts: PromptSet, checkpoint: Path) -> None:
    """Counts the tokens of all texts, in all their sentences; only the tokenizer is loaded.

    Raises:
        ModelError: the checkpoint's tokenizer cannot be loaded.
        ParameterError: a text longer than the model reads; names the prompt.
    """
    from clipseg_kfp.engine.checkpoint import load_tokenizer, text_length

    tokenizer, limit = load_tokenizer(checkpoint), text_length(checkpoint)
    for place, prompt in enumerate(prompts.prompts, start=1):
        with about(place, prompt.name):
            for source in (prompt, *(prompt.mix or ())):
                for text in filled(source.texts, source.templates or prompts.defaults.templates):
                    _check_length(text, tokenizer, limit)


class _Sums:
    """Weighted sums of embeddings, encoded a batch at a time."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._sums: list[NDArray[np.float64]] = []
        self._texts: list[tuple[int, Ingredient]] = []
        self._images: list[tuple[int, Ingredient]] = []

    def add(self, ingredients: Iterable[Ingredient]) -> None:
        row = len(self._sums)
        self._sums.append(np.zeros(self._encoder.width))
        for term in ingredients:
            if term.vector is not None:
                factor = self._encoder.text_length if term.as_long_as_texts else 1.0
                self._sums[row] += term.weight * factor * term.vector.astype(np.float64)
            elif term.pixels is not None:
                self._images.append((row, term))
            else:
                self._encoder.check(str(term.text))
                self._texts.append((row, term))
            self._encode(TEXTS_AT_ONCE, IMAGES_AT_ONCE)

    def _encode(self, texts: int, images: int) -> None:
        """Encodes what waits, if there are at least this many."""
        if self._texts and len(self._texts) >= texts:
            self._settle(self._texts, self._encoder.texts([str(term.text) for _, term in self._texts]))
        if self._images and len(self._images) >= images:
            pixels = [term.pixels for _, term in self._images if term.pixels is not None]
            self._settle(self._images, self._encoder.images(np.stack(pixels)))

    def _settle(self, waiting: list[tuple[int, Ingredient]], features: NDArray[np.float32]) -> None:
        for (row, term), feature in zip(waiting, features, strict=True):
            self._sums[row] += term.weight * feature.astype(np.float64)
        waiting.clear()

    def finish(self) -> NDArray[np.float32]:
        self._encode(0, 0)
        rows = np.stack(self._sums) if self._sums else np.zeros((0, self._encoder.width))
        return rows.astype(np.float32)


def encode(
    gathered: Iterable[ResolvedPrompt], encoder: Encoder
) -> tuple[list[ResolvedPrompt], NDArray[np.float32]]:
    """Encodes prompts as they are gathered, in batches.

    Args:
        gathered: all prompts of a set, in order.
        encoder: of the model that will segment.

    Returns:
        The prompts, without what their embeddings were made of; and the embeddings of all but logic prompts,
        float32 (B, D), in the same order.

    Raises:
        ParameterError: a text longer than the model reads; or what ``gathered`` raises.
    """
    sums, rows = _Sums(encoder), []
    for place, resolved in enumerate(gathered, start=1):
        if resolved.expression is None:
            with about(place, resolved.name):
                sums.add(resolved.ingredients)
        rows.append(replace(resolved, ingredients=()))  # pictures take memory
    return rows, sums.finish()
