"""Several prompt sets as one, to be compared: each image is encoded once for all of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from clipseg_kfp.errors import ParameterError
from clipseg_kfp.prompts.gathering import Gathered
from clipseg_kfp.prompts.logic import And, Expression, Name, Not, Or, parse_logic
from clipseg_kfp.prompts.sets import MAX_PROMPTS


def combine(sets: Iterable[tuple[str, Iterable[Gathered]]]) -> tuple[list[Gathered], dict[str, str]]:
    """Joins prompt sets; their prompts are called ``<set>/<name>`` and numbered anew.

    Args:
        sets: names and prompts of each.

    Returns:
        All prompts, and what each is called in its own set.

    Raises:
        ParameterError: more prompts than a run takes.
    """
    found: list[Gathered] = []
    names: dict[str, str] = {}
    for place, gathered in sets:
        for one in gathered:
            name = f"{place}/{one.prompt.name}"
            names[name] = one.prompt.name
            definition = {key: value for key, value in one.definition.items() if key != "id"} | {"name": name}
            expression = one.expression
            if expression is not None:
                expression = str(_renamed(parse_logic(expression), place))
                definition["logic"] = expression
            found.append(
                replace(
                    one,
                    id=len(found) + 1,
                    prompt=one.prompt.model_copy(update={"name": name, "id": None}),
                    definition=definition,
                    expression=expression,
                )
            )
    if len(found) > MAX_PROMPTS:
        raise ParameterError(f"The prompt sets have {len(found):,} prompts; {MAX_PROMPTS:,} are allowed.")
    return found, names


def _renamed(expression: Expression, place: str) -> Expression:
    match expression:
        case Name(name):
            return Name(f"{place}/{name}")
        case Not(part):
            return Not(_renamed(part, place))
        case And(parts):
            return And(tuple(_renamed(part, place) for part in parts))
        case Or(parts):
            return Or(tuple(_renamed(part, place) for part in parts))
