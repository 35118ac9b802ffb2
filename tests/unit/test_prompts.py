"""Prompt sets: what people write, what they are told when it is wrong, what the model gets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clipseg_kfp.engine.checkpoint import load_model, load_tokenizer
from clipseg_kfp.errors import ParameterError
from clipseg_kfp.prompts import (
    MAX_PROMPTS,
    Prompt,
    PromptSet,
    embed_texts,
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
    ("data", "message"),
    [
        (b"\xff\xfe[\x00", "f.json is neither JSON nor YAML: .*decode"),
        (b"[a, b", "f.json is neither JSON nor YAML"),
        (b"- 2024-99-99\n", "f.json is neither JSON nor YAML"),
        (b"- !!python/object/apply:os.system ['true']", "f.json is neither JSON nor YAML"),
        (b"[" * 50_000, "f.json is neither JSON nor YAML"),
        (b"", "f.json: the list of prompts is empty"),
        (b"42", "f.json: a list of prompts is needed, not int"),
        (b"- a cat\n- no\n", "f.json: prompt 2: a prompt is a text, or a mapping"),
        (b'{"prompt": ["a cat"]}', "f.json: field 'prompts': it is needed and missing"),
    ],
)
def test_files_that_cannot_be_used_are_named(data: bytes, message: str) -> None:
    with pytest.raises(ParameterError, match=message) as caught:
        read_prompts(data, "f.json")
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
    with pytest.raises(ParameterError, match=r"^prompts: ") as caught:
        split_prompt_text(text)
    assert caught.value.remedy == 'Write ["a cat", "a cup"].'
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
    with pytest.raises(ParameterError, match=r"the list of prompts is empty") as caught:
        parse_prompts(empty, "prompts.yaml")
    assert "Give at least one" in caught.value.remedy


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (["a", {"text": "b", "colour": "red"}], "prompt 2 .'b'., field 'colour': there is no such field"),
        (["a", {"text": "b", "prompts": 1}], "prompt 2 .'b'., field 'prompts': there"),
        ({"prompts": ["a"], "prompt": ["b"]}, "field 'prompt': there"),
        ({"prompts": ["a"], "version": 2}, "field 'version': "),
        ({"prompts": "a cat"}, "field 'prompts': "),
        (["a", "b", "a"], "prompts 1 and 3 have the same name 'a'"),
        (["a", {"name": " a ", "text": "b"}], "prompts 1 and 2 have the same name 'a'"),
        (["a", "  "], "prompt 2, text 1: .*at least 1"),
        (["a", {"name": "", "text": "b"}], "prompt 2, field 'name': .*at least 1"),
        (["a", {"name": "b"}], "prompt 2 .'b'.: nothing to look for; give a text, an image"),
        (["a", {"name": "b", "texts": []}], "prompt 2 .'b'., field 'texts': .*at least 1"),
        (["a", {"name": "b", "texts": ["c", " "]}], "prompt 2 .'b'., text 2: .*at least 1"),
        (["a", {"name": "b", "texts": ["c", 5]}], "prompt 2 .'b'., text 2: a text is needed, not 5"),
        (
            ["a", {"name": "b", "text": "x" * 1001}],
            "prompt 2 .'b'., text 1: at most 1,000 characters are allowed, and there are 1,001",
        ),
        (["a", {"texts": 5}], "prompt 2, field 'texts': a list is needed, not 5"),
        (["a", {"texts": {"b": 1}}], "prompt 2, field 'texts': a list is needed, not a dict"),
        (["a", {"text": "b", "texts": ["c"]}], "prompt 2 .'b'.: give 'text' or 'texts', not both"),
        (["a", "x" * 101], "prompt 2 .'x{40}…'., field 'name': at most 100 characters"),
        (["a", {"name": "b\x07", "text": "c"}], "prompt 2, field 'name': the name has control characters"),
        (["a", {"name": "b\nc", "text": "c"}], "prompt 2, field 'name': the name has control characters"),
        (["a", "b\u202ec"], "prompt 2, field 'name': the name has control characters"),
        (["a", "b\ud800"], "prompt 2, text 1: "),
        (
            ["a", {"name": "b", "image": "x.jpg", "box": [1, 2, 3]}],
            "prompt 2 .'b'., image 1, field 'box', value 4: it is",
        ),
        (
            ["a", {"name": "b", "image": "x", "mask": "y", "box": [1, 2, 3, 4]}],
            "prompt 2 .'b'., image 1: 'mask' and 'box'",
        ),
        (
            ["a", {"name": "b", "image": "x", "box": [5, 5, 1, 4], "units": "cm"}],
            "prompt 2 .*field 'units': it must be 'pixels' or 'fractions'",
        ),
        (["a", {"name": "b", "image": "x", "box": [5, 5, 0, 4]}], "prompt 2 .'b'., image 1: 'box' is "),
        (
            ["a", {"name": "b", "image": "x", "box": [5, 5, 1, 4], "units": "fractions"}],
            "prompt 2 .*between 0 and 1",
        ),
        (
            ["a", {"name": "b", "image": "x", "units": "pixels"}],
            "prompt 2 .'b'., image 1: 'units' belongs to",
        ),
        (
            ["a", {"name": "b", "image": "x", "polygon": [1, 2, 3]}],
            "prompt 2 .'b'., image 1, polygon 1: .*even number",
        ),
        (
            ["a", {"name": "b", "image": "x", "polygon": [[1, 2], [3, 4]]}],
            "prompt 2 .*polygon 1: .*at least 3",
        ),
        (["a", {"image": "x.jpg"}], "prompt 2, field 'name': it is needed and missing"),
        (["a", {"text": "b", "mask": "x.png"}], "prompt 2 .'b'.: 'mask' belongs to an 'image'"),
        (["a", {"text": "b", "image": "x.png"}], "prompt 2 .'b'.: 'text' and 'image' exclude each other"),
        (
            ["a", {"text": "b", "templates": "shufle"}],
            "prompt 2 .'b'., field 'templates': 'shufle' is none of",
        ),
        (["a", {"text": "b", "templates": ["{} {}"]}], "prompt 2 .*needs exactly one {}"),
        (
            ["a", {"name": "b", "logic": "a", "templates": "fixed"}],
            "prompt 2 .'b'.: 'templates' belong to texts",
        ),
        (["a", {"text": "b", "engineering": "none"}], "prompt 2 .'b'.: 'engineering' belongs to images"),
        (
            ["a", {"name": "b", "image": "x", "engineering": "no"}],
            "prompt 2 .*field 'engineering': 'no' is neither",
        ),
        (
            ["a", {"name": "b", "embedding": {"uri": "x.npy"}}],
            "prompt 2 .*'embedding', field 'normalized': it is needed",
        ),
        (
            ["a", {"name": "b", "embedding": {"uri": "x.pt", "normalized": False}}],
            "prompt 2 .*'embedding': 'x.pt' ends",
        ),
        (["a", {"name": "b", "embedding": {"uri": "x.npy", "normalized": True}}], "prompt 2 .*needs 'norm'"),
        (
            ["a", {"name": "b", "embedding": {"uri": "x.npy", "key": "k", "normalized": False}}],
            "prompt 2 .*'key' belongs",
        ),
        (["a", {"name": "b", "mix": [{"text": "a"}]}], "prompt 2 .'b'., field 'mix': .*at least 2"),
        (
            ["a", {"name": "b", "mix": ["a", {"text": "c", "weight": 0}]}],
            "prompt 2 .'b'., part 2, field 'weight': it is 0, and must be greater than 0",
        ),
        (
            ["a", {"name": "b", "mix": ["a", {"logic": "a"}]}],
            "prompt 2 .'b'., part 2, field 'logic': there is no such",
        ),
        (["a", {"text": "b", "hidden": True}], "prompt 2 .'b'.: it is hidden, and no logic uses it"),
        (
            ["a", {"text": "b", "hidden": True, "threshold": 0.5}],
            "prompt 2 .'b'.: a hidden prompt has no masks",
        ),
        ([{"name": "x", "logic": "y or x"}, "y"], "logic prompts use each other in a circle: x -> x"),
        (
            [{"name": "x", "logic": "y"}, {"name": "y", "logic": "x"}],
            "logic prompts use each other in a circle: ",
        ),
        (
            ["cup", {"name": "b", "logic": "cap"}],
            "prompt 2 .'b'., field 'logic': there is no prompt named 'cap'",
        ),
        (["a", {"text": "b", "id": 0}], "prompt 2 .'b'., field 'id': "),
        ([{"text": "a", "id": 2}, "b"], "prompts 1 and 2 have the same id 2"),
        (["a", {"text": "b", "cleaning": {"min_area": "5"}}], "prompt 2 .*'cleaning': '5' is no percentage"),
        (["a", {"text": "b", "cleaning": {"min_area": -5}}], "prompt 2 .*'cleaning', field 'min_area': "),
        (
            ["a", {"text": "b", "threshold": {"name": "x"}}],
            "prompt 2 .*'threshold', field 'calibrated': it is needed",
        ),
        (
            {"prompts": ["a"], "defaults": {"thresholds": 0.5}},
            "field 'defaults', field 'thresholds': there is no such",
        ),
        (["a", {"name": "b", "image": "x", "engineering": "\ud800"}], "prompt 2 .*field 'engineering': "),
        (["a", {"text": "b", "templates": "\ud800"}], "prompt 2 .*field 'templates': "),
        (["a", {"text": "b", "cleaning": {"min_area": "\ud800"}}], "prompt 2 .*field 'cleaning': "),
        (["a", 7], "prompt 2: a prompt is a text, or a mapping"),
        (["a", ["b"]], "prompt 2: a prompt is a text, or a mapping"),
        (["a", None], "prompt 2: a prompt is a text, or a mapping"),
        (7, "a list of prompts is needed, not int"),
        (["x"] * (MAX_PROMPTS + 1), "1,001 prompts are more than 1,000"),
    ],
)
def test_messages_name_the_entry_and_the_field(value: Any, message: str) -> None:
    with pytest.raises(ParameterError, match=rf"^prompts\.yaml: {message}") as caught:
        parse_prompts(value, "prompts.yaml")
    assert len(caught.value.message) < 300
    for raw in ("Input should", "should have", "should be", "pydantic", "tuple"):
        assert raw not in caught.value.message


def test_a_long_text_is_told_to_take_a_name() -> None:
    for entry in ("x" * 101, {"text": "x" * 101}):
        with pytest.raises(ParameterError) as caught:
            parse_prompts([entry])
        assert caught.value.remedy == "Give it a shorter 'name' beside the text."


@pytest.mark.parametrize("threshold", [0, 1, -0.1, 1.5, float("nan"), float("inf"), True, "high", []])
def test_bad_thresholds_name_the_entry(threshold: Any) -> None:
    with pytest.raises(ParameterError, match=r"prompt 2 \('b'\), field 'threshold': "):
        parse_prompts(["a", {"text": "b", "threshold": threshold}])


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


# Embeddings


def features(folder: Path, texts: list[str]) -> torch.Tensor:
    tokens = load_tokenizer(folder)(texts, padding=True, return_tensors="pt")
    with torch.inference_mode():
        return load_model(folder).clip.get_text_features(**tokens).pooler_output


def test_embeddings_are_the_models_text_features(tiny_model: Path) -> None:
    texts = ["a red circle", "star", "the striped square on the left"]
    found = embed_texts(parse_prompts(texts), load_model(tiny_model), load_tokenizer(tiny_model))
    assert found.shape == (3, 24)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, features(tiny_model, texts), atol=1e-5)
    lengths = np.linalg.norm(found, axis=1)
    assert np.abs(lengths - 1).min() > 0.05, "embeddings must not be normalized"


def test_several_texts_are_averaged(tiny_model: Path) -> None:
    texts = ["a red circle", "a crimson disc of great size", "circle"]
    prompts = parse_prompts(["star", {"name": "circle", "texts": texts}])
    found = embed_texts(prompts, load_model(tiny_model), load_tokenizer(tiny_model))
    np.testing.assert_allclose(found[1], features(tiny_model, texts).mean(0), atol=1e-5)
    np.testing.assert_allclose(found[0], features(tiny_model, ["star"])[0], atol=1e-5)


def test_a_text_that_the_model_cannot_read_is_named(tiny_model: Path) -> None:
    prompts = parse_prompts(["star", {"name": "long", "texts": ["circle", "circle " * 40]}])
    with pytest.raises(
        ParameterError, match=r"prompt 2 \('long'\): a text has 4\d tokens; .*reads 24"
    ) as caught:
        embed_texts(prompts, load_model(tiny_model), load_tokenizer(tiny_model))
    assert caught.value.remedy == "Shorten it."
