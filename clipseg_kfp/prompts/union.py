"""Several prompt sets as one, to be compared: each image is encoded once for all of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from clipseg_kfp.errors import ParameterError
from clipseg_kfp.prompts.definitions import Gathered
from clipseg_kfp.prompts.logic import And, Expression, Name, Not, Or, parse_logic
from clipseg_kfp.prompts.sets import MAX_PROMPTS


def combine(sets: Iterable[tuple[str, Iterable[Gathered]]]) -> Iterator[Gathered]:
    """Joins prompt sets; their prompts are called ``<set>/<name>`` and numbered anew.

    Args:
        sets: names, without a slash, and prompts of each.

    Yields:
        All prompts, as they are asked for.

    Raises:
        ParameterError: more prompts than a run takes.
    """
    count = 0
    for place, gathered in sets:
        for one in gathered:
            count += 1
            if count > MAX_PROMPTS:
                raise ParameterError(f"The prompt sets have more than {MAX_PROMPTS:,} prompts together.")
            name = f"{place}/{one.prompt.name}"
            definition = {key: value for key, value in one.definition.items() if key != "id"} | {"name": name}
            expression = one.expression
            if expression is not None:
                expression = str(_renamed(parse_logic(expression), place))
                definition["logic"] = expression
            yield replace(
                one,
                id=count,
                prompt=one.prompt.model_copy(update={"name": name, "id": None}),
                definition=definition,
                expression=expression,
            )


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
