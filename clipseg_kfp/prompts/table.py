"""The prompt table: what later steps need to know of the prompts."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from clipseg_kfp import records
from clipseg_kfp.prompts.entries import Cleaning
from clipseg_kfp.prompts.logic import Map, evaluate, logic_order, parse_logic

if TYPE_CHECKING:
    from clipseg_kfp.prompts.definitions import ResolvedPrompt


@dataclass(frozen=True)
class Row:
    """One prompt of the table.

    Attributes:
        name: unique.
        id: category number in the results, from 1.
        kind: ``text``, ``image``, ``embedding``, ``mix`` or ``logic``.
        description: what it was made of, for people.
        texts: of a text prompt; empty for others.
        threshold: probability from which a pixel belongs to the mask; ``None`` for Otsu's method and hidden
            prompts.
        otsu: Otsu's method chooses the threshold of each map.
        expression: of a logic prompt.
        hidden: no masks of its own.
        cleaning: what is done to its masks.
        instances: connected parts count as instances.
        definition: JSON value that is equal where the masks are; digests stand for the content of files.
        otsu_minimum: the least threshold that Otsu's method may choose.
    """

    name: str
    id: int
    kind: str
    description: str
    texts: tuple[str, ...]
    threshold: float | None
    otsu: bool
    expression: str | None
    hidden: bool
    cleaning: Cleaning
    instances: bool
    definition: dict[str, Any]
    otsu_minimum: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """For manifests and the configuration file: equal for equal configurations."""
        value = {field.name: getattr(self, field.name) for field in fields(Row)}
        return {**value, "texts": list(self.texts), "cleaning": self.cleaning.model_dump()}


class PromptTable(NamedTuple):
    """All prompts of a run, with the embeddings of those that have one.

    Attributes:
        rows: in the order of the set.
        embeddings: float32 (B, D), a row for each of ``base``, in order: what the engine decodes.
    """

    rows: tuple[Row, ...]
    embeddings: NDArray[np.float32]

    @property
    def base(self) -> tuple[Row, ...]:
        """The prompts with embeddings: the maps that inference makes, in order."""
        return tuple(row for row in self.rows if row.expression is None)

    @property
    def outputs(self) -> tuple[Row, ...]:
        """The prompts that get masks."""
        return tuple(row for row in self.rows if not row.hidden)

    def complete(self, maps: Mapping[str, NDArray[Map]]) -> dict[str, NDArray[Map]]:
        """Adds the maps of the logic prompts; see ``logic.evaluate``.

        Args:
            maps: a map for each of ``base``, by name, of one shape and type.

        Returns:
            The maps given, and those of all logic prompts.
        """
        return complete(self.rows, maps)


def complete(rows: Iterable[Row], maps: Mapping[str, NDArray[Map]]) -> dict[str, NDArray[Map]]:
    """``PromptTable.complete`` for rows alone."""
    expressions = {row.name: parse_logic(row.expression) for row in rows if row.expression is not None}
    all_maps = dict(maps)
    for name in logic_order(expressions):
        all_maps[name] = evaluate(expressions[name], all_maps)
    return all_maps


def write_table(path: Path, prompts: Iterable[ResolvedPrompt], embeddings: NDArray[np.float32]) -> None:
    """Writes the prompt table (``records.PROMPTS``).

    Args:
        path: of the Parquet file.
        prompts: resolved, in order.
        embeddings: float32 (B, D) of all but logic prompts, in order.

    Raises:
        ValueError: more or fewer embeddings than prompts that need one.
    """
    prompts = list(prompts)
    vectors = iter(embeddings.tolist())
    if sum(prompt.expression is None for prompt in prompts) != len(embeddings):
        raise ValueError(f"{len(embeddings)} embeddings for {len(prompts)} prompts")
    records.write_parquet(
        path,
        records.PROMPTS,
        (
            {
                **prompt.to_json(),
                "sources": list(prompt.sources),
                "cleaning": json.dumps(prompt.cleaning.model_dump()),
                "definition": json.dumps(prompt.definition, ensure_ascii=False),
                "embedding": None if prompt.expression is not None else next(vectors),
            }
            for prompt in prompts
        ),
    )


def read_rows(path: Path) -> tuple[Row, ...]:
    """Reads the prompts without their embeddings."""
    columns = [name for name in records.PROMPTS.names if name not in ("embedding", "sources")]
    return tuple(_row(row) for row in records.read_parquet(path, columns))


def read_table(path: Path) -> PromptTable:
    """Reads what ``write_table`` wrote."""
    vectors = [row["embedding"] for row in records.read_parquet(path, ["embedding"])]
    embeddings = np.array([vector for vector in vectors if vector is not None], dtype=np.float32)
    return PromptTable(read_rows(path), embeddings)


def _row(row: dict[str, Any]) -> Row:
    return Row(
        **{
            **row,
            "texts": tuple(row["texts"]),
            "cleaning": Cleaning(**json.loads(row["cleaning"])),
            "definition": json.loads(row["definition"]),
        }
    )


def describe(definition: dict[str, Any]) -> str:
    """What a prompt was made of, in a few words: ``2 images with mask``, ``"a cup" in 4 sentences``."""
    if "logic" in definition:
        return str(definition["logic"])
    if "mix" in definition:
        return " + ".join(f"{part['weight']:.2g} x {describe(part)}" for part in definition["mix"])
    if "texts" in definition:
        sentences = len(definition.get("templates", ()))
        words = ", ".join(f'"{text}"' for text in definition["texts"])
        return f"{words} in {sentences} sentence{'s' * (sentences != 1)}" if sentences else words
    if "embedding" in definition:
        return "stored embedding"
    images = definition["images"]
    regions = [name for name in ("mask", "box", "polygons") if any(name in image for image in images)]
    kinds = f" with {' or '.join(regions)}" if regions else ""
    return f"{len(images)} image{'s' * (len(images) != 1)}{kinds}"
