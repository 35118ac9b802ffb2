"""From a prompt set to what its embeddings are made of, and to what must be the same for equal masks.

Everything that prompts refer to is read here, and nothing is encoded: no model is needed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipseg_kfp.engine.checkpoint import ModelFacts
from clipseg_kfp.errors import ClipsegKfpError, ParameterError
from clipseg_kfp.prompts.entries import Calibrated, Cleaning, Engineering, Otsu, StoredEmbedding, SupportImage
from clipseg_kfp.prompts.files import Files, calibrated_threshold, mask_like, picture, pictures_in
from clipseg_kfp.prompts.logic import Expression
from clipseg_kfp.prompts.sets import MAX_IMAGES, Defaults, Prompt, PromptSet, Source
from clipseg_kfp.prompts.support import engineer, region_of
from clipseg_kfp.prompts.templates import filled, sentences
from clipseg_kfp.prompts.vectors import read_vector

#: A mask over more than this share of its image may be one that marks nothing.
MUCH = 0.95


@dataclass(frozen=True)
class Ingredient:
    """One term of a prompt's embedding: a text or a picture to encode, or a vector.

    Attributes:
        weight: its factor; a prompt's weights add up to 1.
        text: to be encoded by the text tower.
        pixels: uint8 (S, S, 3), to be encoded by the vision tower.
        vector: float32 (D,), taken as it is.
        as_long_as_texts: scale the vector to the mean length of the model's text embeddings.
    """

    weight: float
    text: str | None = None
    pixels: NDArray[np.uint8] | None = None
    vector: NDArray[np.float32] | None = None
    as_long_as_texts: bool = False


@dataclass(frozen=True)
class Gathered:
    """A prompt with all that its masks depend on.

    Attributes:
        id: category number.
        prompt: as written.
        definition: JSON value that is equal where the masks are; digests stand for the content of files.
        ingredients: none for logic prompts.
        threshold: resolved; ``None`` for Otsu's method and for hidden prompts.
        otsu_minimum: the least threshold that Otsu's method may choose.
        cleaning: with the defaults of the set.
        instances: the same.
        expression: canonical text of a logic prompt.
        sources: URIs that were read, as written.
        notes: what is worth a second look.
    """

    id: int
    prompt: Prompt
    definition: dict[str, Any]
    ingredients: tuple[Ingredient, ...]
    threshold: float | None
    cleaning: Cleaning
    instances: bool
    expression: str | None
    sources: tuple[str, ...] = ()
    notes: tuple[str, ...] = field(default=())
    otsu_minimum: float = 0.0

    @property
    def otsu(self) -> bool:
        """Whether Otsu's method chooses the threshold of each map."""
        return self.threshold is None and not self.prompt.hidden


def gather(prompts: PromptSet, facts: ModelFacts, threshold: float, files: Files) -> Iterator[Gathered]:
    """Reads and prepares what the prompts need, one prompt at a time.

    Args:
        prompts: checked.
        facts: the model's image size, mean color and embedding width.
        threshold: the run's, for prompts without one.
        files: reads what they refer to.

    Raises:
        ParameterError: a file that cannot be used; names the prompt.
        StorageError: the store failed.
    """
    expressions = prompts.expressions()
    for place, (number, prompt) in enumerate(prompts.numbered(), start=1):
        with about(place, prompt):
            one = _Gathering(files, facts, prompts.defaults)
            yield one.prompt(prompt, place, number, threshold, prompts, expressions.get(prompt.name))


@contextmanager
def about(place: int, prompt: Prompt) -> Iterator[None]:
    """Puts a prompt's number and name before the message of an error."""
    try:
        yield
    except ClipsegKfpError as error:
        raise type(error)(
            f"prompts: prompt {place} ('{prompt.name}'): {error.message}", error.remedy
        ) from error


class _Gathering:
    """Collects the files and notes of one prompt on the way."""

    def __init__(self, files: Files, facts: ModelFacts, defaults: Defaults) -> None:
        self._files, self._facts, self._defaults = files, facts, defaults
        self._sources: list[str] = []
        self._notes: list[str] = []
        self._images = 0

    def prompt(
        self,
        prompt: Prompt,
        place: int,
        number: int,
        run_threshold: float,
        prompts: PromptSet,
        expression: Expression | None,
    ) -> Gathered:
        definition: dict[str, Any] = {"name": prompt.name}
        ingredients: list[Ingredient] = []
        if expression is not None:
            definition["logic"] = str(expression)
        elif prompt.mix:
            total = sum(part.weight for part in prompt.mix)
            parts = []
            for part in prompt.mix:
                said, made = self._source(part, part.weight / total)
                parts.append({**said, "weight": part.weight / total})
                ingredients += made
            definition["mix"] = parts
        else:
            said, ingredients = self._source(prompt, 1.0)
            definition |= said
        threshold, minimum = (None, 0.0) if prompt.hidden else self._threshold(prompt, run_threshold)
        cleaning = Cleaning() if prompt.hidden else prompts.cleaning_of(prompt)
        wanted = self._defaults.instances if prompt.instances is None else prompt.instances
        instances = wanted and not prompt.hidden
        if not prompt.hidden:
            otsu = {"otsu": {"minimum": minimum}} if minimum else "otsu"
            definition["threshold"] = otsu if threshold is None else threshold
        # What is as usual is left out, so that sets of plain texts keep their digests.
        if prompt.hidden:
            definition["hidden"] = True
        if number != place:
            definition["id"] = number
        if changed := {k: v for k, v in cleaning.model_dump().items() if v != getattr(Cleaning(), k)}:
            definition["cleaning"] = changed
        if instances:
            definition["instances"] = True
        return Gathered(
            number,
            prompt,
            definition,
            tuple(ingredients),
            threshold,
            cleaning,
            instances,
            None if expression is None else str(expression),
            tuple(self._sources),
            tuple(self._notes),
            minimum,
        )

    def _threshold(self, prompt: Prompt, run_threshold: float) -> tuple[float | None, float]:
        """The threshold, or ``None`` and the least that Otsu's method may choose."""
        wanted = prompt.threshold or self._defaults.threshold or run_threshold
        if isinstance(wanted, Calibrated):
            self._sources.append(wanted.calibrated)
            data = self._files.read(wanted.calibrated)
            return calibrated_threshold(data, wanted.calibrated, wanted.name or prompt.name), 0.0
        if isinstance(wanted, Otsu):
            return None, wanted.otsu.minimum
        return (None, 0.0) if wanted == "otsu" else (float(wanted), 0.0)

    def _source(self, source: Source, weight: float) -> tuple[dict[str, Any], list[Ingredient]]:
        """What a source is, for the digest, and what it is made of; ``weight`` is shared out."""
        if source.texts:
            return self._texts(source, weight)
        if source.embedding:
            return self._stored(source.embedding, weight)
        settings = source.engineering or self._defaults.engineering or Engineering()
        found = list(self._supports(source, settings))
        said = {"images": [said for said, _ in found], "engineering": settings.model_dump()}
        return said, [Ingredient(weight / len(found), pixels=pixels) for _, pixels in found]

    def _texts(self, source: Source, weight: float) -> tuple[dict[str, Any], list[Ingredient]]:
        templates = source.templates or self._defaults.templates
        texts = filled(source.texts, templates)
        said: dict[str, Any] = {"texts": list(source.texts)}
        if sentences(templates) != sentences(None):
            said["templates"] = list(sentences(templates))
        return said, [Ingredient(weight / len(texts), text=text) for text in texts]

    def _stored(self, stored: StoredEmbedding, weight: float) -> tuple[dict[str, Any], list[Ingredient]]:
        self._sources.append(stored.uri)
        vector = read_vector(self._files, stored, self._facts.projection_dim)
        length = float(np.linalg.norm(vector))
        said = {
            "vector": _sha256(vector.astype("<f4").tobytes()),
            "normalized": stored.normalized,
            "norm": stored.norm,
        }
        if not stored.normalized and abs(length - 1) < 1e-3:
            self._notes.append(
                f"the vector of '{stored.uri}' has length 1, though it is said not to be normalized"
            )
        if stored.normalized:
            if abs(length - 1) > 0.01:  # half-precision vectors are off by less
                raise ParameterError(
                    f"the vector in '{stored.uri}' has length {length:.3f}, and is said to be normalized.",
                    "Say normalized: false for raw projections.",
                )
            vector = vector / np.float32(length)
            if stored.norm != "text":
                vector = vector * np.float32(stored.norm)
        return {"embedding": said}, [
            Ingredient(weight, vector=vector, as_long_as_texts=stored.norm == "text")
        ]

    def _supports(
        self, source: Source, settings: Engineering
    ) -> Iterator[tuple[dict[str, Any], NDArray[np.uint8]]]:
        for support in source.images:
            self._sources += [uri for uri in (support.image, support.mask) if uri]
            mask = self._files.read(support.mask) if support.mask else None
            image = self._files.read(support.image)
            yield self._support(support.image, image, support.mask, mask, settings, support)
        if source.images_in:
            self._sources.append(source.images_in)
            folder = self._files.folder(source.images_in)
            for name, image, mask_name, mask in pictures_in(folder, MAX_IMAGES):
                yield self._support(name, image, mask_name, mask, settings)

    def _support(
        self,
        name: str,
        data: bytes,
        mask_name: str | None,
        mask: bytes | None,
        settings: Engineering,
        support: SupportImage | None = None,
    ) -> tuple[dict[str, Any], NDArray[np.uint8]]:
        self._images += 1
        if self._images > MAX_IMAGES:
            raise ParameterError(f"more than {MAX_IMAGES} support images.", "Choose the most typical ones.")
        image = picture(data, name)
        said: dict[str, Any] = {"image": _sha256(data)}
        region = None
        if mask is not None:
            region = mask_like(mask, str(mask_name), image)
            said["mask"] = _sha256(mask)
            if (share := float(region.mean())) > MUCH:
                self._notes.append(
                    f"the mask '{mask_name}' covers {share:.0%} of its image; the thing should be its bright or "
                    "opaque part"
                )
        elif support is not None and support.has_region:
            region = region_of(support, image.width, image.height)
            drawn = {"box": support.box, "polygons": support.polygons, "units": support.units}
            said |= {name: value for name, value in drawn.items() if value}
        size, mean = self._facts.image_size, self._facts.mean
        return said, engineer(image, region, settings, size, mean)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
