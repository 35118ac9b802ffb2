"""What a run looks for, put together from a list, a prompt file and example pictures."""

from __future__ import annotations

from typing import Any

from clipseg_kfp.errors import ParameterError
from clipseg_kfp.options import Support
from clipseg_kfp.prompts.example_folders import prompts_from_folders
from clipseg_kfp.prompts.files import allowed_here
from clipseg_kfp.prompts.parser import parse_prompts, read_prompts
from clipseg_kfp.prompts.sets import PromptSet
from clipseg_kfp.storage import open_object


def read_prompt_set(
    prompts: list[Any] | dict[str, Any],
    prompts_uri: str = "",
    support: Support | None = None,
    endpoint: str = "",
) -> PromptSet:
    """Puts together what a run looks for: the list or the prompt file, then the example pictures.

    Args:
        prompts: texts or mappings, or a whole set as a mapping; ignored where ``prompts_uri`` is given.
        prompts_uri: prompt file: JSON, YAML, or text with one prompt per line (``.txt``). In a task of Kubeflow it
            lies in a store.
        support: example pictures, one folder per thing.
        endpoint: S3 endpoint URL.

    Raises:
        ParameterError: a bad prompt set or folder; names the entry.
        StorageError: the store failed.
    """
    shown = (
        prompts_from_folders(support.uri, support.engineering, endpoint) if support and support.uri else []
    )
    if not prompts_uri:
        return parse_prompts(prompts, more=shown)
    folder, key = open_object(allowed_here(prompts_uri), endpoint)
    return read_prompts(folder.read(key, limit=16 << 20), prompts_uri, shown)


def read_prompt_sets(value: dict[str, Any], endpoint: str = "") -> dict[str, tuple[PromptSet, str]]:
    """Reads several prompt sets.

    Args:
        value: lists of prompts or URIs of prompt files, by name.
        endpoint: S3 endpoint URL.

    Returns:
        Each set, with the URI that relative names in it start at.

    Raises:
        ParameterError: a bad set; names it.
        StorageError: the store failed.
    """
    found = {}
    for name, one in value.items():
        if not name.strip() or "/" in name or not name.isprintable():
            raise ParameterError(
                f"prompt_sets: {name!r} is no name for a set.", "Use letters, without '/'.", code="set_name"
            )
        if not isinstance(one, str | list | dict):
            raise ParameterError(
                f"prompt_sets: '{name}' is neither a list of prompts nor the URI of a prompt file."
            )
        place = one if isinstance(one, str) else ""
        try:
            found[name] = (
                read_prompt_set([] if isinstance(one, str) else one, place, endpoint=endpoint),
                place,
            )
        except ParameterError as error:
            raise error.within(f"prompt_sets, '{name}'", place) from error
    return found
