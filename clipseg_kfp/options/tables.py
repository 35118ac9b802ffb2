"""Options as tables for people and as JSON Schema for programs, made from their declarations."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import create_model

from clipseg_kfp.options.declare import fields
from clipseg_kfp.options.groups import GROUPS


@dataclass(frozen=True)
class Row:
    """One option.

    Attributes:
        name: dotted, such as ``views.tile_size``.
        type: such as ``whole number``.
        allowed: its range or choices; empty where anything of the type is.
        unit: of its number.
        default: as JSON.
        help: what it does.
    """

    name: str
    type: str
    allowed: str
    unit: str
    default: str
    help: str

    @property
    def kind(self) -> str:
        """Type, range and unit in a few words."""
        return ", ".join(part for part in (self.type, self.allowed, self.unit) if part)


_TYPES = {
    "integer": "whole number",
    "number": "number",
    "boolean": "true or false",
    "string": "text",
    "array": "list",
    "object": "object",
}
_BOUNDS = (("minimum", "≥"), ("exclusiveMinimum", ">"), ("maximum", "≤"), ("exclusiveMaximum", "<"))


def rows(groups: Iterable[str] = GROUPS) -> Iterator[Row]:
    """Yields every option of these groups, in order."""
    for name in groups:
        group = GROUPS[name]
        properties = group.model_json_schema()["properties"]
        defaults = group.defaults()
        for option, field, extra in fields(group):
            schema = properties[option]
            yield Row(
                f"{name}.{option}",
                _TYPES.get(_kind(schema), "text"),
                _allowed(schema),
                str(extra.get("unit", "")),
                json.dumps(defaults[option]),
                str(field.description),
            )


def markdown(groups: Iterable[str] = GROUPS) -> str:
    """The table of these groups for a README."""
    lines = ["| option | type | default | what it does |", "| --- | --- | --- | --- |"]
    for row in rows(groups):
        text = row.help.replace("<", "\\<").replace("|", "\\|")
        lines.append(f"| `{row.name}` | {row.kind} | `{row.default}` | {text} |")
    return "\n".join(lines)


def json_schema(groups: Iterable[str] = GROUPS) -> dict[str, Any]:
    """The JSON Schema of an object that holds these groups."""
    members: dict[str, Any] = {name: (GROUPS[name], GROUPS[name]()) for name in groups}
    schema: dict[str, Any] = create_model("Options", **members).model_json_schema()
    return schema


def _kind(schema: dict[str, Any]) -> str:
    if "type" in schema:
        return str(schema["type"])
    return "integer" if all(isinstance(value, int) for value in schema.get("enum", [""])) else "string"


def _allowed(schema: dict[str, Any]) -> str:
    if "enum" in schema:
        return "one of " + ", ".join(str(value) for value in schema["enum"])
    if "enum" in schema.get("items", {}):
        return "of " + ", ".join(str(value) for value in schema["items"]["enum"])
    return " and ".join(f"{sign} {schema[key]:g}" for key, sign in _BOUNDS if key in schema)
