"""Checks a pipeline's arguments before anything runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from clipseg_kfp.errors import OptionsError, ParameterError, Problem
from clipseg_kfp.options import GroundTruth, Group, Inference, Limits, Support, read_groups
from clipseg_kfp.storage import open_folder


def check_arguments(arguments: Mapping[str, Any]) -> None:
    """Does what the first steps would fail at, without their start-up time; the steps check again.

    Args:
        arguments: of a pipeline, groups of options nested; those that are missing have its defaults.

    Raises:
        OptionsError: options that cannot be used, all of them at once.
        ParameterError: names the argument, and what would do.
        StorageError: a prompt file, what it names, or ground truth cannot be read.
    """
    from clipseg_kfp.dataset.listing import check_source
    from clipseg_kfp.engine import check_choices
    from clipseg_kfp.engine.checkpoint import check_uri
    from clipseg_kfp.prompts import Files, check_references, read_prompt_set, read_prompt_sets
    from clipseg_kfp.truth import open_truth

    endpoint = arguments.get("endpoint", "")
    for name, what in (("source_uri", "images"), ("output_uri", "results"), ("model_uri", "the model")):
        if not arguments.get(name):
            raise ParameterError(
                f"{name} is empty.",
                f"Say where {what} are: a folder or s3://bucket/prefix.",
                code="uri_empty",
                where=name,
            )
    groups = check_values(arguments)
    check_choices(cast("Inference", groups["inference"]))
    prompts_uri = arguments.get("prompts_uri", "")
    if "prompt_sets" in arguments:
        sets = list(read_prompt_sets(arguments["prompt_sets"], endpoint).values())
    else:
        support = cast("Support", groups["support"])
        sets = [(read_prompt_set(arguments.get("prompts", []), prompts_uri, support, endpoint), prompts_uri)]
    for one, place in sets:
        check_references(one, Files(place, endpoint))
    truth = cast("GroundTruth", groups["ground_truth"])
    if truth.uri:
        open_truth(truth.uri, truth.format, endpoint)
    open_folder(arguments["output_uri"], endpoint)
    limits = cast("Limits", groups["limits"])
    check_source(arguments["source_uri"], endpoint, allow_empty=limits.allow_empty)
    check_uri(arguments["model_uri"], endpoint)


def check_values(arguments: Mapping[str, Any]) -> dict[str, Group]:
    """The part of ``check_arguments`` that needs no file: numbers and names.

    Args:
        arguments: as for ``check_arguments``.

    Returns:
        All groups of options, by name.

    Raises:
        OptionsError: a threshold or options that cannot be used, all of them at once.
    """
    from clipseg_kfp.prompts import check_threshold

    problems: list[Problem] = []
    groups: dict[str, Group] = {}
    try:
        check_threshold(arguments.get("threshold", 0.5))
    except ParameterError as error:
        problems.append(Problem(error.where, error.code, error.message, error.remedy))
    try:
        groups = read_groups(arguments)
    except OptionsError as error:
        problems += error.problems
    if problems:
        raise OptionsError(problems)
    return groups
