"""Options as people give them: nested, dotted (``views.tile_size``), or as words of a command line."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any

from clipseg_kfp.errors import OptionsError, Problem
from clipseg_kfp.options.declare import UNKNOWN, Group, fields
from clipseg_kfp.options.groups import GROUPS

MOVED = "option_moved"
#: Parameters of version 0.1 that only a site sets.
SITE_SETTINGS = {"accelerator_type": "accelerator.type", "accelerator_count": "accelerator.count"}
_BOOLEANS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}


def options_of(group: str) -> tuple[str, ...]:
    """Names of a group's options; none where there is no such group."""
    return tuple(GROUPS[group].model_fields) if group in GROUPS else ()


def dotted_names(groups: Iterable[str] = GROUPS) -> list[str]:
    """The dotted names of all options of these groups."""
    return [f"{name}.{option}" for name in groups for option in GROUPS[name].model_fields]


def read_groups(given: Mapping[str, Any], groups: Iterable[str] = GROUPS) -> dict[str, Group]:
    """Checks the groups among a pipeline's arguments, all of them at once.

    Args:
        given: arguments by name; those that are no group are left alone.
        groups: names of the groups to read; those that are missing in ``given`` have their defaults.

    Raises:
        OptionsError: lists everything that is wrong, each under its dotted name.
    """
    read, problems = {}, []
    for name in groups:
        value = given.get(name, {})
        if not isinstance(value, Mapping):
            problems.append(Problem(name, "dict_type", f"a JSON object of options, not {value!r:.80}"))
            continue
        try:
            read[name] = GROUPS[name].read(value)
        except OptionsError as error:
            problems += error.problems
    if problems:
        raise OptionsError(problems)
    return read


def nested(given: Mapping[str, Any], arguments: Iterable[str]) -> dict[str, Any]:
    """Brings dotted names (``"views.tile_size": 512``) into their groups.

    Args:
        given: values by name; groups may be given whole, in part by dotted names, or both.
        arguments: names that the pipeline declares.

    Raises:
        OptionsError: unknown names, with the nearest known one or the place of an option that has moved.
    """
    arguments = list(arguments)
    found: dict[str, Any] = {}
    problems = []
    for name, value in given.items():
        group, dot, option = name.partition(".")
        if group not in arguments or (dot and option not in options_of(group)):
            problems.append(_unknown(name, arguments))
        elif dot:
            found[group] = {**found.get(group, {}), option: value}
        elif group in GROUPS and isinstance(value, Mapping):
            found[group] = {**found.get(group, {}), **value}
        else:
            found[name] = value
    if problems:
        raise OptionsError(problems)
    return found


def value_of(given: Mapping[str, Any], name: str) -> Any:
    """The value of an option among given parameters, where it may be dotted or in its group; else its default.

    Args:
        given: parameters by name.
        name: dotted, such as ``outputs.run_id``.
    """
    group, _, option = name.partition(".")
    whole = given.get(group) or {}
    return given.get(name, whole.get(option, GROUPS[group].model_fields[option].default))


def over_own_defaults(value: Mapping[str, Any], group: str, declared: Any) -> dict[str, Any]:
    """Lays options over those that a pipeline's own default of the group sets otherwise than the group does.

    Args:
        value: options that a person gave; what is left out would take the group's default.
        group: its name.
        declared: the pipeline's default for the group.
    """
    usual = GROUPS[group].defaults()
    own = {name: one for name, one in (declared or {}).items() if usual.get(name, one) != one}
    return {**own, **value}


def add_word(given: dict[str, Any], name: str, value: Any) -> None:
    """Adds an option or parameter of a command line; a list that is given again grows.

    Raises:
        OptionsError: another one is given twice.
    """
    if name not in given:
        given[name] = value
    elif isinstance(given[name], list) and isinstance(value, list):
        given[name] = [*given[name], *value]
    else:
        raise OptionsError([Problem(name, "given_twice", "it is given twice", "Give it once.")])


def from_word(group: type[Group], option: str, text: str) -> Any:
    """Reads the text of ``--set group.option=text`` by the option's type; the group's checks follow later.

    A text is taken as it is. A list is JSON, or words with commas between them.
    """
    default = group.model_fields[option].default
    if isinstance(default, str):
        return text
    if isinstance(default, bool) and text.strip().lower() in _BOOLEANS:
        return _BOOLEANS[text.strip().lower()]
    if isinstance(default, tuple) and not text.lstrip().startswith("["):
        return [word.strip() for word in text.split(",") if word.strip()]
    try:
        return json.loads(text)
    except ValueError:
        return text


def check_moved(name: str, arguments: Iterable[str]) -> None:
    """Raises ``OptionsError`` where version 0.1 had an option of this name (``tile_size``), with its new place."""
    if problem := _moved(name, list(arguments)):
        raise OptionsError([problem])


def _moved(name: str, arguments: list[str]) -> Problem | None:
    if name in SITE_SETTINGS:
        return Problem(
            name,
            MOVED,
            f"it is now a setting of the site: {SITE_SETTINGS[name]}",
            "Give it to 'clipseg-kfp compile' or 'upload', in the file of --settings.",
        )
    for group in GROUPS.values():
        for option, _, extra in fields(group):
            if name in (option, extra.get("formerly")):
                dotted = f"{group.name}.{option}"
                if group.name in arguments:
                    return Problem(name, MOVED, f"it is now {dotted}", f"Write --set {dotted}=….")
                return Problem(
                    name, MOVED, f"it is now {dotted}", "This pipeline does not take it: leave it out."
                )
    return None


def _unknown(name: str, arguments: list[str]) -> Problem:
    if moved := _moved(name, arguments):
        return moved
    known = [*arguments, *dotted_names(group for group in arguments if group in GROUPS)]
    near = get_close_matches(name, known, 1)
    hint = f"Did you mean '{near[0]}'?" if near else f"There are {', '.join(sorted(arguments))}."
    return Problem(name, UNKNOWN, "there is no such parameter", hint)
