"""The reference, the examples and the JSON Schema say what the code does."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from clipseg_kfp import prompts
from clipseg_kfp.engine.checkpoint import ModelFacts
from clipseg_kfp.errors import ParameterError
from clipseg_kfp.prompts import Files, gather, json_schema, parse_prompts, read_prompts

ROOT = Path(__file__).parents[3]
SCHEMA = Path(prompts.__file__).with_name("prompts.schema.json")
DOCUMENT = (ROOT / "docs" / "prompts.md").read_text("utf-8")
BLOCKS = re.findall(r"```yaml\n(.*?)```", DOCUMENT, re.DOTALL)
EXAMPLES = sorted((ROOT / "examples" / "prompts").glob("*.*"))


def validator() -> Any:
    jsonschema = pytest.importorskip("jsonschema", reason="needs jsonschema")
    jsonschema.Draft202012Validator.check_schema(json_schema())
    return jsonschema.Draft202012Validator(json_schema())


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block[:30])
def test_every_example_of_the_reference_is_a_prompt_set(block: str) -> None:
    read_prompts(block.encode(), "docs/prompts.md")
    assert validator().is_valid(yaml.safe_load(block))


def test_the_reference_names_every_field() -> None:
    schema = json.loads(SCHEMA.read_text("utf-8"))
    fields = set()
    for definition in schema["$defs"].values():
        for part in definition.get("anyOf", [definition]):
            fields |= set(part.get("properties", {})) - {"$schema", "prompts"}
    assert len(fields) > 30
    missing = {field for field in fields if not re.search(rf"\b{field}\b", DOCUMENT)}
    assert not missing


def test_links_within_the_reference_lead_somewhere() -> None:
    headings = re.findall(r"^#+ (.*)$", DOCUMENT, re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    assert set(re.findall(r"\(#([\w-]+)\)", DOCUMENT)) <= anchors
    for target in re.findall(r"\]\((\.\./[^)]+)\)", DOCUMENT):
        assert (ROOT / "docs" / target).exists(), target


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_every_example_can_be_used(path: Path) -> None:
    """The files that they name are there as well."""
    found = read_prompts(path.read_bytes(), path.name)
    facts = ModelFacts("digest", 32, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2), 4)
    assert list(gather(found, facts, 0.5, Files(str(path))))
    assert validator().is_valid(yaml.safe_load(path.read_text("utf-8")))


def test_the_schema_in_the_package_is_the_models() -> None:
    assert json.loads(SCHEMA.read_text("utf-8")) == json_schema(), (
        "python -m clipseg_kfp.prompts writes it anew"
    )


@pytest.mark.parametrize(
    "entry",
    [
        {"text": "a", "colour": "red"},
        {"name": "a"},
        {"text": "a", "image": "x.jpg"},
        {"text": "a", "threshold": 2},
        {"text": "a", "threshold": "high"},
        {"text": "a", "threshold": {"otsu": {"minimum": 2}}},
        {"text": "a", "threshold": {"otsu": {}}},
        {"text": "a", "templates": "shufle"},
        {"text": "a", "templates": ["no place"]},
        {"name": "a", "image": "x.jpg", "box": [1, 2, 3]},
        {"name": "a", "image": "x.jpg", "polygon": [[1, 2], [3, 4]]},
        {"name": "a", "embedding": {"uri": "x.npy"}},
        {"name": "a", "mix": ["b"]},
        {"text": "a", "cleaning": {"min_area": "5"}},
        {"text": "a", "id": 0},
        {"image": "x.jpg"},
        {"text": "a", "mask": "x.png"},
        {"name": "a", "image": "x.jpg", "mask": "x.png", "box": [1, 2, 3, 4]},
        {"name": "a", "image": {"image": "x.jpg", "mask": "x.png", "polygon": [1, 2, 3, 4, 5, 6]}},
        {"name": "a", "image": "x.jpg", "mask": "x.png", "units": "pixels"},
        {"name": "a", "embedding": {"uri": "x.npy", "normalized": True}},
        {"name": "a", "embedding": {"uri": "x.npy", "normalized": False, "norm": "text"}},
        {"text": "a", "templates": "{} and {}"},
        7,
    ],
)
def test_schema_and_parser_refuse_the_same_mistakes(entry: Any) -> None:
    assert not validator().is_valid([entry])
    with pytest.raises(ParameterError):
        parse_prompts([entry])


@pytest.mark.parametrize(
    "entry",
    [
        "a",
        {"text": "a", "templates": "a photo of a {}."},
        {"text": "a", "templates": ["a {}", "the {}"]},
        {"texts": ["a", "b"], "name": "c"},
        {"text": "a", "threshold": {"otsu": {"minimum": 0.2}}},
        {"name": "a", "image": "x.jpg", "mask": None, "box": [0, 0, 1, 1], "units": "fractions"},
        {"name": "a", "image": {"image": "x.jpg", "mask": "x.png", "polygons": []}},
        {"name": "a", "embedding": {"uri": "x.npy", "normalized": True, "norm": 10}},
        {"name": "a", "embedding": {"uri": "x.npy", "normalized": False, "norm": None}},
        {"name": "a", "mix": [{"image": "x.jpg", "mask": "x.png"}, "b"]},
        {"prompts": ["a"], "defaults": {"threshold": 0.3, "templates": "a {}"}},
    ],
)
def test_schema_and_parser_take_the_same_forms(entry: Any) -> None:
    assert validator().is_valid([entry])
    parse_prompts([entry])
