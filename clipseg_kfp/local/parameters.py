"""Checks a pipeline's parameters before anything runs."""

from __future__ import annotations

import math
from typing import Any

from clipseg_kfp.errors import ParameterError
from clipseg_kfp.storage import open_folder

CHOICES = ("backend", "device", "precision", "batch_size", "memory_mb")


def check_parameters(parameters: dict[str, Any]) -> None:
    """Does what the first steps would fail at, without their start-up time; the steps check again.

    Args:
        parameters: of a pipeline; those that are missing have its defaults.

    Raises:
        ParameterError: names the parameter, and what would do.
        StorageError: a prompt file, what it names, or ground truth cannot be read.
    """
    from clipseg_kfp.dataset.sources import check_source
    from clipseg_kfp.engine import check_choices
    from clipseg_kfp.engine.checkpoint import check_uri
    from clipseg_kfp.prompts import Files, check_references
    from clipseg_kfp.steps.encode_prompts import wanted_prompts, wanted_sets
    from clipseg_kfp.truth import open_truth

    endpoint = parameters.get("endpoint", "")
    for name, kind in (("source_uri", "images"), ("output_uri", "results"), ("model_uri", "the model")):
        if not parameters.get(name):
            raise ParameterError(
                f"{name} is empty.", f"Say where {kind} lie: a folder or s3://bucket/prefix."
            )
    check_values(parameters)
    check_choices(**{name: parameters[name] for name in CHOICES if name in parameters})
    said = ("prompts_uri", "support_uri", "engineering")
    if "prompt_sets" in parameters:
        sets = list(wanted_sets(parameters["prompt_sets"], endpoint).values())
    else:
        given = {name: parameters[name] for name in said if name in parameters}
        prompts = wanted_prompts(parameters.get("prompts", []), **given, endpoint=endpoint)
        sets = [(prompts, parameters.get("prompts_uri", ""))]
    for one, place in sets:
        check_references(one, Files(place, endpoint))
    if parameters.get("ground_truth_uri"):
        open_truth(parameters["ground_truth_uri"], parameters.get("ground_truth_format", "auto"), endpoint)
    open_folder(parameters["output_uri"], endpoint)
    check_source(parameters["source_uri"], endpoint)
    check_uri(parameters["model_uri"], endpoint)


def check_values(parameters: dict[str, Any]) -> None:
    """The part of ``check_parameters`` that needs no file: numbers and names.

    Args:
        parameters: of a pipeline; those that are missing have its defaults.

    Raises:
        ParameterError: names the parameter, and what would do.
    """
    from clipseg_kfp.engine.backends import check_options
    from clipseg_kfp.engine.int8 import check_min_iou
    from clipseg_kfp.prompts import check_engineering, check_threshold
    from clipseg_kfp.results.counts import most_quarantined
    from clipseg_kfp.steps.publish_results import check_formats
    from clipseg_kfp.steps.settings import Settings

    check_threshold(parameters.get("threshold", 0.5))
    for name, least in (("limit", 0), ("shard_size", 1)):
        if parameters.get(name, least) < least:
            raise ParameterError(f"{name} is {parameters[name]}.", f"Give {least} or more.")
    most_quarantined(parameters.get("max_quarantined", ""), 0)
    for name in ("max_megapixels", "max_megabytes"):
        if not 0 < parameters.get(name, 1.0) < math.inf:
            raise ParameterError(f"{name} is {parameters[name]}.", "Give a positive number.")
    check_options(**{name: parameters[name] for name in CHOICES if name in parameters})
    views = ("tile_size", "tile_ground_resolution", "tile_overlap", "meters_per_pixel", "flip")
    Settings.of(**{name: parameters[name] for name in views if name in parameters})
    check_formats(parameters.get("formats", []))
    if parameters.get("probability_bits", 0) not in (0, 8, 16):
        raise ParameterError(
            f"probability_bits is {parameters['probability_bits']}.", "Give 8 or 16, or 0 for none."
        )
    check_min_iou(parameters.get("int8_min_iou", 1.0))
    check_engineering(parameters.get("engineering", "paper"))
