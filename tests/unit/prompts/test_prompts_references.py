"""Prompt files that travel as a parameter, and what prompts refer to."""

from __future__ import annotations

from pathlib import Path

import pytest
from codes import fails

from clipseg_kfp.prompts import Files, check_references, parse_prompts, read_prompt_file_inline, references

FILE = """
$schema: ./prompts.schema.json
defaults:
  threshold: 0.3
prompts:
  - a cat
  - {name: bolt, image: IMAGE}
"""


def test_a_whole_set_goes_through_a_parameter_that_is_a_list(tmp_path: Path) -> None:
    path = tmp_path / "prompts.yaml"
    path.write_text(FILE.replace("IMAGE", "s3://bucket/bolt.jpg"), "utf-8")
    value = read_prompt_file_inline(path)
    assert value == [
        {
            "defaults": {"threshold": 0.3},
            "prompts": ["a cat", {"name": "bolt", "image": "s3://bucket/bolt.jpg"}],
        }
    ]
    assert parse_prompts(value) == parse_prompts(value[0])
    assert parse_prompts(value, more=["a cup"]).prompts[-1].name == "a cup"
    path.write_text("[a cat, a cup]", "utf-8")
    assert read_prompt_file_inline(path) == ["a cat", "a cup"]


def test_a_whole_set_stands_alone_in_a_list() -> None:
    with fails("prompt_set_not_alone", where="prompts"):
        parse_prompts([{"prompts": ["a cat"]}, "a cup"])


@pytest.mark.parametrize("image", ["support/bolt.jpg", "/home/me/bolt.jpg", "file:///home/me/bolt.jpg"])
def test_a_file_of_this_machine_does_not_travel(tmp_path: Path, image: str) -> None:
    path = tmp_path / "prompts.yaml"
    path.write_text(FILE.replace("IMAGE", image), "utf-8")
    with fails("file_not_on_cluster", where=image) as caught:
        read_prompt_file_inline(path)
    assert "s3://" in caught.value.remedy
    assert "prompt 2 ('bolt')" in caught.value.message
    with fails("file_unreadable", where=str(tmp_path / "missing.yaml")):
        read_prompt_file_inline(tmp_path / "missing.yaml")


def test_what_is_missing_is_told_without_reading(tmp_path: Path) -> None:
    (tmp_path / "set" / "images").mkdir(parents=True)
    (tmp_path / "a.jpg").write_bytes(b"not looked at")
    files = Files(str(tmp_path / "prompts.yaml"))
    check_references(parse_prompts([{"name": "bolt", "image": "a.jpg"}]), files)
    with fails("file_missing", where=(tmp_path / "gone.png").as_uri()) as caught:
        check_references(parse_prompts(["a", {"name": "bolt", "image": "a.jpg", "mask": "gone.png"}]), files)
    assert "prompt 2 ('bolt')" in caught.value.message
    with fails("support_empty", where=(tmp_path / "set").as_uri()) as caught:
        check_references(parse_prompts([{"name": "bolt", "images_in": "set"}]), files)
    assert "prompt 1 ('bolt')" in caught.value.message


def test_all_that_a_set_refers_to_is_told() -> None:
    prompts = parse_prompts(
        {
            "defaults": {"threshold": {"calibrated": "t.json"}},
            "prompts": [
                {"name": "bolt", "image": "a.jpg", "mask": "a.png"},
                {"name": "nut", "images_in": "nut", "threshold": {"calibrated": "u.json"}},
                {
                    "name": "mixed",
                    "mix": [{"embedding": {"uri": "v.npy", "normalized": False}}, {"image": "b.jpg"}],
                },
            ],
        }
    )
    assert [(reference.owner, reference.uri, reference.is_folder) for reference in references(prompts)] == [
        ("defaults", "t.json", False),
        ("prompt 1 ('bolt')", "a.jpg", False),
        ("prompt 1 ('bolt')", "a.png", False),
        ("prompt 2 ('nut')", "nut", True),
        ("prompt 2 ('nut')", "u.json", False),
        ("prompt 3 ('mixed')", "v.npy", False),
        ("prompt 3 ('mixed')", "b.jpg", False),
    ]
