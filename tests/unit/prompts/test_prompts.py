"""Prompt sets: what people write, what they are told when it is wrong, what the model gets."""

from __future__ import annotations

import json
from typing import Any

import pytest
from codes import fails
from hypothesis import given, settings
from hypothesis import strategies as st

from clipseg_kfp.errors import ParameterError
from clipseg_kfp.prompts import (
    MAX_PROMPTS,
    Prompt,
    PromptSet,
    parse_prompts,
    read_prompts,
    split_prompt_text,
)

CAT_AND_CUP = PromptSet(
    prompts=(Prompt(name="a cat", texts=("a cat",)), Prompt(name="a cup", texts=("a cup",)))
)


KINDS = ("texts", "images", "images_in", "embedding", "mix", "logic")


# Forms


@pytest.mark.parametrize(
    "value",
    [
        ["a cat", "a cup"],
        ("a cat", "a cup"),
        ["  a cat ", {"text": "a cup"}],
        [{"texts": "a cat"}, {"texts": ["a cup"], "name": "a cup"}],
        {"prompts": ["a cat", "a cup"]},
        {"version": 1, "prompts": [{"name": "a cat", "text": "a cat", "threshold": None}, "a cup"]},
    ],
)
def test_short_and_long_forms_mean_the_same(value: Any) -> None:
    assert parse_prompts(value) == CAT_AND_CUP


def test_a_single_text_is_a_set_of_one() -> None:
    assert parse_prompts("a cat").prompts == CAT_AND_CUP.prompts[:1]


def test_all_fields_are_kept_in_order() -> None:
    given_prompts = [{"name": "rust", "texts": ["a rusty bolt", "corrosion"], "threshold": 0.25}, "a bolt"]
    first, second = parse_prompts(given_prompts).prompts
    assert (first.name, first.texts, first.threshold) == ("rust", ("a rusty bolt", "corrosion"), 0.25)
    assert (second.name, second.texts, second.threshold) == ("a bolt", ("a bolt",), None)


@pytest.mark.parametrize(
    "data",
    [
        b'["a cat", "a cup"]',
        b'\xef\xbb\xbf["a cat", "a cup"]',
        b'{\n\t"prompts": [\n\t\t"a cat",\n\t\t{"text": "a cup"}\n\t]\n}',
        b"- a cat\n- a cup\n",
        b"\xef\xbb\xbf- a cat\r\n- text: a cup\r\n",
        b"# what to look for\nversion: 1\nprompts:\n  - a cat\n  - name: a cup\n    texts: [a cup]\n",
    ],
    ids=["json", "json-bom", "json-tabs", "yaml", "yaml-bom-crlf", "yaml-comments"],
)
def test_files_are_read_in_both_formats(data: bytes) -> None:
    assert read_prompts(data, "prompts.yaml") == CAT_AND_CUP


def test_unicode_arrives_whole_from_both_formats() -> None:
    texts = ["ein Kätzchen", "猫", "🐈 cat"]
    for data in (
        json.dumps(texts),
        json.dumps(texts, ensure_ascii=False),
        "- ein Kätzchen\n- 猫\n- 🐈 cat\n",
    ):
        assert [prompt.name for prompt in read_prompts(data.encode(), "f").prompts] == texts


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"\xff\xfe[\x00", "prompts_not_json_or_yaml"),
        (b"[a, b", "prompts_not_json_or_yaml"),
        (b"- 2024-99-99\n", "prompts_not_json_or_yaml"),
        (b"- !!python/object/apply:os.system ['true']", "prompts_not_json_or_yaml"),
        (b"[" * 50_000, "prompts_not_json_or_yaml"),
        (b"", "prompts_empty"),
        (b"42", "prompts_type"),
        (b"- a cat\n- no\n", "prompt_type"),
        (b'{"prompt": ["a cat"]}', "missing"),
    ],
)
def test_files_that_cannot_be_used_are_named(data: bytes, code: str) -> None:
    with fails(code) as caught:
        read_prompts(data, "f.json")
    assert caught.value.message.startswith("f.json")
    assert caught.value.where in ("f.json", "prompts", "prompts[1]")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a cat, a cup", ["a cat", "a cup"]),
        (" a cat ,, a cup ,", ["a cat", "a cup"]),
        ("a cat", ["a cat"]),
        ('["a cat, sleeping", "a cup"]', ["a cat, sleeping", "a cup"]),
        (' [{"name": "cat", "text": "a cat"}]', [{"name": "cat", "text": "a cat"}]),
        ("", []),
        (" , ", []),
        ("[]", []),
    ],
)
def test_one_line_of_prompts_is_split(text: str, expected: list[Any]) -> None:
    assert split_prompt_text(text) == expected


@pytest.mark.parametrize("text", ["[a cat]", '["a cat"', "[" * 50_000])
def test_a_broken_list_on_one_line_says_how_to_write_it(text: str) -> None:
    with fails("prompts_not_json", where="prompts") as caught:
        split_prompt_text(text)
    assert '["a cat", "a cup"]' in caught.value.remedy
    assert len(caught.value.message) < 500


@pytest.mark.parametrize(
    ("short", "full"),
    [
        ({"image": "x.jpg"}, {"images": [{"image": "x.jpg"}]}),
        ({"images": "x.jpg"}, {"images": ["x.jpg"]}),
        ({"image": "x.jpg", "box": [1, 2, 3, 4]}, {"images": [{"image": "x.jpg", "box": [1, 2, 3, 4]}]}),
        (
            {"image": {"image": "x.jpg", "polygon": [1, 2, 3, 4, 5, 6]}},
            {"images": [{"image": "x.jpg", "polygons": [[[1, 2], [3, 4], [5, 6]]]}]},
        ),
        ({"text": "a", "templates": "a {}"}, {"texts": ["a"], "templates": ["a {}"]}),
        (
            {"mix": ["a", {"image": "x"}]},
            {"mix": [{"texts": ["a"], "weight": 1}, {"images": ["x"], "weight": 1.0}]},
        ),
        ({"text": "a", "cleaning": {"min_area": 50.0}}, {"texts": ["a"], "cleaning": {"min_area": 50}}),
    ],
)
def test_short_forms_of_every_kind_mean_the_same(short: dict[str, Any], full: dict[str, Any]) -> None:
    assert parse_prompts([{"name": "n", **short}]) == parse_prompts([{"name": "n", **full}])


def test_full_forms_survive_a_round_trip() -> None:
    """What ``prompts check`` prints can be used as a prompt file."""
    entries = [
        "a cat",
        {"name": "b", "image": "x.jpg", "polygon": [[1, 2], [3, 4], [5, 6]], "engineering": {"blur": 0}},
        {
            "name": "c",
            "mix": ["a", {"images_in": "s3://b/x/", "weight": 2}],
            "threshold": "otsu",
            "hidden": False,
        },
        {"name": "d", "logic": "b and not c", "cleaning": {"min_area": "0.1%", "fill_holes": True}},
        {"name": "e", "embedding": {"uri": "v.npy", "row": 2, "normalized": True, "norm": "text"}, "id": 40},
    ]
    prompts = parse_prompts({"prompts": entries, "defaults": {"threshold": {"calibrated": "m.json"}}})
    shown = json.dumps(prompts.model_dump(mode="json", exclude_defaults=True))
    assert read_prompts(shown.encode(), "again") == prompts


def test_ids_are_places_unless_given() -> None:
    prompts = parse_prompts(["a", {"text": "b", "id": 9}, "c"])
    assert [number for number, _ in prompts.numbered()] == [1, 9, 3]


def test_cleaning_takes_its_gaps_from_the_defaults() -> None:
    prompts = parse_prompts(
        {
            "defaults": {"cleaning": {"min_area": "0.1%", "smooth": 2}},
            "prompts": ["a", {"text": "b", "cleaning": {"min_area": 7, "fill_holes": 20}}],
        }
    )
    first, second = (prompts.cleaning_of(prompt) for prompt in prompts.prompts)
    assert first.arguments(200, 100) == {
        "min_area": 20, "fill_holes": False, "smooth": 2, "keep_largest": False,
    }  # fmt: skip
    assert second.arguments(200, 100) == {
        "min_area": 7, "fill_holes": 20, "smooth": 2, "keep_largest": False,
    }  # fmt: skip


@pytest.mark.parametrize(("value", "kept"), [(True, True), (False, False), (1, 1), (1.0, 1), (30, 30)])
def test_filling_all_holes_is_not_filling_those_of_one_pixel(value: Any, kept: Any) -> None:
    (prompt,) = parse_prompts([{"text": "a", "cleaning": {"fill_holes": value}}]).prompts
    assert prompt.cleaning is not None
    assert prompt.cleaning.fill_holes == kept
    assert type(prompt.cleaning.fill_holes) is type(kept)


# Mistakes


@pytest.mark.parametrize("empty", [None, "", [], {}, (), {"prompts": []}])
def test_an_empty_list_is_refused(empty: Any) -> None:
    with fails("prompts_empty", where="prompts.yaml"):
        parse_prompts(empty, "prompts.yaml")


@pytest.mark.parametrize(
    ("value", "code", "where"),
    [
        (["a", {"text": "b", "colour": "red"}], "extra_forbidden", "prompts[1].colour"),
        (["a", {"text": "b", "prompts": 1}], "extra_forbidden", "prompts[1].prompts"),
        ({"prompts": ["a"], "prompt": ["b"]}, "extra_forbidden", "prompt"),
        ({"prompts": ["a"], "version": 2}, "less_than_equal", "version"),
        ({"prompts": "a cat"}, "tuple_type", "prompts"),
        (["a", "b", "a"], "name_taken", "prompts[2].name"),
        (["a", {"name": " a ", "text": "b"}], "name_taken", "prompts[1].name"),
        (["a", "  "], "string_too_short", "prompts[1].texts[0]"),
        (["a", {"name": "", "text": "b"}], "string_too_short", "prompts[1].name"),
        (["a", {"name": "b"}], "prompt_kind_missing", "prompts[1]"),
        (["a", {"name": "b", "texts": []}], "too_short", "prompts[1].texts"),
        (["a", {"name": "b", "texts": ["c", " "]}], "string_too_short", "prompts[1].texts[1]"),
        (["a", {"name": "b", "texts": ["c", 5]}], "string_type", "prompts[1].texts[1]"),
        (["a", {"name": "b", "text": "x" * 1001}], "string_too_long", "prompts[1].texts[0]"),
        (["a", {"texts": 5}], "tuple_type", "prompts[1].texts"),
        (["a", {"texts": {"b": 1}}], "tuple_type", "prompts[1].texts"),
        (["a", {"text": "b", "texts": ["c"]}], "prompt_kind_twice", "prompts[1]"),
        (["a", "x" * 101], "string_too_long", "prompts[1].name"),
        (["a", {"name": "b\x07", "text": "c"}], "name_unprintable", "prompts[1].name"),
        (["a", {"name": "b\nc", "text": "c"}], "name_unprintable", "prompts[1].name"),
        (["a", "b\u202ec"], "name_unprintable", "prompts[1].name"),
        (["a", "b\ud800"], "string_unicode", "prompts[1].texts[0]"),
        (["a", {"name": "b", "image": "x.jpg", "box": [1, 2, 3]}], "missing", "prompts[1].images[0].box[3]"),
        (
            ["a", {"name": "b", "image": "x", "mask": "y", "box": [1, 2, 3, 4]}],
            "region_twice",
            "prompts[1].images[0]",
        ),
        (
            ["a", {"name": "b", "image": "x", "box": [5, 5, 1, 4], "units": "cm"}],
            "literal_error",
            "prompts[1].images[0].units",
        ),
        (["a", {"name": "b", "image": "x", "box": [5, 5, 0, 4]}], "box_empty", "prompts[1].images[0]"),
        (
            ["a", {"name": "b", "image": "x", "box": [5, 5, 1, 4], "units": "fractions"}],
            "fraction_out_of_range",
            "prompts[1].images[0]",
        ),
        (["a", {"name": "b", "image": "x", "units": "pixels"}], "field_misplaced", "prompts[1].images[0]"),
        (
            ["a", {"name": "b", "image": "x", "polygon": [1, 2, 3]}],
            "polygon_odd",
            "prompts[1].images[0].polygons[0]",
        ),
        (
            ["a", {"name": "b", "image": "x", "polygon": [[1, 2], [3, 4]]}],
            "too_short",
            "prompts[1].images[0].polygons[0]",
        ),
        (["a", {"image": "x.jpg"}], "missing", "prompts[1].name"),
        (["a", {"text": "b", "mask": "x.png"}], "field_misplaced", "prompts[1]"),
        (["a", {"text": "b", "image": "x.png"}], "prompt_kind_twice", "prompts[1]"),
        (["a", {"text": "b", "templates": "shufle"}], "template_unknown", "prompts[1].templates"),
        (["a", {"text": "b", "templates": ["{} {}"]}], "template_place", "prompts[1].templates"),
        (["a", {"name": "b", "logic": "a", "templates": "fixed"}], "field_misplaced", "prompts[1]"),
        (["a", {"text": "b", "engineering": "none"}], "field_misplaced", "prompts[1]"),
        (
            ["a", {"name": "b", "image": "x", "engineering": "no"}],
            "engineering_unknown",
            "prompts[1].engineering",
        ),
        (["a", {"name": "b", "embedding": {"uri": "x.npy"}}], "missing", "prompts[1].embedding.normalized"),
        (
            ["a", {"name": "b", "embedding": {"uri": "x.pt", "normalized": False}}],
            "embedding_file_type",
            "prompts[1].embedding",
        ),
        (
            ["a", {"name": "b", "embedding": {"uri": "x.npy", "normalized": True}}],
            "norm_missing",
            "prompts[1].embedding",
        ),
        (
            ["a", {"name": "b", "embedding": {"uri": "x.npy", "key": "k", "normalized": False}}],
            "field_misplaced",
            "prompts[1].embedding",
        ),
        (["a", {"name": "b", "mix": [{"text": "a"}]}], "too_short", "prompts[1].mix"),
        (
            ["a", {"name": "b", "mix": ["a", {"text": "c", "weight": 0}]}],
            "greater_than",
            "prompts[1].mix[1].weight",
        ),
        (["a", {"name": "b", "mix": ["a", {"logic": "a"}]}], "extra_forbidden", "prompts[1].mix[1].logic"),
        (["a", {"text": "b", "hidden": True}], "hidden_unused", "prompts[1].hidden"),
        (["a", {"text": "b", "hidden": True, "threshold": 0.5}], "field_misplaced", "prompts[1]"),
        ([{"name": "x", "logic": "y or x"}, "y"], "logic_circle", "x -> x"),
        ([{"name": "x", "logic": "y"}, {"name": "y", "logic": "x"}], "logic_circle", "x -> y -> x"),
        (["cup", {"name": "b", "logic": "cap"}], "logic_unknown_name", "prompts[1].logic"),
        (["a", {"text": "b", "id": 0}], "greater_than_equal", "prompts[1].id"),
        ([{"text": "a", "id": 2}, "b"], "id_taken", "prompts[1].id"),
        (["a", {"text": "b", "cleaning": {"min_area": "5"}}], "percentage", "prompts[1].cleaning.min_area"),
        (
            ["a", {"text": "b", "cleaning": {"min_area": -5}}],
            "greater_than_equal",
            "prompts[1].cleaning.min_area",
        ),
        (["a", {"text": "b", "threshold": {"name": "x"}}], "missing", "prompts[1].threshold.calibrated"),
        ({"prompts": ["a"], "defaults": {"thresholds": 0.5}}, "extra_forbidden", "defaults.thresholds"),
        (
            ["a", {"name": "b", "image": "x", "engineering": "\ud800"}],
            "engineering_unknown",
            "prompts[1].engineering",
        ),
        (["a", {"text": "b", "templates": "\ud800"}], "template_unknown", "prompts[1].templates"),
        (
            ["a", {"text": "b", "cleaning": {"min_area": "\ud800"}}],
            "percentage",
            "prompts[1].cleaning.min_area",
        ),
        (["a", 7], "prompt_type", "prompts[1]"),
        (["a", ["b"]], "prompt_type", "prompts[1]"),
        (["a", None], "prompt_type", "prompts[1]"),
        (7, "prompts_type", "prompts.yaml"),
        (["x"] * (MAX_PROMPTS + 1), "too_long", "prompts"),
    ],
)
def test_mistakes_are_told_by_their_entry_and_field(value: Any, code: str, where: str) -> None:
    with fails(code, where=where) as caught:
        parse_prompts(value, "prompts.yaml")
    assert caught.value.message.startswith("prompts.yaml: ")
    assert len(caught.value.message) < 300
    for raw in ("Input should", "pydantic", "tuple"):
        assert raw not in caught.value.message


def test_a_long_text_is_told_to_take_a_name() -> None:
    for entry in ("x" * 101, {"text": "x" * 101}):
        with fails("string_too_long", where="prompts[0].name") as caught:
            parse_prompts([entry])
        assert "'name'" in caught.value.remedy


@pytest.mark.parametrize("threshold", [0, 1, -0.1, 1.5, float("nan"), float("inf"), True, "high", []])
def test_bad_thresholds_name_the_entry(threshold: Any) -> None:
    with pytest.raises(ParameterError) as caught:
        parse_prompts(["a", {"text": "b", "threshold": threshold}])
    assert caught.value.where == "prompts[1].threshold"
    assert "prompt 2 ('b')" in caught.value.message


def test_as_many_prompts_as_allowed_are_taken() -> None:
    assert len(parse_prompts([f"thing {i}" for i in range(MAX_PROMPTS)]).prompts) == MAX_PROMPTS


_words = st.text(max_size=5) | st.sampled_from(["a cat", "name", "texts", "\ud800", "\x00"])
_scalars = st.none() | st.booleans() | st.integers() | st.floats() | _words
_FIELDS = {"text", "image", "mask", "box", "polygon", *PromptSet.model_fields, *Prompt.model_fields}
_keys = st.sampled_from(sorted(_FIELDS)) | _words
_values = st.recursive(
    _scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_keys, inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=400, deadline=None)
@given(_values | st.lists(_values) | st.fixed_dictionaries({"prompts": st.lists(_values)}))
def test_anything_is_either_a_prompt_set_or_a_parameter_error(value: Any) -> None:
    try:
        prompts = parse_prompts(value)
    except ParameterError as error:
        assert error.message.startswith("prompts: ")
    else:
        names = [prompt.name for prompt in prompts.prompts]
        assert len(set(names)) == len(names) >= 1
        assert all(name.isprintable() and name.strip() for name in names)
        assert all(len([f for f in KINDS if getattr(prompt, f)]) == 1 for prompt in prompts.prompts)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=40) | st.text(alphabet="[]{}:,-&*!|> \t\n\"'a0#?%@", max_size=20).map(str.encode))
def test_any_file_is_either_a_prompt_set_or_a_parameter_error(data: bytes) -> None:
    try:
        read_prompts(data, "some file")
    except ParameterError as error:
        assert error.message.startswith("some file")
