"""From a prompt set to what its embeddings are made of, and to what must be the same for equal masks.

Everything that prompts refer to is read here, and nothing is encoded: no model is needed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipseg_kfp.engine.checkpoint import ModelFacts
from clipseg_kfp.errors import ClipsegKfpError
from clipseg_kfp.prompts.entries import Calibrated, Cleaning, Engineering, Otsu, StoredEmbedding, SupportImage
from clipseg_kfp.prompts.files import Files, calibrated_threshold, mask_like, picture, pictures_in, unusable
from clipseg_kfp.prompts.logic import Expression
from clipseg_kfp.prompts.sets import MAX_IMAGES, Prompt, PromptSet, Source
from clipseg_kfp.prompts.support import engineer, region_of
from clipseg_kfp.prompts.table import Row, describe
from clipseg_kfp.prompts.templates import filled, sentences
from clipseg_kfp.prompts.vectors import read_vector

#: A mask over more than this share of its image may be one that marks nothing.
SUSPICIOUS_SHARE = 0.95


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


@dataclass(frozen=True, kw_only=True)
class ResolvedPrompt(Row):
    """A row of the prompt table, with what only its encoding needs.

    Attributes:
        ingredients: none for logic prompts.
        sources: URIs that were read, as written.
        notes: what is worth a second look.
    """

    ingredients: tuple[Ingredient, ...]
    sources: tuple[str, ...]
    notes: tuple[str, ...]


def gather(prompts: PromptSet, facts: ModelFacts, threshold: float, files: Files) -> Iterator[ResolvedPrompt]:
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
        with about(place, prompt.name):
            resolver = _Resolver(files, facts, prompts, threshold)
            yield resolver.resolve(prompt, place, number, expressions.get(prompt.name))


@contextmanager
def about(place: int, name: str) -> Iterator[None]:
    """Puts a prompt's number and name before the message of an error."""
    try:
        yield
    except ClipsegKfpError as error:
        raise error.within(f"prompts: prompt {place} ('{name}')", f"prompts[{place - 1}]") from error


#: What something is, for the digest; and what its embedding is made of.
_Made = tuple[dict[str, Any], list[Ingredient]]


class _Resolver:
    """Collects the files and notes of one prompt on the way."""

    def __init__(self, files: Files, facts: ModelFacts, prompts: PromptSet, threshold: float) -> None:
        self._files, self._facts, self._prompts, self._run_threshold = files, facts, prompts, threshold
        self._defaults = prompts.defaults
        self._sources: list[str] = []
        self._notes: list[str] = []
        self._images = 0

    def resolve(
        self, prompt: Prompt, place: int, number: int, expression: Expression | None
    ) -> ResolvedPrompt:
        definition: dict[str, Any] = {"name": prompt.name}
        ingredients: list[Ingredient] = []
        if expression is not None:
            definition["logic"] = str(expression)
        elif prompt.mix:
            total = sum(part.weight for part in prompt.mix)
            definition["mix"] = []
            for part in prompt.mix:
                weight = part.weight / total
                source, made = self._source(part, weight)
                definition["mix"].append({**source, "weight": weight})
                ingredients += made
        else:
            source, ingredients = self._source(prompt, 1.0)
            definition |= source
        threshold, minimum, cleaning, instances = None, 0.0, Cleaning(), False
        if not prompt.hidden:
            threshold, minimum = self._threshold(prompt)
            cleaning = self._prompts.cleaning_of(prompt)
            instances = self._defaults.instances if prompt.instances is None else prompt.instances
            otsu = {"otsu": {"minimum": minimum}} if minimum else "otsu"
            definition["threshold"] = otsu if threshold is None else threshold
        # What is as usual is left out, so that sets of plain texts keep their digests.
        if prompt.hidden:
            definition["hidden"] = True
        if number != place:
            definition["id"] = number
        if changed := cleaning.model_dump(exclude_defaults=True):
            definition["cleaning"] = changed
        if instances:
            definition["instances"] = True
        return ResolvedPrompt(
            name=prompt.name,
            id=number,
            kind=prompt.kind,
            description=describe(definition),
            texts=prompt.texts,
            threshold=threshold,
            otsu=threshold is None and not prompt.hidden,
            otsu_minimum=minimum,
            expression=None if expression is None else str(expression),
            hidden=prompt.hidden,
            cleaning=cleaning,
            instances=instances,
            definition=definition,
            ingredients=tuple(ingredients),
            sources=tuple(self._sources),
            notes=tuple(self._notes),
        )

    def _threshold(self, prompt: Prompt) -> tuple[float | None, float]:
        """The threshold, or ``None`` and the least that Otsu's method may choose."""
        threshold = prompt.threshold or self._defaults.threshold or self._run_threshold
        if isinstance(threshold, Calibrated):
            uri = threshold.calibrated
            self._sources.append(uri)
            return calibrated_threshold(self._files.read(uri), uri, threshold.name or prompt.name), 0.0
        if isinstance(threshold, Otsu):
            return None, threshold.otsu.minimum
        return (None, 0.0) if threshold == "otsu" else (float(threshold), 0.0)

    def _source(self, source: Source, weight: float) -> _Made:
        """Resolves a source; its terms share ``weight``."""
        if source.texts:
            return self._texts(source, weight)
        if source.embedding:
            return self._stored(source.embedding, weight)
        settings = source.engineering or self._defaults.engineering or Engineering()
        supports = list(self._supports(source, settings))
        definition = {"images": [image for image, _ in supports], "engineering": settings.model_dump()}
        return definition, [Ingredient(weight / len(supports), pixels=pixels) for _, pixels in supports]

    def _texts(self, source: Source, weight: float) -> _Made:
        templates = source.templates or self._defaults.templates
        texts = filled(source.texts, templates)
        definition: dict[str, Any] = {"texts": list(source.texts)}
        if sentences(templates) != sentences(None):
            definition["templates"] = list(sentences(templates))
        return definition, [Ingredient(weight / len(texts), text=text) for text in texts]

    def _stored(self, stored: StoredEmbedding, weight: float) -> _Made:
        self._sources.append(stored.uri)
        vector = read_vector(self._files, stored, self._facts.projection_dim)
        length = float(np.linalg.norm(vector))
        definition = {
            "vector": _sha256(vector.astype("<f4").tobytes()),
            "normalized": stored.normalized,
            "norm": stored.norm,
        }
        if not stored.normalized and abs(length - 1) < 1e-3:
            self._notes.append(f"the vector of '{stored.uri}' has length 1, but 'normalized' is false")
        if stored.normalized:
            if abs(length - 1) > 0.01:  # half-precision vectors are off by less
                problem = f"holds a vector of length {length:.3f}, but 'normalized' is true."
                remedy = "Set normalized: false for raw projections."
                raise unusable("vector_not_normalized", stored.uri, problem, remedy)
            vector = vector / np.float32(length)
            if stored.norm != "text":
                vector = vector * np.float32(stored.norm)
        scaled = Ingredient(weight, vector=vector, as_long_as_texts=stored.norm == "text")
        return {"embedding": definition}, [scaled]

    def _supports(
        self, source: Source, settings: Engineering
    ) -> Iterator[tuple[dict[str, Any], NDArray[np.uint8]]]:
        for support in source.images:
            self._sources += [uri for uri in (support.image, support.mask) if uri]
            mask = self._files.read(support.mask) if support.mask else None
            image = self._files.read(support.image)
            yield self._support(support, image, mask, settings)
        if source.images_in:
            self._sources.append(source.images_in)
            folder = self._files.folder(source.images_in)
            for name, image, mask_name, mask in pictures_in(folder, MAX_IMAGES):
                # Keys are data: they need not be what a person may write.
                support = SupportImage.model_construct(image=name, mask=mask_name)
                yield self._support(support, image, mask, settings)

    def _support(
        self, support: SupportImage, data: bytes, mask: bytes | None, settings: Engineering
    ) -> tuple[dict[str, Any], NDArray[np.uint8]]:
        self._images += 1
        if self._images > MAX_IMAGES:
            problem = f"is one more than the {MAX_IMAGES} support images that a prompt takes."
            raise unusable("support_images_too_many", support.image, problem, "Choose the most typical ones.")
        image = picture(data, support.image)
        definition: dict[str, Any] = {"image": _sha256(data)}
        region = None
        if mask is not None:
            region = mask_like(mask, str(support.mask), image)
            definition["mask"] = _sha256(mask)
            if (share := float(region.mean())) > SUSPICIOUS_SHARE:
                self._notes.append(
                    f"the mask '{support.mask}' covers {share:.0%} of its image; the thing should be its bright or "
                    "opaque part"
                )
        elif support.has_region:
            region = region_of(support, image.width, image.height)
            drawn = {"box": support.box, "polygons": support.polygons, "units": support.units}
            definition |= {name: value for name, value in drawn.items() if value}
        return definition, engineer(image, region, settings, self._facts.image_size, self._facts.mean)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
