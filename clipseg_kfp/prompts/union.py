"""Several prompt sets as one, to be compared: each image is encoded once for all of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from clipseg_kfp.errors import ParameterError
from clipseg_kfp.prompts.definitions import ResolvedPrompt
from clipseg_kfp.prompts.logic import And, Expression, Name, Not, Or, parse_logic
from clipseg_kfp.prompts.sets import MAX_PROMPTS
from clipseg_kfp.prompts.table import describe


def combine(sets: Iterable[tuple[str, Iterable[ResolvedPrompt]]]) -> Iterator[ResolvedPrompt]:
    """Joins prompt sets; their prompts are called ``<set>/<name>`` and numbered anew.

    Args:
        sets: names, without a slash, and prompts of each.

    Raises:
        ParameterError: more prompts than a run takes.
    """
    count = 0
    for set_name, resolved_prompts in sets:
        for resolved in resolved_prompts:
            count += 1
            if count > MAX_PROMPTS:
                raise ParameterError(
                    f"The prompt sets have more than {MAX_PROMPTS:,} prompts together.",
                    "Compare them in several runs.",
                    code="prompts_too_many",
                    where="prompt_sets",
                )
            name = f"{set_name}/{resolved.name}"
            definition = {k: value for k, value in resolved.definition.items() if k != "id"} | {"name": name}
            expression = resolved.expression
            if expression is not None:
                expression = str(_renamed(parse_logic(expression), set_name))
                definition["logic"] = expression
            yield replace(
                resolved,
                id=count,
                name=name,
                description=describe(definition),
                definition=definition,
                expression=expression,
            )


def _renamed(expression: Expression, set_name: str) -> Expression:
    match expression:
        case Name(name):
            return Name(f"{set_name}/{name}")
        case Not(part):
            return Not(_renamed(part, set_name))
        case And(parts) | Or(parts):
            return type(expression)(tuple(_renamed(part, set_name) for part in parts))
