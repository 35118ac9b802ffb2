"""Options: ranges, rules between fields, what arrives as a float, what changes pixels."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipseg_kfp.errors import OptionsError
from clipseg_kfp.options import GROUPS, Inference, Limits, Outputs, Views, read_groups


def problems(value: dict[str, object]) -> set[tuple[str, str]]:
    with pytest.raises(OptionsError) as caught:
        read_groups(value)
    return {(one.where, one.code) for one in caught.value.problems}


@pytest.mark.parametrize("group", GROUPS.values(), ids=GROUPS)
def test_every_option_has_help_and_a_default_that_is_no_null_and_passes_its_own_checks(group):
    for field in group.model_fields.values():
        assert field.description
        assert field.default is not None
    assert group.read(group.defaults()) == group() == group.read({})


@pytest.mark.parametrize("group", GROUPS.values(), ids=GROUPS)
def test_numbers_may_arrive_as_floats(group):
    as_floats = {
        name: float(value) if isinstance(value, int) and not isinstance(value, bool) else value
        for name, value in group.defaults().items()
    }
    assert group.read(as_floats) == group()


def test_all_problems_are_named_at_once_under_dotted_names():
    found = problems(
        {
            "views": {"tile_size": 5, "tile_overlp": 0.1, "flip": 1},
            "inference": {"backend": "onnx", "batch_size": -1, "int8_min_iou": 0},
            "outputs": {"formats": ["yolo", "voc"], "probability_bits": 12},
            "limits": {
                "shard_size": 0.5,
                "max_megapixels": math.nan,
                "max_megabytes": 0,
                "max_quarantined": "7%%",
            },
            "ground_truth": {"classes": {"a cat": 3}},
            "support": "s3://bucket/pictures",
        }
    )
    assert found == {
        ("views.tile_size", "tile_too_small"),
        ("views.tile_overlp", "extra_forbidden"),
        ("views.flip", "bool_type"),
        ("inference.backend", "literal_error"),
        ("inference.batch_size", "greater_than_equal"),
        ("inference.int8_min_iou", "greater_than"),
        ("outputs.formats.1", "literal_error"),
        ("outputs.probability_bits", "literal_error"),
        ("limits.shard_size", "int_type"),
        ("limits.max_megapixels", "finite_number"),
        ("limits.max_megabytes", "greater_than"),
        ("limits.max_quarantined", "no_number_or_share"),
        ("ground_truth.classes.a cat", "string_type"),
        ("support", "dict_type"),
    }


def test_the_side_of_a_tile_is_said_in_one_way():
    assert problems({"views": {"tile_size": 512, "tile_ground_resolution": 0.5}}) == {
        ("views", "tile_side_given_twice")
    }


def test_an_unknown_option_names_the_nearest_one():
    with pytest.raises(OptionsError) as caught:
        Views.read({"tile_overlp": 0.1})
    assert "views.tile_overlap" in caught.value.problems[0].remedy


def test_only_what_changes_a_pixel_and_has_an_effect_is_in_the_digest():
    assert Views().pixels() == Inference().pixels() == {}
    assert Views(tile_overlap=0.5, meters_per_pixel=0.1).pixels() == {}  # no tiles
    assert Views(tile_size=512, tile_overlap=0.5).pixels() == {"tile_size": 512, "tile_overlap": 0.5}
    assert Views(tile_ground_resolution=1.0, meters_per_pixel=0.1).pixels() == {
        "tile_ground_resolution": 1.0,
        "meters_per_pixel": 0.1,
    }
    assert Inference(precision="float32", backend="torch", batch_size=4).pixels() == {}
    assert Inference(precision="int8", int8_min_iou=0.9).pixels() == {"precision": "int8"}
    assert Outputs(formats=("yolo",), probability_bits=8).pixels() == {}


@pytest.mark.parametrize(
    ("value", "bound"),
    [
        ("", None),
        ("20", 20),
        (20, 20),
        (20.0, 20),
        (1.0, 1),
        ("5%", 10),
        ("0.05", 10),
        (0.05, 10),
        ("100%", 200),
    ],
)
def test_a_bound_on_quarantine_is_a_number_or_a_share(value, bound):
    assert Limits.read({"max_quarantined": value}).most_quarantined(200) == bound


@given(st.text(max_size=12))
def test_any_text_is_a_bound_or_an_error(text):
    try:
        bound = Limits.read({"max_quarantined": text}).most_quarantined(1000)
    except OptionsError as error:
        assert [one.where for one in error.problems] == ["limits.max_quarantined"]
    else:
        assert bound is None or bound >= 0
