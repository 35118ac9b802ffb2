"""Prompt sets: what to look for, as people write it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import BeforeValidator, ConfigDict, Field, field_validator, model_validator

from clipseg_kfp.errors import ParameterError
from clipseg_kfp.prompts.entries import (
    ONE_REGION,
    REGIONS,
    Cleaning,
    EngineeringEntry,
    ImageEntry,
    StoredEmbedding,
    Strict,
    Text,
    Threshold,
    Uri,
    WrittenSupportImage,
    mistake,
)
from clipseg_kfp.prompts.logic import Expression, check_names, logic_order, names_in, parse_logic
from clipseg_kfp.prompts.templates import Templates

MAX_PROMPTS = 1000
MAX_IMAGES = 100  # support images of one prompt
MAX_ID = 65_535  # what a 16-bit label map can hold

#: Fields of a support image that may stand beside ``image``.
BESIDE_IMAGE = (*REGIONS, "units")
_SOURCES = ("text", "texts", "image", "images", "images_in", "embedding")
_KINDS = (*_SOURCES, "mix", "logic")


_Texts = Annotated[tuple[Text, ...], Field(min_length=1, max_length=100)]
_Images = Annotated[tuple[ImageEntry, ...], Field(min_length=1, max_length=MAX_IMAGES)]


def _text_listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _image_listed(value: Any) -> Any:
    return [value] if isinstance(value, str | dict) else value


class Source(Strict):
    """One way to say what to look for; it comes to one conditional embedding."""

    texts: Annotated[_Texts, BeforeValidator(_text_listed, json_schema_input_type=_Texts | Text)] = Field(
        default=(), description="Wordings of one thing; their embeddings are averaged."
    )
    templates: Templates | None = Field(default=None, description="Sentences that the texts are put into.")
    images: Annotated[
        _Images, BeforeValidator(_image_listed, json_schema_input_type=_Images | ImageEntry)
    ] = Field(default=(), description="Support images; their embeddings are averaged.")
    images_in: Uri | None = Field(
        default=None,
        description="URI of a folder of support images: images/x.jpg with masks/x.png, or images alone.",
    )
    engineering: EngineeringEntry | None = Field(default=None, description="How support images are prepared.")
    embedding: StoredEmbedding | None = Field(default=None, description="A vector from a file.")

    @classmethod
    def expanded(cls, value: Any) -> Any:
        """Brings an entry from a short form to the full one."""
        if isinstance(value, cls):
            return value
        if isinstance(value, str):
            value = {"texts": [value]}
        if not isinstance(value, dict):
            raise mistake("prompt_type", "a prompt is a text, or a mapping such as {name: cup, text: a cup}")
        value = dict(value)
        known = {*cls.model_fields, "text", "image"}
        given = [kind for kind in _KINDS if kind in known and value.get(kind) not in (None, (), [])]
        if len({kind.removesuffix("s") for kind in given}) > 1:  # in the words that were written
            raise cls._choice("prompt_kind_twice", f"'{given[0]}' and '{given[-1]}' exclude each other")
        for short in ("text", "image"):
            if short in value and f"{short}s" in value:
                raise mistake("prompt_kind_twice", f"give '{short}' or '{short}s', not both")
        if "text" in value:
            value["texts"] = [value.pop("text")]
        if "image" in value:
            image = value.pop("image")
            image = dict(image) if isinstance(image, dict) else {"image": image}
            value["images"] = [image | {name: value.pop(name) for name in BESIDE_IMAGE if name in value}]
        if misplaced := next((name for name in BESIDE_IMAGE if name in value), None):
            owner = "each of 'images'" if "images" in value else "an 'image'"
            raise mistake("field_misplaced", f"'{misplaced}' belongs to {owner}")
        return value

    @model_validator(mode="after")
    def _one_source(self) -> Source:
        given = [kind for kind in _KINDS if getattr(self, kind, None)]
        if not given:
            raise self._choice("prompt_kind_missing", "there is nothing to look for")
        if self.templates is not None and given != ["texts"]:
            raise mistake("field_misplaced", "'templates' belong to texts")
        if self.engineering is not None and given[0] not in ("images", "images_in"):
            raise mistake("field_misplaced", "'engineering' belongs to images")
        return self

    @classmethod
    def _choice(cls, code: Any, problem: str) -> Exception:
        more = ", a mix or logic" if "mix" in cls.model_fields else ""
        return mistake(code, f"{problem}; give one of a text, an image, images_in, an embedding{more}")


class _ShortForms(WrittenSupportImage):
    """What an entry may have in place of a full field: a text, or an image with its region beside it."""

    text: Text = Field(default="", description="What to look for, in words.")
    image: ImageEntry = Field(
        default="", description="One support image; mask, box or polygon may stand beside it."
    )  # type: ignore[assignment]


def _one_of(kinds: tuple[str, ...], **rules: Any) -> ConfigDict:
    """The JSON Schema's rules between the fields of an entry."""
    return ConfigDict(
        json_schema_extra={
            "oneOf": [{"required": [kind]} for kind in kinds],
            "allOf": [*ONE_REGION],
            "dependentRequired": {name: ["image"] for name in BESIDE_IMAGE},
            **rules,
        }
    )


class MixPart(Source):
    """A part of a mix."""

    weight: float = Field(
        default=1.0, gt=0, allow_inf_nan=False, description="Its share of the mix; the sum is scaled to 1."
    )


class WrittenMixPart(_ShortForms, MixPart):
    """A part of a mix."""

    model_config = _one_of(_SOURCES)


MixEntry = Annotated[MixPart, BeforeValidator(MixPart.expanded, json_schema_input_type=Text | WrittenMixPart)]
_Name = Annotated[str, Field(min_length=1, max_length=100)]


class Prompt(Source):
    """One thing to look for."""

    name: _Name = Field(description="What the results call it; unique in the set.")
    id: Annotated[int, Field(ge=1, le=MAX_ID)] | None = Field(
        default=None, description="Category number in the results; the place in the set by default."
    )
    mix: Annotated[tuple[MixEntry, ...], Field(min_length=2, max_length=20)] | None = Field(
        default=None, description="A weighted mean of texts, images and embeddings."
    )
    logic: Text | None = Field(
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
    def expanded(cls, value: Any) -> Any:
        """As for every source; the name defaults to the first text."""
        value = super().expanded(value)
        texts = value.get("texts") if isinstance(value, dict) else None
        if texts and isinstance(texts, str | list | tuple):
            value.setdefault("name", texts if isinstance(texts, str) else texts[0])
        return value

    @field_validator("name")
    @classmethod
    def _one_line(cls, value: str) -> str:
        if not value.isprintable():
            raise mistake("name_unprintable", "the name has control characters")
        return value

    @model_validator(mode="after")
    def _hidden_has_no_masks(self) -> Prompt:
        for name in ("threshold", "cleaning", "instances") if self.hidden else ():
            if getattr(self, name) is not None:
                raise mistake(
                    "field_misplaced", f"a hidden prompt has no masks, so '{name}' has no effect on it"
                )
        return self

    @property
    def kind(self) -> str:
        """``text``, ``image``, ``embedding``, ``mix`` or ``logic``."""
        if self.texts:
            return "text"
        if self.images or self.images_in:
            return "image"
        return "embedding" if self.embedding else "mix" if self.mix else "logic"


class WrittenPrompt(_ShortForms, Prompt):
    """One thing to look for."""

    model_config = _one_of(_KINDS, anyOf=[{"required": [name]} for name in ("text", "texts", "name")])

    name: _Name = Field(default="", description="What the results call it; the first text by default.")


#: A prompt, or its text.
PromptEntry = Annotated[Prompt, BeforeValidator(Prompt.expanded, json_schema_input_type=Text | WrittenPrompt)]


class Defaults(Strict):
    """What holds for every prompt of the set that does not say otherwise."""

    templates: Templates | None = Field(default=None, description="For texts.")
    engineering: EngineeringEntry | None = Field(default=None, description="For support images.")
    threshold: Threshold | None = Field(default=None, description="Before the run's.")
    cleaning: Cleaning | None = Field(default=None, description="Field by field.")
    instances: bool = Field(default=False, description="Connected parts count as instances.")


class PromptSet(Strict):
    """The prompts of a run, in order.

    Raises:
        ParameterError: logic that cannot be read, names an unknown prompt, or goes in a circle.
    """

    schema_uri: str = Field(
        default="", alias="$schema", exclude=True, description="Where editors find the JSON Schema."
    )
    version: Annotated[int, Field(ge=1, le=1)] = Field(default=1, description="Of this format.")
    defaults: Defaults = Field(
        default=Defaults(), description="What holds for every prompt that does not say otherwise."
    )
    prompts: Annotated[tuple[PromptEntry, ...], Field(min_length=1, max_length=MAX_PROMPTS)]

    @model_validator(mode="after")
    def _names_and_ids_differ(self) -> PromptSet:
        for field, code in (("name", "name_taken"), ("id", "id_taken")):
            places: dict[Any, int] = {}
            for i, prompt in enumerate(self.prompts, start=1):
                value = getattr(prompt, field) or i
                if (first := places.setdefault(value, i)) != i:
                    message = f"prompts {first} and {i} have the same {field} '{value}'"
                    raise mistake(code, message, f"prompts[{i - 1}].{field}")
        return self

    @model_validator(mode="after")
    def _logic_holds(self) -> PromptSet:
        expressions = self.expressions()
        used = {name for expression in expressions.values() for name in names_in(expression)}
        for i, prompt in enumerate(self.prompts, start=1):
            if prompt.hidden and prompt.name not in used:
                message = f"prompt {i} ('{prompt.name}') is hidden, and no logic uses it"
                raise mistake("hidden_unused", message, f"prompts[{i - 1}].hidden")
        if all(prompt.hidden for prompt in self.prompts):
            raise mistake("all_hidden", "all prompts are hidden, so there would be no masks")
        logic_order(expressions)
        return self

    def expressions(self) -> dict[str, Expression]:
        """The parsed expressions of the logic prompts, by name, in the order of the set."""
        expressions = {}
        names = [prompt.name for prompt in self.prompts]
        for i, prompt in enumerate(self.prompts):
            if prompt.logic is not None:
                try:
                    expressions[prompt.name] = parse_logic(prompt.logic)
                    check_names(expressions[prompt.name], names)
                except ParameterError as error:
                    place = f"prompt {i + 1} ('{prompt.name}'), logic"
                    raise error.within(place, f"prompts[{i}].logic") from None
        return expressions

    def numbered(self) -> Iterator[tuple[int, Prompt]]:
        """Yields every prompt with its category number."""
        for i, prompt in enumerate(self.prompts, start=1):
            yield prompt.id or i, prompt

    def cleaning_of(self, prompt: Prompt) -> Cleaning:
        """The prompt's cleaning, its gaps filled from the defaults."""
        chain = [part for part in (self.defaults.cleaning, prompt.cleaning) if part is not None]
        fields = {name: getattr(part, name) for part in chain for name in part.model_fields_set}
        return Cleaning(**fields)
