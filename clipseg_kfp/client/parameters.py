"""A pipeline's parameters: what is declared, what a user gives, and whether the two fit, before anything is sent."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

from clipseg_kfp.client.packages import Parameter, declared, spec_of
from clipseg_kfp.errors import ParameterError
from clipseg_kfp.options import GROUPS, add_word, from_word, nested, options_of, over_own_defaults
from clipseg_kfp.records.untrusted import UnreadableError, parse_document, read_bounded
from clipseg_kfp.site.kubernetes import is_size, size

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
#: Parameters that name a place in a bucket, and whether they may be empty.
PLACES = {
    "source_uri": False,
    "output_uri": False,
    "model_uri": False,
    "prompts_uri": True,
}


def checked_values(version: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """Checks the parameters of a run against what a version declares and, where it is ours, what its steps take.

    Args:
        version: ``V2beta1PipelineVersion``.
        given: values by name.

    Raises:
        ParameterError: names the parameter, and what would do.
    """
    from clipseg_kfp.site.compile import pipeline_names

    spec = spec_of(version)
    parameters = declared(spec)
    if given.get("prompts_uri") and "prompts" in parameters:
        given = {"prompts": [], **given}  # the file takes the place of the list
    values = check(parameters, given)
    if spec.get("pipelineInfo", {}).get("name") in pipeline_names():
        defaults = {name: one.default for name, one in parameters.items() if not one.required}
        whole = {**defaults, **values}
        _check_steps(values, whole)
        _check_memory(whole.get("inference_memory", ""), spec)
    return values


def _check_steps(given: Mapping[str, Any], whole: Mapping[str, Any]) -> None:
    """``given`` is what the user says, ``whole`` with the defaults of the rest."""
    from clipseg_kfp.pipelines.arguments import check_values
    from clipseg_kfp.prompts import parse_prompts

    check_values(dict(given))
    for name, may_be_empty in PLACES.items():
        if name in whole:
            _check_place(name, str(whole[name] or ""), may_be_empty)
    for group in ("support", "ground_truth"):
        _check_place(f"{group}.uri", str((whole.get(group) or {}).get("uri", "")), may_be_empty=True)
    for name, one in (whole.get("prompt_sets") or {}).items():
        if isinstance(one, str):
            _check_place(f"prompt_sets: {name}", one, may_be_empty=False)
        else:
            parse_prompts(one, f"prompt_sets: {name}")
    if "prompt_sets" in whole and not whole["prompt_sets"]:
        raise ParameterError(
            "prompt_sets is empty.",
            'Give at least one set, as {"plain": ["a cat"]}.',
            code="prompt_sets_empty",
            where="prompt_sets",
        )
    if (
        "prompts" in whole
        and not whole.get("prompts_uri")
        and (whole["prompts"] or not (whole.get("support") or {}).get("uri"))
    ):
        parse_prompts(whole["prompts"])
    if not is_size(whole.get("inference_memory", "4G")):
        raise ParameterError(
            f"inference_memory is '{whole['inference_memory']}'.",
            "Give a size such as 4G or 12Gi.",
            code="memory_size",
            where="inference_memory",
        )


def _check_memory(limit: str, spec: Mapping[str, Any]) -> None:
    """A limit below what the task asks for makes a pod that Kubernetes refuses."""
    for executor in spec.get("deploymentSpec", {}).get("executors", {}).values():
        resources = executor.get("container", {}).get("resources", {})
        request = str(resources.get("resourceMemoryRequest", ""))
        if "inference_memory" not in str(resources.get("resourceMemoryLimit", "")) or not is_size(request):
            continue
        if size(limit) < size(request):
            raise ParameterError(
                f"inference_memory is '{limit}', and inference asks for {request}.",
                f"Give {request} or more, or lower memory_request in the settings.",
                code="memory_too_small",
                where="inference_memory",
            )


def _check_place(name: str, uri: str, may_be_empty: bool) -> None:
    if not uri and may_be_empty:
        return
    # A model may lie in the image, or on a volume that the settings mount.
    forms = (r"s3://[^/]", r"hf://[^/]", "file:///") if name == "model_uri" else (r"s3://[^/]",)
    if name not in ("model_uri", "output_uri", "support.uri"):  # of files
        forms = (*forms, "(?i)https://[^/]")
    if not any(re.match(form, uri) for form in forms):
        known = "s3://bucket/prefix" + (
            ", hf://org/name@revision or file:///path-in-the-pod" * (name == "model_uri")
        )
        raise ParameterError(
            f"{name} is '{uri}', which pods cannot read.",
            f"Give {known}.",
            code="uri_not_for_pods",
            where=name,
        )


def check(parameters: Mapping[str, Parameter], given: Mapping[str, Any]) -> dict[str, Any]:
    """Checks given values against the declared parameters.

    Args:
        parameters: what the pipeline declares.
        given: values by name; options also under their dotted names.

    Returns:
        The values, options in their groups; whole numbers stay whole.

    Raises:
        OptionsError: unknown names, with the nearest known ones.
        ParameterError: missing ones, wrong types.
    """
    given = nested(given, parameters)
    missing = sorted(name for name, one in parameters.items() if one.required and name not in given)
    if missing:
        raise ParameterError(
            f"These parameters are needed: {', '.join(missing)}.",
            "Give each with --set.",
            code="parameters_missing",
            where=missing[0],
        )
    checked = {name: _checked(parameters[name], value) for name, value in given.items()}
    for name in checked.keys() & GROUPS.keys():
        checked[name] = over_own_defaults(checked[name], name, parameters[name].default)
    return checked


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
            code="parameter_type",
            where=parameter.name,
        )
    if parameter.literals and value not in parameter.literals:
        raise ParameterError(
            f"The parameter '{parameter.name}' does not take {_shown(value)}.",
            f"Choose from: {', '.join(map(_shown, parameter.literals))}.",
            code="parameter_choice",
            where=parameter.name,
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
            raise ParameterError(
                f"'{word}' is not of the form name=value.",
                "Write --set threshold=0.4, for example.",
                code="set_form",
                where=word,
            )
        name = name.strip()
        group, _, option = name.partition(".")
        if name not in parameters and group in parameters and option in options_of(group):
            add_word(given, name, from_word(GROUPS[group], option, text))
            continue
        if name not in parameters:
            nested({name: text}, parameters)  # says what is wrong with it
        add_word(given, name, _value(name, parameters[name].kind, text))
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
            code="parameter_type",
            where=name,
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
        content = parse_document(read_bounded(Path(path).expanduser()))
    except OSError as error:
        raise ParameterError(
            f"{path}: {error.strerror}.",
            "Name a file of parameters.",
            code="parameters_unreadable",
            where=path,
        ) from None
    except UnreadableError as error:
        raise ParameterError(
            f"{path} is neither YAML nor JSON: {error}.",
            "Write lines such as 'threshold: 0.4'.",
            code="parameters_invalid",
            where=path,
        ) from None
    if content is None:
        return {}
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise ParameterError(
            f"{path} has no parameters by name.",
            "Write lines such as 'threshold: 0.4'.",
            code="parameters_invalid",
            where=path,
        )
    return content


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else f"{text[:60]}…"
