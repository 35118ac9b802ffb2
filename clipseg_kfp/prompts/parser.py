"""From JSON, YAML and one-line text to a checked prompt set; and what is said where it is wrong."""

from __future__ import annotations

import difflib
import json
from collections.abc import Sequence
from typing import Any

import yaml
from pydantic import ValidationError

from clipseg_kfp.errors import ParameterError
from clipseg_kfp.naming import spell_out
from clipseg_kfp.prompts import entries as parts
from clipseg_kfp.prompts.sets import MAX_PROMPTS, Defaults, MixPart, Prompt, PromptSet

MAX_NODES = 2_000_000  # values of a YAML file with all aliases written out; far more than prompts can need
_SHORT = {"text", "image", "mask", "box", "polygon", "polygons", "units"}
#: What may stand below a field, to guess what an unknown one was meant to be.
_BELOW: dict[str, set[str]] = {
    "cleaning": set(parts.Cleaning.model_fields),
    "embedding": set(parts.StoredEmbedding.model_fields),
    "engineering": set(parts.Engineering.model_fields),
    "threshold": {*parts.Calibrated.model_fields, *parts.Otsu.model_fields},
    "otsu": set(parts.OtsuFloor.model_fields),
    "images": {*parts.SupportImage.model_fields, "polygon"},
    "mix": {*MixPart.model_fields, *_SHORT},
    "defaults": set(Defaults.model_fields),
    "prompts": {*Prompt.model_fields, *_SHORT},
    "": set(PromptSet.model_fields),
}
_FIELDS = set().union(*_BELOW.values())
_ONE_OF = {"texts": "text", "images": "image", "mix": "part", "polygons": "polygon"}
#: What is needed where pydantic finds a value of another kind.
_NEEDED = {
    "string_type": "a text",
    "tuple_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
}
_EXAMPLE = "See docs/prompts.md for an example of each kind."


def parse_prompts(value: Any, where: str = "prompts", more: Sequence[Any] = ()) -> PromptSet:
    """Checks a list of prompts (texts or mappings), or a mapping with a ``prompts`` list.

    The mapping may stand in a list, alone: parameters of pipelines are lists.

    Args:
        value: parsed JSON or YAML.
        where: what to call it in messages: a parameter or a file.
        more: entries that come after those of ``value``, which may be empty then.

    Raises:
        ParameterError: names the entry by number and name, the field and the remedy.
    """
    if isinstance(value, str) and value:
        value = [value]
    if isinstance(value, list | tuple) and any(map(_is_whole_set, value)):
        if len(value) > 1:
            raise ParameterError(
                f"{where}: a mapping with 'prompts' is a whole prompt set, and stands beside others.",
                "Let it be the only entry of the list; what else there is to look for belongs into its prompts.",
            )
        value = value[0]
    if isinstance(value, list | tuple):
        value = {"prompts": value}
    if more and (value in (None, "") or isinstance(value, dict)):
        value = dict(value or {})
        own = value.get("prompts") or []
        if isinstance(own, list | tuple):  # what it is else, is said below
            value["prompts"] = [*own, *more]
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
        problem, remedy = _first_problem(error, value)
        raise ParameterError(f"{where}: {problem}.", remedy) from error
    except ParameterError as error:
        raise ParameterError(f"{where}: {error.message}", error.remedy) from error


def _is_whole_set(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and "prompts" in value
        and value.keys() <= {*PromptSet.model_fields, "$schema"}
    )


def _first_problem(error: ValidationError, value: Any) -> tuple[str, str]:
    problem = error.errors(include_url=False)[0]
    message = _said(problem)
    unknown = problem["type"] == "extra_forbidden"
    # Without the names of the variants that pydantic tried.
    location = [part for part in problem["loc"][:-1] if isinstance(part, int) or part in _FIELDS]
    location += [part for part in problem["loc"][-1:] if unknown or isinstance(part, int) or part in _FIELDS]
    if location == ["prompts"] and problem["type"] == "too_long":
        return (
            f"{problem['ctx']['actual_length']:,} prompts are more than {MAX_PROMPTS:,}",
            "Make several runs.",
        )
    remedy = _EXAMPLE if location else ""
    if unknown:
        above = next((str(part) for part in reversed(location[:-1]) if part in _BELOW), "")
        close = difflib.get_close_matches(str(location[-1]), sorted(_BELOW[above]), n=1, cutoff=0.65)
        message = "there is no such field"
        remedy = f"Did you mean '{close[0]}'?" if close else _EXAMPLE
    elif problem["type"] == "missing" and isinstance(location[-1], str):
        message, remedy = "it is needed and missing", f"Add '{location[-1]}'."
    elif problem["type"] == "missing":
        message = "it is missing"
    elif problem["type"] == "string_too_long" and location[2:] == ["name"]:
        entry = value["prompts"][location[1]]
        unnamed = not isinstance(entry, dict) or "name" not in entry
        remedy = "Give it a shorter 'name' beside the text." if unnamed else "Shorten it."
    words = _place(location, value)
    return (f"{words}: {message}" if words else message), remedy


def _said(problem: Any) -> str:
    """What pydantic found, in the words of people who have never heard of it."""
    kind, context, found = problem["type"], problem.get("ctx", {}), problem["input"]
    if kind in _NEEDED:
        return f"{_NEEDED[kind]} is needed, not {_shown(found)}"
    match kind:
        case "string_too_long":
            return f"at most {context['max_length']:,} characters are allowed, and there are {len(found):,}"
        case "string_too_short":
            return f"at least {context['min_length']} character is needed"
        case "too_short":
            return f"at least {context['min_length']} are needed, not {context['actual_length']}"
        case "too_long":
            return f"at most {context['max_length']:,} are allowed, not {context['actual_length']:,}"
        case "greater_than" | "greater_than_equal" | "less_than" | "less_than_equal":
            sign = {"gt": "greater than", "ge": "at least", "lt": "less than", "le": "at most"}
            ((name, bound),) = ((name, context[name]) for name in sign if name in context)
            return f"it is {_shown(found)}, and must be {sign[name]} {bound}"
        case "string_unicode":
            return "it is no text in Unicode"
    words = str(problem["msg"]).removeprefix("Value error, ").replace("Input should", "it must")
    return words.replace("Tuple", "List").replace("tuple", "list")


def _shown(value: Any) -> str:
    return spell_out(str(value)[:40]) if isinstance(value, str | int | float) else f"a {type(value).__name__}"


def _place(location: list[int | str], value: Any) -> str:
    words: list[str] = []
    match location:
        case ["prompts", int(i), *rest]:
            words.append(f"prompt {i + 1}{_name_of(value, i)}")
        case rest:
            pass
    while rest:
        match rest:
            case [str(field), int(i), *further] if field in _ONE_OF:
                words.append(f"{_ONE_OF[field]} {i + 1}")
            case [str(field), *further]:
                words.append(f"field '{field[:40]}'")
            case [int(i), *further]:
                words.append(f"value {i + 1}")
        rest = further
    return ", ".join(words)


def _name_of(value: Any, i: int) -> str:
    """What an entry is called, as far as it can be told before it is checked."""
    entry = value["prompts"][i]
    for name in ("name", "text", "texts"):
        if isinstance(entry, dict) and name in entry:
            entry = entry[name]
            entry = entry[0] if isinstance(entry, list | tuple) and entry else entry
            break
    if not isinstance(entry, str) or not entry.strip() or not entry.isprintable():
        return ""
    return f" ('{entry.strip()[:40]}{'…' if len(entry.strip()) > 40 else ''}')"


def read_prompts(data: bytes, where: str, more: Sequence[Any] = ()) -> PromptSet:
    """Parses the bytes of a JSON or YAML prompt file; ``more`` entries come after its own.

    Raises:
        ParameterError: not JSON or YAML, or not a prompt set; names the file.
    """
    return parse_prompts(load_prompts(data, where), where, more)


def load_prompts(data: bytes, where: str) -> Any:
    """Parses JSON or YAML; what it says is not checked.

    Raises:
        ParameterError: it is neither; names the file.
    """
    try:
        return _parse(data.decode("utf-8-sig"))
    except Exception as error:  # yaml's own errors, and what its constructors pass on of odd scalars
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ParameterError(f"{where} is neither JSON nor YAML: {reason}.") from error


def _parse(text: str) -> Any:
    # Most JSON is YAML, but not all: PyYAML refuses tabs between tokens, and splits escaped emoji in two.
    try:
        return json.loads(text)
    except ValueError:
        pass
    loader = yaml.SafeLoader(text)
    try:
        root = loader.get_single_node()
        if root is None:
            return None
        _check_size(root)
        return loader.construct_document(root)
    finally:
        loader.dispose()


def _check_size(root: yaml.Node) -> None:
    """Refuses a document whose aliases stand for more than a prompt file can need.

    A few lines of aliases of aliases (the "billion laughs") would keep the checks, and merge keys even the
    parser, busy for ever. Every node's size is counted once, so the count itself is cheap.
    """
    sizes: dict[int, int] = {}

    def size(node: yaml.Node) -> int:
        known = sizes.get(id(node))
        if known == 0:
            raise ValueError("an alias stands for a list or mapping that contains it")
        if known is None:
            sizes[id(node)] = 0  # under way
            known = 1
            if isinstance(node, yaml.SequenceNode):
                known += sum(map(size, node.value))
            elif isinstance(node, yaml.MappingNode):
                known += sum(size(key) + size(value) for key, value in node.value)
            sizes[id(node)] = known
        return known

    if size(root) > MAX_NODES:
        raise ValueError(f"its aliases stand for more than {MAX_NODES:,} values")


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


def check_threshold(threshold: float) -> None:
    """Raises ``ParameterError`` unless a run's threshold lies between 0 and 1."""
    if not 0 < threshold < 1:
        raise ParameterError(
            f"threshold is {threshold}; it is a probability.", "Give a number between 0 and 1."
        )


def json_schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of a prompt file, for editors and other programs.

    It ships as ``clipseg_kfp/prompts/prompts.schema.json``; ``python -m clipseg_kfp.prompts`` writes it anew.
    What needs more than one entry at a time, such as equal names or the grammar of logic, only
    ``parse_prompts`` checks.
    """
    schema = PromptSet.model_json_schema()
    definitions = schema.pop("$defs")
    schema["properties"]["$schema"] = {"type": "string"}
    definitions["PromptSet"] = schema
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "clipseg-kfp prompt file",
        "anyOf": [
            {"$ref": "#/$defs/PromptSet"},
            {
                "type": "array",
                "items": {"$ref": "#/$defs/Prompt"},
                "minItems": 1,
                "maxItems": MAX_PROMPTS,
            },
            {"type": "array", "items": {"$ref": "#/$defs/PromptSet"}, "minItems": 1, "maxItems": 1},
        ],
        "$defs": definitions,
    }
