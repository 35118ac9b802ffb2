"""Options as people give them, and the tables that are made of their declarations."""

import jsonschema
import pytest

from clipseg_kfp.errors import OptionsError
from clipseg_kfp.options import (
    GROUPS,
    Limits,
    Outputs,
    Views,
    add_word,
    dotted_names,
    from_word,
    json_schema,
    markdown,
    nested,
    over_own_defaults,
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
        ("support_uri", "support.uri"),  # of another pipeline
        ("accelerator_type", "accelerator.type"),
    ],
)
def test_a_parameter_of_the_first_version_names_its_new_place(old, new):
    with pytest.raises(OptionsError) as caught:
        nested({old: "x"}, ARGUMENTS)
    (problem,) = caught.value.problems
    assert (problem.where, problem.code) == (old, "option_moved")
    assert new in problem.what


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


def test_a_list_that_is_given_again_grows_and_anything_else_is_given_once():
    given: dict[str, object] = {}
    add_word(given, "outputs.formats", ["yolo"])
    add_word(given, "outputs.formats", ["csv"])
    add_word(given, "views.flip", True)
    assert given == {"outputs.formats": ["yolo", "csv"], "views.flip": True}
    with pytest.raises(OptionsError) as caught:
        add_word(given, "views.flip", False)
    assert [(one.where, one.code) for one in caught.value.problems] == [("views.flip", "given_twice")]
    assert caught.value.where == "views.flip"


def test_a_pipelines_own_defaults_stay_under_options_that_are_given_in_part():
    declared = Outputs(label_maps=False).model_dump(mode="json")
    assert over_own_defaults({"formats": ["csv"]}, "outputs", declared) == {
        "label_maps": False,
        "formats": ["csv"],
    }
    assert over_own_defaults({"label_maps": True}, "outputs", declared) == {"label_maps": True}
    assert over_own_defaults({"flip": True}, "views", Views.defaults()) == {"flip": True}
