"""Logic between prompts: what is read, what is said about mistakes, what comes out."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from codes import fails
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from clipseg_kfp.errors import ParameterError
from clipseg_kfp.prompts import parse_prompts
from clipseg_kfp.prompts.logic import (
    And,
    Expression,
    Name,
    Not,
    Or,
    check_names,
    evaluate,
    logic_order,
    names_in,
    parse_logic,
)

A, B, C = Name("a"), Name("b"), Name("c")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a", A),
        ("(((a)))", A),
        ("a and b and c", And((A, B, C))),
        ("a and b or c", Or((And((A, B)), C))),
        ("a and (b or c)", And((A, Or((B, C))))),
        ("a or b and not c", Or((A, And((B, Not(C)))))),
        ("not not a", A),
        ("NOT(a)And b", And((Not(A), B))),
        ("not (a or b)", Not(Or((A, B)))),
        ('"red circle" or blue', Or((Name("red circle"), Name("blue")))),
        ('\'it\\\'s\' or "a \\"b\\" \\\\"', Or((Name("it's"), Name('a "b" \\')))),
        ('"and" and "NOT"', And((Name("and"), Name("NOT")))),
        ("android or orange and notch", Or((Name("android"), And((Name("orange"), Name("notch")))))),
        ("a\n  and\tb", And((A, B))),
        ("猫 and Kätzchen-2.0", And((Name("猫"), Name("Kätzchen-2.0")))),
    ],
)
def test_expressions_are_read(text: str, expected: Expression) -> None:
    assert parse_logic(text) == expected


@pytest.mark.parametrize(
    ("text", "place", "quoting"),
    [
        ("", 1, False),
        ("cup and", 8, False),
        ("cup and )", 9, False),
        ("red circle or blue", 5, True),
        ("(a or b", 8, False),
        ("a)", 2, False),
        ("a & b", 3, False),
        ('a or "b', 6, False),
        ("and", 1, False),
        ("a not b", 3, False),
    ],
)
def test_mistakes_are_pointed_at(text: str, place: int, quoting: bool) -> None:
    with fails("logic_syntax") as caught:
        parse_logic(text)
    assert f"character {place}" in caught.value.message
    assert ("quotes" in caught.value.remedy) == quoting
    shown, caret = caught.value.message.splitlines()[1:3]
    assert shown == f"    {text}"
    assert caret.index("^") == 4 + place - 1


def test_deep_and_long_input_ends_in_an_answer() -> None:
    assert parse_logic("(" * 499 + "a" + ")" * 499) == A
    assert parse_logic("not " * 248 + "a") == A
    with fails("string_too_long", where="prompts[1].logic"):
        parse_prompts(["a", {"name": "b", "logic": "a" * 1001}])


def test_what_was_short_enough_stays_readable_in_its_longer_canonical_text() -> None:
    text = " or ".join(["a and b"] * 90)
    logic = parse_prompts(["a", "b", {"name": "c", "logic": text}]).expressions()["c"]
    assert len(text) < 1000 < len(str(logic))
    assert parse_logic(str(logic)) == logic


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="ab()\"'\\ &andornot\n", max_size=30))
def test_anything_is_an_expression_or_a_parameter_error(text: str) -> None:
    try:
        expression = parse_logic(text)
    except ParameterError:
        return
    assert parse_logic(str(expression)) == expression


_names = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=8).map(Name)
_expressions: st.SearchStrategy[Expression] = st.recursive(
    _names | st.sampled_from([A, B, C]),
    lambda inner: (
        inner.filter(lambda e: not isinstance(e, Not)).map(Not)
        | st.lists(inner.filter(lambda e: not isinstance(e, And)), min_size=2, max_size=3).map(
            lambda p: And(tuple(p))
        )
        | st.lists(inner.filter(lambda e: not isinstance(e, Or)), min_size=2, max_size=3).map(
            lambda p: Or(tuple(p))
        )
    ),
    max_leaves=8,
)


@settings(max_examples=200, deadline=None)
@given(_expressions)
def test_the_canonical_text_means_the_same(expression: Expression) -> None:
    assert parse_logic(str(expression)) == expression


def test_the_text_does_not_depend_on_how_it_was_written() -> None:
    assert str(parse_logic("( a AND\n not (not b))")) == str(parse_logic("a and b")) == "a and b"
    assert str(Name("red circle")) == '"red circle"'
    assert str(Name("Not")) == '"Not"'


def test_unknown_names_get_a_suggestion() -> None:
    known = ["cup", "Red Circle", "handle"]
    check_names(parse_logic('cup and "Red Circle"'), known)
    with fails("logic_unknown_name") as caught:
        check_names(parse_logic('cup and "red circl"'), known)
    assert '"Red Circle"' in caught.value.remedy
    with fails("logic_unknown_name") as caught:
        check_names(parse_logic("xyz"), known)
    assert not any(name in caught.value.remedy for name in known)


def test_logic_prompts_come_after_those_that_they_use() -> None:
    texts = {"z": "y or base", "y": "not x", "x": "base", "w": "base"}
    order = logic_order({name: parse_logic(text) for name, text in texts.items()})
    assert sorted(order) == ["w", "x", "y", "z"]
    assert order.index("x") < order.index("y") < order.index("z")


def test_a_circle_is_named() -> None:
    texts = {"x": "y", "y": "z and base", "z": "not x", "ok": "base"}
    with fails("logic_circle") as caught:
        logic_order({name: parse_logic(text) for name, text in texts.items()})
    circle = caught.value.where.split(" -> ")
    assert circle[0] == circle[-1]
    assert set(circle) == {"x", "y", "z"}
    for user, used in pairwise(circle):
        assert used in list(names_in(parse_logic(texts[user])))


def _reference(expression: Expression, point: dict[str, float]) -> float:
    match expression:
        case Name(name):
            return point[name]
        case Not(part):
            return 1 - _reference(part, point)
        case And(parts):
            return min(_reference(part, point) for part in parts)
        case Or(parts):
            return max(_reference(part, point) for part in parts)


_three = st.recursive(
    st.sampled_from([A, B, C]),
    lambda inner: inner.map(Not) | st.lists(inner, min_size=2, max_size=3).map(lambda p: And(tuple(p)))
    | st.lists(inner, min_size=2, max_size=3).map(lambda p: Or(tuple(p))),
    max_leaves=8,
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(_three, hnp.array_shapes(min_dims=0, max_dims=3, max_side=3), st.integers(0, 2**32 - 1))
def test_maps_are_combined_point_by_point(expression: Expression, shape: tuple[int, ...], seed: int) -> None:
    rng = np.random.default_rng(seed)
    maps = {name: np.asarray(rng.random(shape, np.float32)) for name in "abc"}
    before = {name: value.copy() for name, value in maps.items()}
    found = evaluate(expression, maps)
    assert found.dtype == np.float32
    assert found.shape == shape
    for place in np.ndindex(shape):
        point = {name: float(value[place]) for name, value in maps.items()}
        assert found[place] == pytest.approx(_reference(expression, point), abs=1e-6)
    assert all(np.array_equal(maps[name], before[name]) for name in maps), "inputs must stay as they are"
    assert not any(np.shares_memory(found, value) for value in maps.values())


def test_levels_of_bytes_are_combined_too() -> None:
    maps = {"a": np.array([0, 10, 255], np.uint8), "b": np.array([5, 200, 0], np.uint8)}
    found = evaluate(parse_logic("a and not b"), maps)
    assert found.dtype == np.uint8
    assert found.tolist() == [0, 10, 255]


def test_maps_of_different_shapes_are_refused() -> None:
    maps = {"a": np.zeros((2, 2), np.float32), "b": np.zeros((2, 1), np.float32)}
    with pytest.raises(ValueError):
        evaluate(parse_logic("a or b"), maps)
    with pytest.raises(KeyError):
        evaluate(parse_logic("a or c"), maps)
