"""A pipeline's parameters: what is declared, what a user gives, and whether the two fit, before anything is sent."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

from clipseg_kfp.errors import ParameterError

_WORDS = {
    "STRING": "a text",
    "NUMBER_INTEGER": "a whole number",
    "NUMBER_DOUBLE": "a number",
    "BOOLEAN": "true or false",
    "LIST": "a JSON list",
    "STRUCT": "a JSON object",
}
_EXAMPLES = {
    "STRING": '"a text"',
    "NUMBER_INTEGER": "100",
    "NUMBER_DOUBLE": "0.5",
    "BOOLEAN": "true",
    "LIST": '["one", "two"]',
    "STRUCT": '{"a cat": "cat"}',
}
_WHOLE = 2**53  # beyond, the API's numbers are not exact


@dataclass(frozen=True)
class Parameter:
    """A parameter that a pipeline declares.

    Attributes:
        name: of the parameter.
        kind: ``parameterType`` of the pipeline specification, such as NUMBER_INTEGER.
        default: its default value.
        required: there is no default.
        literals: the only values that it takes; empty takes any of its kind.
    """

    name: str
    kind: str
    default: Any
    required: bool
    literals: tuple[Any, ...] = ()


def declared(spec: Mapping[str, Any]) -> dict[str, Parameter]:
    """The parameters of a pipeline specification, by name."""
    found = spec.get("root", {}).get("inputDefinitions", {}).get("parameters", {})
    return {
        name: Parameter(
            name=name,
            kind=item.get("parameterType", "STRING"),
            default=item.get("defaultValue"),
            required="defaultValue" not in item and not item.get("isOptional", False),
            literals=tuple(item.get("literals", ())),
        )
        for name, item in found.items()
    }


def check(parameters: Mapping[str, Parameter], given: Mapping[str, Any]) -> dict[str, Any]:
    """Checks given values against the declared parameters.

    Args:
        parameters: what the pipeline declares.
        given: values by name.

    Returns:
        The values; whole numbers stay whole.

    Raises:
        ParameterError: unknown names (with the nearest known one), missing ones, wrong types.
    """
    for name in given:
        if name not in parameters:
            near = get_close_matches(name, parameters, 1)
            meant = f" Did you mean '{near[0]}'?" if near else ""
            raise ParameterError(
                f"The pipeline has no parameter '{name}'.{meant}",
                f"It has: {', '.join(sorted(parameters)) or 'none'}.",
            )
    missing = sorted(name for name, one in parameters.items() if one.required and name not in given)
    if missing:
        raise ParameterError(f"These parameters are needed: {', '.join(missing)}.", "Give each with --set.")
    return {name: _checked(parameters[name], value) for name, value in given.items()}


def _checked(parameter: Parameter, value: Any) -> Any:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    fits = {
        "STRING": isinstance(value, str),
        "NUMBER_INTEGER": number and (isinstance(value, int) or value.is_integer()) and abs(value) <= _WHOLE,
        "NUMBER_DOUBLE": number and abs(value) < float("inf"),
        "BOOLEAN": isinstance(value, bool),
        "LIST": isinstance(value, list),
        "STRUCT": isinstance(value, dict),
    }
    if not fits.get(parameter.kind, True):
        raise ParameterError(
            f"The parameter '{parameter.name}' takes {_WORDS[parameter.kind]}, not {_found(value)}.",
            _example(parameter, value),
        )
    if parameter.literals and value not in parameter.literals:
        raise ParameterError(
            f"The parameter '{parameter.name}' does not take {_shown(value)}.",
            f"Choose from: {', '.join(map(_shown, parameter.literals))}.",
        )
    return int(value) if parameter.kind == "NUMBER_INTEGER" else value


def _found(value: Any) -> str:
    """A value and, where it would look like a text otherwise, what YAML takes it for."""
    return f"the date {value}" if isinstance(value, date) else _shown(value)


def _example(parameter: Parameter, value: Any) -> str:
    """How to write a value that fits."""
    if parameter.kind == "STRING" and isinstance(value, bool | int | float | date):
        return f'In a file, put a text in quotes: {parameter.name}: "{value}".'
    default = _EXAMPLES[parameter.kind] if parameter.required else _shown(parameter.default)
    return f"Write it as, for example, {parameter.name}: {default}."


def from_words(parameters: Mapping[str, Parameter], words: Sequence[str]) -> dict[str, Any]:
    """Reads ``name=value`` from the command line, each by the type that its parameter has.

    A text is taken as it is. A list is JSON, or a single text, or texts given by repeating the name.

    Raises:
        ParameterError: no ``=``, an unknown name, or a value that does not fit.
    """
    given: dict[str, Any] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals:
            raise ParameterError(f"'{word}' is no name=value.", "Write --set threshold=0.4, for example.")
        name = name.strip()
        if name not in parameters:
            check(parameters, {name: text})
        kind = parameters[name].kind
        value = _value(name, kind, text)
        if name in given and kind == "LIST":
            given[name] = [*given[name], *value]
        elif name in given:
            raise ParameterError(f"The parameter '{name}' is given twice.", "Give it once.")
        else:
            given[name] = value
    return given


def _value(name: str, kind: str, text: str) -> Any:
    if kind == "STRING":
        return text
    if kind == "LIST" and not text.strip():
        return []
    if kind == "LIST" and not text.lstrip().startswith(("[", "{")):
        return [text]
    lower = text.strip().lower()
    if kind == "BOOLEAN" and lower in ("true", "false", "yes", "no", "on", "off"):
        return lower in ("true", "yes", "on")
    try:
        value = json.loads(text, parse_constant=_no_constant)
    except ValueError:
        raise ParameterError(
            f"--set {name}: {_shown(text)} is not {_WORDS.get(kind, kind)}.",
            f"Write --set '{name}={_EXAMPLES.get(kind, '')}', for example.",
        ) from None
    return [value] if kind == "LIST" and isinstance(value, dict) else value


def _no_constant(text: str) -> Any:
    raise ValueError(text)  # NaN and Infinity are no JSON


def from_file(path: str) -> dict[str, Any]:
    """Reads parameters from a YAML or JSON file: one object of names and values.

    Raises:
        ParameterError: it cannot be read, or holds something else.
    """
    try:
        content = yaml.safe_load(Path(path).expanduser().read_text("utf-8"))
    except OSError as error:
        raise ParameterError(f"{path}: {error.strerror}.", "Name a file of parameters.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ParameterError(f"{path} is neither YAML nor JSON: {' '.join(str(error).split())}.") from None
    if content is None:
        return {}
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise ParameterError(f"{path} holds no parameters by name.", "Write lines such as 'threshold: 0.4'.")
    return content


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else f"{text[:60]}…"
