"""Options by their bare names, for tests: ``grouped(tile_size=48)`` is ``{"views": Views(tile_size=48)}``."""

from __future__ import annotations

from typing import Any

from clipseg_kfp.options import GROUPS, Group
from clipseg_kfp.options.declare import fields

PLACES = {
    name: (group, option)
    for group, model in GROUPS.items()
    for option, _, extra in fields(model)
    for name in (extra.get("formerly", option),)
}


def nested_options(options: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Groups as JSON, by name."""
    found: dict[str, dict[str, Any]] = {}
    for name, value in options.items():
        group, option = PLACES[name]
        found.setdefault(group, {})[option] = list(value) if isinstance(value, tuple) else value
    return found


def arguments(given: dict[str, Any]) -> dict[str, Any]:
    """Arguments of a pipeline; options among them, by their bare names, go into their groups."""
    plain = {name: value for name, value in given.items() if name not in PLACES}
    return {**plain, **nested_options({name: value for name, value in given.items() if name in PLACES})}


def grouped(**options: Any) -> dict[str, Group]:
    """Groups with these options, by name; those without any are left out."""
    return {name: GROUPS[name].read(value) for name, value in nested_options(options).items()}
