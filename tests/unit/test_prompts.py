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

from clipseg_kfp.errors import ParameterError
from clipseg_kfp.model import load_model, load_tokenizer
from clipseg_kfp.prompts import (
    MAX_PROMPTS,
    RESERVED,
    Prompt,
    PromptSet,
    embed_texts,
    parse_prompts,
    read_prompts,
    read_table,
    split_prompt_text,
    write_table,
)

CAT_AND_CUP = PromptSet(
    prompts=(Prompt(name="a cat", texts=("a cat",)), Prompt(name="a cup", texts=("a cup",)))
)


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
        (b'{"prompt": ["a cat"]}', "f.json: field 'prompts': Field required"),
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


# Mistakes


@pytest.mark.parametrize("empty", [None, "", [], {}, (), {"prompts": []}])
def test_an_empty_list_is_refused(empty: Any) -> None:
    with pytest.raises(ParameterError, match=r"the list of prompts is empty") as caught:
        parse_prompts(empty, "prompts.yaml")
    assert "Give at least one" in caught.value.remedy


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (["a", {"text": "b", "colour": "red"}], "prompt 2, field 'colour': Extra inputs are not permitted"),
        (["a", {"text": "b", "prompts": 1}], "prompt 2, field 'prompts': Extra"),
        ({"prompts": ["a"], "prompt": ["b"]}, "field 'prompt': Extra"),
        ({"prompts": ["a"], "version": 2}, "field 'version': "),
        ({"prompts": "a cat"}, "field 'prompts': "),
        (["a", "b", "a"], "prompts 1 and 3 have the same name 'a'"),
        (["a", {"name": " a ", "text": "b"}], "prompts 1 and 2 have the same name 'a'"),
        (["a", "  "], "prompt 2, field 'name': .*at least 1"),
        (["a", {"name": "", "text": "b"}], "prompt 2, field 'name': .*at least 1"),
        (["a", {"name": "b"}], "prompt 2, field 'texts': Field required"),
        (["a", {"name": "b", "texts": []}], "prompt 2, field 'texts': .*at least 1"),
        (["a", {"name": "b", "texts": ["c", " "]}], "prompt 2, text 2: .*at least 1"),
        (["a", {"name": "b", "texts": ["c", 5]}], "prompt 2, text 2: .*string"),
        (["a", {"name": "b", "text": "x" * 1001}], "prompt 2, text 1: .*at most 1000"),
        (["a", {"texts": 5}], "prompt 2, field 'name': Field required"),
        (["a", {"texts": {"b": 1}}], "prompt 2, field 'name': Field required"),
        (["a", {"text": "b", "texts": ["c"]}], "prompt 2: give 'text' or 'texts', not both"),
        (["a", "x" * 101], "prompt 2, field 'name': .*at most 100"),
        (["a", {"name": "b\x07", "text": "c"}], "prompt 2, field 'name': the name has control characters"),
        (["a", {"name": "b\nc", "text": "c"}], "prompt 2, field 'name': the name has control characters"),
        (["a", "b\u202ec"], "prompt 2, field 'name': the name has control characters"),
        (["a", "b\ud800"], "prompt 2, field 'name': "),
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


@pytest.mark.parametrize("threshold", [0, 1, -0.1, 1.5, float("nan"), float("inf"), True, "high", []])
def test_bad_thresholds_name_the_entry(threshold: Any) -> None:
    with pytest.raises(ParameterError, match=r"prompt 2, field 'threshold': "):
        parse_prompts(["a", {"text": "b", "threshold": threshold}])


@pytest.mark.parametrize("field", RESERVED)
def test_reserved_fields_say_that_they_are_not_supported_yet(field: str) -> None:
    with pytest.raises(
        ParameterError, match=rf"prompt 2: '{field}' prompts are not supported by this version"
    ):
        parse_prompts(["a", {"text": "b", field: "s3://bucket/thing.png"}])


def test_as_many_prompts_as_allowed_are_taken() -> None:
    assert len(parse_prompts([f"thing {i}" for i in range(MAX_PROMPTS)]).prompts) == MAX_PROMPTS


_words = st.text(max_size=5) | st.sampled_from(["a cat", "name", "texts", "\ud800", "\x00"])
_scalars = st.none() | st.booleans() | st.integers() | st.floats() | _words
_keys = st.sampled_from(["prompts", "version", "name", "text", "texts", "threshold", *RESERVED]) | _words
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
        assert all(prompt.texts and all(prompt.texts) for prompt in prompts.prompts)


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


def test_the_table_returns_what_was_written(tmp_path: Path) -> None:
    prompts = parse_prompts(
        [
            {"name": "rust", "texts": ["a rusty bolt", "corrosion"], "threshold": 0.25},
            {"name": "Kätzchen 🐈", "text": "a cat"},
        ]
    )
    embeddings = np.random.default_rng(0).normal(size=(2, 24)).astype(np.float32)
    write_table(tmp_path / "prompts.parquet", prompts, embeddings)
    again, values = read_table(tmp_path / "prompts.parquet")
    assert again == prompts
    assert values.dtype == np.float32
    assert np.array_equal(values, embeddings)
