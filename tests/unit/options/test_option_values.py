"""Options as people give them, and the tables that are made of their declarations."""

import jsonschema
import pytest

from clipseg_kfp.errors import OptionsError
from clipseg_kfp.options import (
    GROUPS,
    Limits,
    Outputs,
    Views,
    dotted_names,
    from_word,
    json_schema,
    markdown,
    nested,
)
from clipseg_kfp.options.tables import rows

ARGUMENTS = ("source_uri", "prompts", "views", "limits", "ground_truth")


def codes(value: dict[str, object]) -> dict[str, tuple[str, str]]:
    with pytest.raises(OptionsError) as caught:
        nested(value, ARGUMENTS)
    return {one.where: (one.code, one.remedy) for one in caught.value.problems}


def test_dotted_and_nested_options_come_together():
    given = {"source_uri": "s3://a/b", "views": {"flip": True}, "views.tile_size": 512, "limits.limit": 3}
    assert nested(given, ARGUMENTS) == {
        "source_uri": "s3://a/b",
        "views": {"flip": True, "tile_size": 512},
        "limits": {"limit": 3},
    }


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("tile_size", "views.tile_size"),
        ("limit", "limits.limit"),
        ("ground_truth_uri", "ground_truth.uri"),
        ("ground_truth_classes", "ground_truth.classes"),
    ],
)
def test_a_parameter_of_the_first_version_names_its_new_place(old, new):
    ((code, remedy),) = codes({old: "x"}).values()
    assert code == "option_moved"
    assert new in remedy


def test_unknown_names_say_the_nearest_one_all_at_once():
    found = codes({"prompt": ["a cat"], "views.tile_siz": 512, "vews.flip": True, "flip.views": True})
    assert {code for code, _ in found.values()} == {"extra_forbidden"}
    assert "'prompts'" in found["prompt"][1]
    assert "'views.tile_size'" in found["views.tile_siz"][1]
    assert "'views.flip'" in found["vews.flip"][1]


@pytest.mark.parametrize(
    ("group", "option", "word", "value"),
    [
        (Views, "tile_size", "512", 512),
        (Views, "flip", "yes", True),
        (Views, "flip", "maybe", "maybe"),  # refused by the group
        (Views, "tile_overlap", "0.5", 0.5),
        (Limits, "max_quarantined", "5%", "5%"),
        (Limits, "max_quarantined", "20", "20"),
        (Outputs, "formats", "yolo, csv", ["yolo", "csv"]),
        (Outputs, "formats", '["yolo"]', ["yolo"]),
        (GROUPS["ground_truth"], "classes", '{"a cat": "cat"}', {"a cat": "cat"}),
    ],
)
def test_words_are_read_by_the_type_of_the_option(group, option, word, value):
    assert from_word(group, option, word) == value


def test_tables_and_schema_have_every_option():
    names = [row.name for row in rows()]
    assert names == dotted_names()
    table = markdown(("views",))
    assert all(f"`views.{option}`" in table for option in Views.model_fields)
    assert "limits." not in table
    schema = json_schema()
    jsonschema.validate({name: group.defaults() for name, group in GROUPS.items()}, schema)
    for bad in ({"views": {"tile_overlap": 2}}, {"views": {"tile": 2}}, {"outputs": {"formats": ["gif"]}}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(bad, schema)
