"""Prompt sets: what to look for, as people write it, checked before any work begins."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from clipseg_kfp import records
from clipseg_kfp.errors import ParameterError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from transformers import CLIPSegForImageSegmentation, CLIPTokenizer

MAX_PROMPTS = 1000
#: Keys that the file format keeps for prompts other than text.
RESERVED = ("image", "mask", "box", "polygon", "embedding", "mix", "logic", "templates")

Text = Annotated[str, Field(min_length=1, max_length=1000)]


class Prompt(BaseModel):
    """One thing to look for.

    Attributes:
        name: what the results call it; unique in the set. Defaults to the first text.
        texts: one or more wordings; their embeddings are averaged.
        threshold: probability from which a pixel belongs to the mask; ``None`` takes the run's.
    """

    model_config = ConfigDict(extra="forbid", str_strip_whitespace=True, frozen=True)

    name: Annotated[str, Field(min_length=1, max_length=100)]
    texts: Annotated[tuple[Text, ...], Field(min_length=1, max_length=100)]
    threshold: Annotated[float, Field(gt=0, lt=1)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _accept_short_forms(cls, value: Any) -> Any:
        if isinstance(value, str):
            value = {"texts": [value]}
        if not isinstance(value, dict):
            raise ValueError("a prompt is a text, or a mapping with 'name' and 'texts'")
        value = dict(value)
        for key in RESERVED:
            if key in value:
                raise ValueError(f"'{key}' prompts are not supported by this version; use 'texts'")
        if "text" in value:
            if "texts" in value:
                raise ValueError("give 'text' or 'texts', not both")
            value["texts"] = [value.pop("text")]
        if isinstance(value.get("texts"), str):
            value["texts"] = [value["texts"]]
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


class PromptSet(BaseModel):
    """The prompts of a run, in the order of their category ids (1, 2, …)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Annotated[int, Field(ge=1, le=1)] = 1
    prompts: Annotated[tuple[Prompt, ...], Field(min_length=1, max_length=MAX_PROMPTS)]

    @model_validator(mode="after")
    def _names_differ(self) -> PromptSet:
        seen: dict[str, int] = {}
        for i, prompt in enumerate(self.prompts, start=1):
            first = seen.setdefault(prompt.name, i)
            if first != i:
                raise ValueError(f"prompts {first} and {i} have the same name '{prompt.name}'")
        return self


def check_threshold(threshold: float) -> None:
    """Raises ``ParameterError`` unless a run's threshold lies between 0 and 1."""
    if not 0 < threshold < 1:
        raise ParameterError(
            f"threshold is {threshold}; it is a probability.", "Give a number between 0 and 1."
        )


def parse_prompts(value: Any, where: str = "prompts") -> PromptSet:
    """Checks a list of prompts (texts or mappings), or a mapping with a ``prompts`` list.

    Args:
        value: parsed JSON or YAML.
        where: what to call it in messages: a parameter or a file.

    Raises:
        ParameterError: names the entry and the field.
    """
    if isinstance(value, str) and value:
        value = [value]
    if isinstance(value, list | tuple):
        value = {"prompts": value}
    if value in (None, "", {}) or (isinstance(value, dict) and value.get("prompts", ...) in (None, [], ())):
        raise ParameterError(
            f"{where}: the list of prompts is empty.", 'Give at least one, such as ["a cat"].'
        )
    if not isinstance(value, dict):
        raise ParameterError(
            f"{where}: a list of prompts is needed, not {type(value).__name__}.",
            'Write it as ["a cat", "a cup"].',
        )
    try:
        return PromptSet.model_validate(value)
    except ValidationError as error:
        raise ParameterError(f"{where}: {_first_problem(error)}.") from error


def _first_problem(error: ValidationError) -> str:
    problem = error.errors(include_url=False)[0]
    message = problem["msg"].removeprefix("Value error, ")
    match problem["loc"]:
        case ("prompts",) if problem["type"] == "too_long":
            return f"{problem['ctx']['actual_length']:,} prompts are more than {MAX_PROMPTS:,}"
        case ("prompts", int(i), "texts", int(j), *_):
            return f"prompt {i + 1}, text {j + 1}: {message}"
        case ("prompts", int(i), field, *_):
            return f"prompt {i + 1}, field '{field}': {message}"
        case ("prompts", int(i)):
            return f"prompt {i + 1}: {message}"
        case (field, *_):
            return f"field '{field}': {message}"
    return message


def read_prompts(data: bytes, where: str) -> PromptSet:
    """Parses the bytes of a JSON or YAML prompt file.

    Raises:
        ParameterError: not JSON or YAML, or not a prompt set; names the file.
    """
    try:
        value = _parse(data.decode("utf-8-sig"))
    except Exception as error:  # yaml's own errors, and what its constructors pass on of odd scalars
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ParameterError(f"{where} is neither JSON nor YAML: {reason}.") from error
    return parse_prompts(value, where)


def _parse(text: str) -> Any:
    # Most JSON is YAML, but not all: PyYAML refuses tabs between tokens, and splits escaped emoji in two.
    try:
        return json.loads(text)
    except ValueError:
        return yaml.safe_load(text)


def split_prompt_text(text: str) -> list[Any]:
    """Reads prompts from one line: a JSON list, or texts with commas between.

    >>> split_prompt_text("a cat, a cup")
    ['a cat', 'a cup']
    """
    if text.lstrip().startswith("["):
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            shown = text if len(text) <= 100 else f"{text[:100]}…"
            raise ParameterError(f"prompts: {error} in {shown!r}.", 'Write ["a cat", "a cup"].') from error
        return list(value)
    return [part.strip() for part in text.split(",") if part.strip()]


def embed_texts(
    prompts: PromptSet, model: CLIPSegForImageSegmentation, tokenizer: CLIPTokenizer
) -> NDArray[np.float32]:
    """Encodes every prompt: the text projection, not normalised; several texts are averaged.

    Returns:
        float32 (P, projection_dim).

    Raises:
        ParameterError: a text longer than the model reads.
    """
    import torch

    config: Any = model.config
    limit = config.text_config.max_position_embeddings
    rows = []
    for i, prompt in enumerate(prompts.prompts, start=1):
        texts = list(prompt.texts)
        tokens = tokenizer(texts, padding=True, return_tensors="pt")
        if tokens["input_ids"].shape[1] > limit:
            raise ParameterError(
                f"prompts: prompt {i} ('{prompt.name}'): a text has {tokens['input_ids'].shape[1]} tokens; "
                f"this model reads {limit}.",
                "Shorten it.",
            )
        with torch.inference_mode():
            features = model.clip.get_text_features(**tokens).pooler_output
        rows.append(features.mean(dim=0).numpy())
    return np.stack(rows).astype(np.float32)


def write_table(path: Path, prompts: PromptSet, embeddings: NDArray[np.float32]) -> None:
    """Writes the prompt table that inference works from."""
    records.write_parquet(
        path,
        records.PROMPTS,
        (
            {
                "name": prompt.name,
                "texts": list(prompt.texts),
                "threshold": prompt.threshold,
                "embedding": embedding.tolist(),
            }
            for prompt, embedding in zip(prompts.prompts, embeddings, strict=True)
        ),
    )


def read_table(path: Path) -> tuple[PromptSet, NDArray[np.float32]]:
    """The opposite of ``write_table``."""
    rows = list(records.read_parquet(path))
    prompts = PromptSet(
        prompts=tuple(
            Prompt(name=row["name"], texts=tuple(row["texts"]), threshold=row["threshold"]) for row in rows
        )
    )
    return prompts, np.array([row["embedding"] for row in rows], dtype=np.float32)
