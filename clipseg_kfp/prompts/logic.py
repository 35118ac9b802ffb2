"""Prompts made of other prompts: AND, OR and NOT over probability maps.

The operators are Zadeh's for fuzzy sets: the minimum, the maximum and the complement. They agree with the
logic of masks where maps are sure, and stay monotone where they are not.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from graphlib import CycleError, TopologicalSorter
from typing import Any, TypeVar

import numpy as np
from lark import Lark, Token, Transformer, UnexpectedCharacters, UnexpectedInput, UnexpectedToken
from numpy.typing import NDArray

from clipseg_kfp.errors import ParameterError

_GRAMMAR = r"""
?start: either
?either: both (_OR both)*
?both: factor (_AND factor)*
?factor: _NOT factor -> negated
       | "(" either ")"
       | NAME -> bare
       | QUOTED -> quoted
_AND.2: /and(?![^\s()"'&|!~])/i
_OR.2: /or(?![^\s()"'&|!~])/i
_NOT.2: /not(?![^\s()"'&|!~])/i
NAME: /[^\s()"'&|!~]+/
QUOTED: /"(?:[^"\\]|\\.)*"/ | /'(?:[^'\\]|\\.)*'/
%ignore /\s+/
"""
_WORDS = ("and", "or", "not")
_REMEDY = 'Combine names of prompts with and, or, not and (): cup and not handle, "red circle" or blue.'

Map = TypeVar("Map", bound=np.float32 | np.uint8)


@dataclass(frozen=True)
class Name:
    """The map of another prompt."""

    name: str

    def __str__(self) -> str:
        if re.fullmatch(r"[^\s()\"'&|!~]+", self.name) and self.name.lower() not in _WORDS:
            return self.name
        return '"' + re.sub(r'(["\\])', r"\\\1", self.name) + '"'


@dataclass(frozen=True)
class Not:
    """The complement, 1 - p."""

    part: Expression

    def __str__(self) -> str:
        return f"not {_bracketed(self.part)}"


@dataclass(frozen=True)
class And:
    """The minimum of two maps or more."""

    parts: tuple[Expression, ...]

    def __str__(self) -> str:
        return " and ".join(_bracketed(part) for part in self.parts)


@dataclass(frozen=True)
class Or:
    """The maximum of two maps or more."""

    parts: tuple[Expression, ...]

    def __str__(self) -> str:
        return " or ".join(_bracketed(part) for part in self.parts)


Expression = Name | Not | And | Or


def _bracketed(part: Expression) -> str:
    return f"({part})" if isinstance(part, And | Or) else str(part)


class _Builder(Transformer[Token, Any]):
    """Builds the expression while parsing, bottom-up; so that deep input needs no deep stack."""

    def either(self, parts: list[Expression]) -> Expression:
        flat = [p for part in parts for p in (part.parts if isinstance(part, Or) else (part,))]
        return Or(tuple(flat))

    def both(self, parts: list[Expression]) -> Expression:
        flat = [p for part in parts for p in (part.parts if isinstance(part, And) else (part,))]
        return And(tuple(flat))

    def negated(self, parts: list[Expression]) -> Expression:
        (part,) = parts
        return part.part if isinstance(part, Not) else Not(part)

    def bare(self, tokens: list[Token]) -> Name:
        return Name(str(tokens[0]))

    def quoted(self, tokens: list[Token]) -> Name:
        return Name(re.sub(r"\\(.)", r"\1", str(tokens[0])[1:-1]))


@cache
def _parser() -> Lark:
    return Lark(_GRAMMAR, parser="lalr", lexer="basic", transformer=_Builder())


def parse_logic(text: str) -> Expression:
    """Reads an expression such as ``cup and not (handle or "red circle")``.

    ``not`` binds closest, then ``and``, then ``or``; the words may be in capitals. Names with spaces, quotes,
    brackets or ``& | ! ~`` in them, or equal to one of the words, stand in quotes; a backslash there takes
    the next character as it is. The prompt set limits the length, not this function: the canonical text of an
    expression has more brackets than people write, and later steps read it again.

    Raises:
        ParameterError: says where the mistake is, with the line and a caret below it.
    """
    try:
        tree: Any = _parser().parse(text)
    except UnexpectedInput as error:
        raise _mistake(text, error) from None
    expression: Expression = tree
    return expression


def _mistake(text: str, error: UnexpectedInput) -> ParameterError:
    ended = isinstance(error, UnexpectedToken) and error.token.type == "$END"
    place = len(text.rstrip()) if ended else error.pos_in_stream or 0
    found = "" if ended else text[place:].split(maxsplit=1)[0][:40]
    remedy = _REMEDY
    if found[:1] in ("'", '"') and isinstance(error, UnexpectedCharacters):
        problem = f"the quote at character {place + 1} is not closed"
    elif isinstance(error, UnexpectedCharacters):
        problem = f"'{found[0]}' at character {place + 1} has no meaning"
    else:
        operand = isinstance(error, UnexpectedToken) and "NAME" in error.expected
        open_ = text[:place].count("(") > text[:place].count(")")  # quoted ones count too: it only words
        need = "a name, not or (" if operand else f"and, or {'or )' if open_ else 'or the end'}"
        what = "the expression ends" if ended else f"'{found}' stands"
        problem = f"{what} at character {place + 1}, where {need} must come"
        if not operand and found and found[0] not in "()" and found.lower() not in _WORDS:
            remedy = f"Put names of several words in quotes. {_REMEDY}"
    shown = re.sub(r"\s", " ", text)
    return ParameterError(f"{problem}:\n    {shown}\n    {' ' * place}^\n", remedy, code="logic_syntax")


def names_in(expression: Expression) -> Iterator[str]:
    """Yields the names that an expression uses, in order of their appearance, repeated ones too."""
    match expression:
        case Name(name):
            yield name
        case Not(part):
            yield from names_in(part)
        case And(parts) | Or(parts):
            for part in parts:
                yield from names_in(part)


def check_names(expression: Expression, known: Iterable[str]) -> None:
    """Raises ``ParameterError`` if an expression uses a name that no prompt has."""
    known = list(known)
    for name in names_in(expression):
        if name not in known:
            lower = {other.lower(): other for other in reversed(known)}
            close = difflib.get_close_matches(name.lower(), lower, n=1)
            remedy = f"Did you mean {Name(lower[close[0]])}?" if close else "Name one that is in the set."
            raise ParameterError(f"there is no prompt named '{name}'.", remedy, code="logic_unknown_name")


def logic_order(expressions: Mapping[str, Expression]) -> list[str]:
    """Sorts logic prompts so that each comes after those that it uses; otherwise in the order given.

    Args:
        expressions: names of logic prompts to their expressions; other names in them are base prompts.

    Raises:
        ParameterError: prompts that use each other in a circle; names it.
    """
    sorter: TopologicalSorter[str] = TopologicalSorter()
    for name, expression in expressions.items():
        sorter.add(name, *(other for other in names_in(expression) if other in expressions))
    try:
        return list(sorter.static_order())
    except CycleError as error:
        circle = " -> ".join(str(Name(name)) for name in reversed(error.args[1]))
        raise ParameterError(
            f"logic prompts use each other in a circle: {circle}.",
            "Let one of them use base prompts only.",
            code="logic_circle",
            where=circle,
        ) from None


def evaluate(expression: Expression, maps: Mapping[str, NDArray[Map]]) -> NDArray[Map]:
    """Combines probability maps.

    Args:
        expression: parsed; every name in it must be in ``maps``.
        maps: names to maps of one shape and one type: float32 between 0 and 1, or uint8 levels (255 is 1).
            They are not changed.

    Returns:
        A new map of the same shape and type. At most one map more than the expression is deep exists at a
        time.

    Raises:
        KeyError: a name without a map.
        ValueError: maps of different shapes.
    """
    result, own = _evaluate(expression, maps)
    return result if own else result.copy()


def _evaluate(expression: Expression, maps: Mapping[str, NDArray[Map]]) -> tuple[NDArray[Map], bool]:
    """The map, and whether it may be written to."""
    if isinstance(expression, Name):
        return maps[expression.name], False
    if isinstance(expression, Not):
        value, own = _evaluate(expression.part, maps)
        one = value.dtype.type(255 if value.dtype == np.uint8 else 1)
        return np.subtract(one, value, out=value if own else np.empty_like(value)), True
    combine: Any = np.minimum if isinstance(expression, And) else np.maximum
    total, own = _evaluate(expression.parts[0], maps)
    for part in expression.parts[1:]:
        value, fresh = _evaluate(part, maps)
        if value.shape != total.shape:
            raise ValueError(f"maps of the shapes {total.shape} and {value.shape} cannot be combined")
        out = total if own else value if fresh else np.empty_like(total)
        total, own = combine(total, value, out=out), True
    return total, own
