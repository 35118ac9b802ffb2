"""Prompt sets: what to look for, as people write it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import Field, GetJsonSchemaHandler, field_validator, model_validator
from pydantic_core import CoreSchema

from clipseg_kfp.errors import ParameterError
from clipseg_kfp.prompts.entries import (
    ONE_REGION,
    Cleaning,
    Engineering,
    StoredEmbedding,
    Strict,
    SupportImage,
    Text,
    Threshold,
    Uri,
)
from clipseg_kfp.prompts.logic import Expression, check_names, logic_order, names_in, parse_logic
from clipseg_kfp.prompts.templates import Templates

MAX_PROMPTS = 1000
MAX_IMAGES = 100  # support images of one prompt
MAX_ID = 65_535  # what a 16-bit label map can hold

_ONE_IMAGE = ("mask", "box", "polygon", "polygons", "units")
_KINDS = ("text", "texts", "image", "images", "images_in", "embedding", "mix", "logic")
_TEXTS = {"type": "string", "minLength": 1, "maxLength": 1000}


class Source(Strict):
    """One way to say what to look for; it comes to one conditional embedding.

    Attributes:
        texts: one or more wordings; their embeddings are averaged.
        templates: sentences that the texts are put into.
        images: one or more support images; their embeddings are averaged.
        images_in: URI of a folder or prefix with support images.
        engineering: how support images are prepared.
        embedding: a vector from a file.
    """

    texts: Annotated[tuple[Text, ...], Field(min_length=1, max_length=100)] = Field(
        default=(), description="Wordings of one thing; their embeddings are averaged."
    )
    templates: Templates | None = Field(default=None, description="Sentences that the texts are put into.")
    images: Annotated[tuple[SupportImage, ...], Field(min_length=1, max_length=MAX_IMAGES)] = Field(
        default=(), description="Support images; their embeddings are averaged."
    )
    images_in: Uri | None = Field(
        default=None,
        description="URI of a folder of support images: images/x.jpg with masks/x.png, or images alone.",
    )
    engineering: Engineering | None = Field(default=None, description="How support images are prepared.")
    embedding: StoredEmbedding | None = Field(default=None, description="A vector from a file.")

    @model_validator(mode="before")
    @classmethod
    def _accept_short_forms(cls, value: Any) -> Any:
        if isinstance(value, str):
            value = {"texts": [value]}
        if not isinstance(value, dict):
            raise ValueError("a prompt is a text, or a mapping such as {name: cup, text: a cup}")
        return cls._expanded(dict(value))

    @classmethod
    def _expanded(cls, value: dict[str, Any]) -> dict[str, Any]:
        known = {*cls.model_fields, "text", "image"}
        given = [kind for kind in _KINDS if kind in known and value.get(kind) not in (None, (), [])]
        if len({kind.removesuffix("s") for kind in given}) > 1:  # said in the words that were written
            raise ValueError(cls._choice(f"'{given[0]}' and '{given[-1]}' exclude each other"))
        if "text" in value:
            if "texts" in value:
                raise ValueError("give 'text' or 'texts', not both")
            value["texts"] = [value.pop("text")]
        if "image" in value:
            if "images" in value:
                raise ValueError("give 'image' or 'images', not both")
            one = value.pop("image")
            one = dict(one) if isinstance(one, dict) else {"image": one}
            one.update({name: value.pop(name) for name in _ONE_IMAGE if name in value})
            value["images"] = [one]
        for name in _ONE_IMAGE:
            if name in value:
                beside = "each of 'images'" if "images" in value else "an 'image'"
                raise ValueError(f"'{name}' belongs to {beside}")
        for name in ("texts", "images"):
            if isinstance(value.get(name), str | dict) and (name != "texts" or isinstance(value[name], str)):
                value[name] = [value[name]]
        return value

    @model_validator(mode="after")
    def _one_source(self) -> Source:
        kinds = ["texts", "images", "images_in", "embedding", "mix", "logic"]
        given = [kind for kind in kinds if getattr(self, kind, None) not in (None, ())]
        if not given:
            raise ValueError(self._choice("nothing to look for"))
        if self.templates is not None and given != ["texts"]:
            raise ValueError("'templates' belong to texts")
        if self.engineering is not None and given[0] not in ("images", "images_in"):
            raise ValueError("'engineering' belongs to images")
        return self

    @classmethod
    def _choice(cls, problem: str) -> str:
        more = ", a mix or logic" if "mix" in cls.model_fields else ""
        return f"{problem}; give a text, an image, images_in, an embedding{more}: one of them"

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        """The full form and the short ones: a text alone, ``text``, ``image`` with its region beside it."""
        reference = handler(schema)
        definition = handler.resolve_ref_schema(reference)
        fields = definition["properties"]
        support = fields["images"]["items"]
        fields["texts"] = {"anyOf": [fields["texts"], _TEXTS], "description": fields["texts"]["description"]}
        fields["images"] = {
            "anyOf": [{k: v for k, v in fields["images"].items() if k != "default"}, support],
            "description": fields["images"]["description"],
        }
        fields["text"] = {**_TEXTS, "description": "What to look for, in words."}
        fields["image"] = {**support, "description": "One support image; mask, box or polygon beside it."}
        one = SupportImage.model_json_schema()["anyOf"][1]["properties"]
        fields |= {name: one[name] for name in _ONE_IMAGE}
        # Names of text prompts default to the text.
        definition["required"] = [name for name in definition.get("required", []) if name != "name"]
        definition["oneOf"] = [{"required": [kind]} for kind in _KINDS if kind in fields]
        definition["allOf"] = ONE_REGION
        definition["dependentRequired"] = {name: ["image"] for name in _ONE_IMAGE}
        if "name" in fields:
            definition["anyOf"] = [{"required": [source]} for source in ("text", "texts", "name")]
        full = dict(definition)
        definition.clear()
        definition["anyOf"] = [_TEXTS, full]
        return reference


class MixPart(Source):
    """A part of a mix.

    Attributes:
        weight: its share; the weights of a mix are scaled to a sum of 1.
    """

    weight: float = Field(default=1.0, gt=0, allow_inf_nan=False, description="Its share of the mix.")


class Prompt(Source):
    """One thing to look for.

    Attributes:
        name: what the results call it; unique in the set. Defaults to the first text.
        id: category number in the results, from 1; defaults to the place in the set.
        mix: a weighted mean of texts, images and embeddings.
        logic: an expression over other prompts.
        hidden: for use in logic only: it gets no masks of its own.
        threshold: from which probability a pixel belongs to the mask; ``None`` takes the run's.
        cleaning: what is done to the mask.
        instances: connected parts count as instances of the thing.
    """

    name: Annotated[str, Field(min_length=1, max_length=100)] = Field(
        description="What the results call it; the first text by default."
    )
    id: Annotated[int, Field(ge=1, le=MAX_ID)] | None = Field(
        default=None, description="Category number in the results; the place in the set by default."
    )
    mix: Annotated[tuple[MixPart, ...], Field(min_length=2, max_length=20)] | None = Field(
        default=None, description="A weighted mean of texts, images and embeddings."
    )
    logic: Annotated[str, Field(min_length=1, max_length=1000)] | None = Field(
        default=None, description='An expression over other prompts: cup and not "red handle".'
    )
    hidden: bool = Field(default=False, description="For use in logic only: no masks of its own.")
    threshold: Threshold | None = Field(
        default=None, description="From which probability a pixel belongs to the mask; the run's by default."
    )
    cleaning: Cleaning | None = Field(default=None, description="What is done to the mask.")
    instances: bool | None = Field(
        default=None, description="Connected parts count as instances of the thing."
    )

    @classmethod
    def _expanded(cls, value: dict[str, Any]) -> dict[str, Any]:
        value = super()._expanded(value)
        texts = value.get("texts")
        if "name" not in value and isinstance(texts, list | tuple) and texts:
            value["name"] = texts[0]
        return value

    @field_validator("name")
    @classmethod
    def _one_line(cls, value: str) -> str:
        if not value.isprintable():
            raise ValueError("the name has control characters")
        return value

    @model_validator(mode="after")
    def _hidden_has_no_masks(self) -> Prompt:
        for name in ("threshold", "cleaning", "instances") if self.hidden else ():
            if getattr(self, name) is not None:
                raise ValueError(f"a hidden prompt has no masks, so '{name}' has no effect on it")
        return self

    @property
    def kind(self) -> str:
        """``text``, ``image``, ``embedding``, ``mix`` or ``logic``."""
        if self.texts:
            return "text"
        if self.images or self.images_in:
            return "image"
        return "embedding" if self.embedding else "mix" if self.mix else "logic"


class Defaults(Strict):
    """What holds for every prompt of the set that does not say otherwise."""

    templates: Templates | None = Field(default=None, description="For texts.")
    engineering: Engineering | None = Field(default=None, description="For support images.")
    threshold: Threshold | None = Field(default=None, description="Before the run's.")
    cleaning: Cleaning | None = Field(default=None, description="Field by field.")
    instances: bool = Field(default=False, description="Connected parts count as instances.")


class PromptSet(Strict):
    """The prompts of a run, in order.

    Raises:
        ParameterError: logic that cannot be read, names nothing, or goes in a circle.
    """

    version: Annotated[int, Field(ge=1, le=1)] = Field(default=1, description="Of this format.")
    defaults: Defaults = Field(
        default=Defaults(), description="What holds for every prompt that does not say otherwise."
    )
    prompts: Annotated[tuple[Prompt, ...], Field(min_length=1, max_length=MAX_PROMPTS)]

    @model_validator(mode="before")
    @classmethod
    def _without_schema(cls, value: Any) -> Any:
        """Editors find the JSON Schema by this key."""
        return {k: v for k, v in value.items() if k != "$schema"} if isinstance(value, dict) else value

    @model_validator(mode="after")
    def _names_and_ids_differ(self) -> PromptSet:
        names: dict[str, int] = {}
        ids: dict[int, int] = {}
        for i, prompt in enumerate(self.prompts, start=1):
            first = names.setdefault(prompt.name, i)
            if first != i:
                raise ValueError(f"prompts {first} and {i} have the same name '{prompt.name}'")
            first = ids.setdefault(prompt.id or i, i)
            if first != i:
                raise ValueError(
                    f"prompts {first} and {i} have the same id {prompt.id or i}; give each its own"
                )
        return self

    @model_validator(mode="after")
    def _logic_holds(self) -> PromptSet:
        used = {name for expression in self.expressions().values() for name in names_in(expression)}
        for i, prompt in enumerate(self.prompts, start=1):
            if prompt.hidden and prompt.name not in used:
                raise ValueError(f"prompt {i} ('{prompt.name}'): it is hidden, and no logic uses it")
        if all(prompt.hidden for prompt in self.prompts):
            raise ValueError("all prompts are hidden: there would be no masks")
        self.order()
        return self

    def expressions(self) -> dict[str, Expression]:
        """The parsed expressions of the logic prompts, by name, in the order of the set."""
        found = {}
        for i, prompt in enumerate(self.prompts, start=1):
            if prompt.logic is not None:
                try:
                    found[prompt.name] = parse_logic(prompt.logic)
                    check_names(found[prompt.name], (other.name for other in self.prompts))
                except ParameterError as error:
                    about = f"prompt {i} ('{prompt.name}'), field 'logic': {error.message}"
                    raise ParameterError(about, error.remedy) from None
        return found

    def order(self) -> list[str]:
        """Names of the logic prompts, each after those that it uses."""
        return logic_order(self.expressions())

    def numbered(self) -> Iterator[tuple[int, Prompt]]:
        """Yields every prompt with its category number."""
        for i, prompt in enumerate(self.prompts, start=1):
            yield prompt.id or i, prompt

    def cleaning_of(self, prompt: Prompt) -> Cleaning:
        """The prompt's cleaning, its gaps filled from the defaults."""
        chain = [part for part in (self.defaults.cleaning, prompt.cleaning) if part is not None]
        fields = {name: getattr(part, name) for part in chain for name in part.model_fields_set}
        return Cleaning(**fields)
