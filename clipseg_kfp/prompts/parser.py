"""From JSON, YAML and one-line text to a checked prompt set."""

from __future__ import annotations

import difflib
import json
from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from clipseg_kfp.errors import ParameterError
from clipseg_kfp.naming import spell_out
from clipseg_kfp.prompts import entries
from clipseg_kfp.prompts.sets import (
    MAX_PROMPTS,
    Defaults,
    PromptEntry,
    PromptSet,
    WrittenMixPart,
    WrittenPrompt,
)
from clipseg_kfp.records.untrusted import UnreadableError, decode_text, parse_document
from clipseg_kfp.storage import plain_path

#: What may stand below a field, to guess what an unknown one was meant to be.
_BELOW: dict[str, set[str]] = {
    "cleaning": set(entries.Cleaning.model_fields),
    "embedding": set(entries.StoredEmbedding.model_fields),
    "engineering": set(entries.Engineering.model_fields),
    "threshold": {*entries.Calibrated.model_fields, *entries.Otsu.model_fields},
    "otsu": set(entries.OtsuFloor.model_fields),
    "images": set(entries.WrittenSupportImage.model_fields),
    "mix": set(WrittenMixPart.model_fields),
    "defaults": set(Defaults.model_fields),
    "prompts": set(WrittenPrompt.model_fields),
    "": set(PromptSet.model_fields),
}
_FIELDS = set().union(*_BELOW.values())
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
                f"{where}: a mapping with 'prompts' is a whole prompt set, and there are other entries beside it.",
                "Let it be the only entry of the list, and put the others into its 'prompts'.",
                code="prompt_set_not_alone",
                where=where,
            )
        value = value[0]
    if isinstance(value, list | tuple):
        value = {"prompts": value}
    if more and (value in (None, "") or isinstance(value, dict)):
        value = dict(value or {})
        own = value.get("prompts") or []
        if isinstance(own, list | tuple):  # other types are refused below
            value["prompts"] = [*own, *more]
    if value in (None, "", {}) or (isinstance(value, dict) and value.get("prompts", ...) in (None, [], ())):
        raise ParameterError(
            f"{where}: the list of prompts is empty.",
            'Give at least one, such as ["a cat"].',
            code="prompts_empty",
            where=where,
        )
    if not isinstance(value, dict):
        raise ParameterError(
            f"{where}: a list of prompts is needed, not {type(value).__name__}.",
            'Write it as ["a cat", "a cup"].',
            code="prompts_type",
            where=where,
        )
    try:
        return PromptSet.model_validate(value)
    except ValidationError as error:
        raise _first_problem(error, value).within(where, where) from error
    except ParameterError as error:
        raise error.within(where, where) from error


def _is_whole_set(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and "prompts" in value
        and value.keys() <= {*PromptSet.model_fields, "$schema"}
    )


def _first_problem(error: ValidationError, value: Any) -> ParameterError:
    problem = error.errors(include_url=False)[0]
    code, found = problem["type"], problem["input"]
    message = problem["msg"].replace("Input should", "it must").replace(" should", " must")
    message = message.replace("Tuple", "List").replace("tuple", "list")
    if "Input should" in problem["msg"] and isinstance(found, str | int | float):
        message += f", not {spell_out(str(found)[:40])}"
    unknown = code == "extra_forbidden"
    # Without the names of the variants that pydantic tried.
    location = [part for part in problem["loc"][:-1] if isinstance(part, int) or part in _FIELDS]
    location += [part for part in problem["loc"][-1:] if unknown or isinstance(part, int) or part in _FIELDS]
    remedy = _EXAMPLE
    if unknown:
        above = next((str(part) for part in reversed(location[:-1]) if part in _BELOW), "")
        close = difflib.get_close_matches(str(location[-1]), sorted(_BELOW[above]), n=1, cutoff=0.65)
        message = "there is no such field"
        remedy = f"Did you mean '{close[0]}'?" if close else _EXAMPLE
    elif code == "missing" and location and isinstance(location[-1], str):
        message, remedy = "it is needed and missing", f"Add '{location[-1]}'."
    elif code == "too_long" and location == ["prompts"]:
        remedy = "Make several runs."
    elif code == "string_too_long" and location[2:] == ["name"]:
        entry = value["prompts"][location[1]]
        unnamed = not isinstance(entry, dict) or "name" not in entry
        remedy = "Give it a shorter 'name' beside the text." if unnamed else "Shorten it."
    where = dotted(location) or problem.get("ctx", {}).get("where", "")
    match location:
        case ["prompts", int(i), *rest]:
            place = f"prompt {i + 1}{_name_of(value['prompts'][i])}" + (f", {dotted(rest)}" if rest else "")
        case _:
            place = dotted(location)
    return ParameterError(f"{place}: {message}." if place else f"{message}.", remedy, code=code, where=where)


def dotted(location: Sequence[int | str]) -> str:
    """A place in JSON as people write it.

    >>> dotted(["prompts", 1, "images", 0, "box"])
    'prompts[1].images[0].box'
    """
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part[:40]}" for part in location).lstrip(".")


def _name_of(entry: Any) -> str:
    """What an entry is called, as far as can be told before it is checked."""
    if isinstance(entry, dict):
        entry = next((entry[name] for name in ("name", "text", "texts") if name in entry), None)
        entry = entry[0] if isinstance(entry, list | tuple) and entry else entry
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
    """Parses JSON or YAML, or texts one per line where the name ends in ``.txt``, and does not check its content.

    Raises:
        ParameterError: it is neither; names the file and the place, and quotes nothing of it.
    """
    try:
        if plain_path(where).lower().endswith(".txt"):
            lines = (line.strip() for line in decode_text(data).splitlines())
            return [line for line in lines if line and not line.startswith("#")]
        value = parse_document(data)
    except UnreadableError as error:
        raise ParameterError(
            f"{where} is neither JSON nor YAML: {error}.",
            "Correct the file there.",
            code="prompts_not_json_or_yaml",
            where=where,
        ) from None
    if isinstance(value, str) and len(value.split()) > 1 and len(decode_text(data).strip().splitlines()) > 1:
        raise ParameterError(
            f"{where} has several lines and is neither a list nor a mapping.",
            "Write '- ' before each prompt, or name the file .txt for one prompt per line.",
            code="prompts_one_text",
            where=where,
        )
    return value


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
            raise ParameterError(
                f"prompts: {error} in {shown!r}.",
                'Write ["a cat", "a cup"].',
                code="prompts_not_json",
                where="prompts",
            ) from error
        return list(value)
    return [part.strip() for part in text.split(",") if part.strip()]


def check_threshold(threshold: float) -> None:
    """Raises ``ParameterError`` unless a run's threshold lies between 0 and 1."""
    if not 0 < threshold < 1:
        raise ParameterError(
            f"threshold is {threshold}; it is a probability.",
            "Give a number between 0 and 1.",
            code="threshold_out_of_range",
            where="threshold",
        )


def json_schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of a prompt file, for editors and other programs.

    It ships as ``clipseg_kfp/prompts/prompts.schema.json``; ``python -m clipseg_kfp.prompts`` writes it anew.
    What needs more than one entry at a time, such as equal names or the grammar of logic, only
    ``parse_prompts`` checks.
    """
    listed = Annotated[tuple[PromptEntry, ...], Field(min_length=1, max_length=MAX_PROMPTS)]
    file: TypeAdapter[Any] = TypeAdapter(PromptSet | listed | tuple[PromptSet])
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "clipseg-kfp prompt file",
        **file.json_schema(),
    }
