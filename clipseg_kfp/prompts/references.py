"""What a prompt set refers to, and prompt files that travel as a parameter."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipseg_kfp.errors import ClipsegKfpError, ParameterError
from clipseg_kfp.prompts.entries import Calibrated, Threshold
from clipseg_kfp.prompts.files import Files, missing, support_pairs
from clipseg_kfp.prompts.parser import load_prompts, parse_prompts
from clipseg_kfp.prompts.sets import PromptSet
from clipseg_kfp.records.untrusted import UnreadableError, read_bounded


@dataclass(frozen=True)
class Reference:
    """A file or folder that a prompt names.

    Attributes:
        owner: which prompt, for messages: ``prompt 2 ('bolt')``.
        uri: as written.
        is_folder: it is a folder or prefix of support images.
    """

    owner: str
    uri: str
    is_folder: bool = False


def references(prompts: PromptSet) -> list[Reference]:
    """Lists all that a set refers to, in its order, each once."""
    return list(dict.fromkeys(_references(prompts)))


def _references(prompts: PromptSet) -> Iterator[Reference]:
    yield from _calibration("defaults", prompts.defaults.threshold)
    for place, prompt in enumerate(prompts.prompts, start=1):
        owner = f"prompt {place} ('{prompt.name}')"
        for source in (prompt, *(prompt.mix or ())):
            for support in source.images:
                yield from (Reference(owner, uri) for uri in (support.image, support.mask) if uri)
            if source.images_in:
                yield Reference(owner, source.images_in, is_folder=True)
            if source.embedding:
                yield Reference(owner, source.embedding.uri)
        yield from _calibration(owner, prompt.threshold)


def _calibration(owner: str, threshold: Threshold | None) -> Iterator[Reference]:
    if isinstance(threshold, Calibrated):
        yield Reference(owner, threshold.calibrated)


def check_references(prompts: PromptSet, files: Files) -> None:
    """Checks that all that a set refers to exists; nothing is read but lists.

    Raises:
        ParameterError: a file or folder that does not exist, or a folder without pictures or with one that has
            no mask; names the prompt.
        StorageError: the store failed.
    """
    for reference in references(prompts):
        try:
            if reference.is_folder:
                support_pairs(files.folder(reference.uri))
                continue
            folder, key = files.open(reference.uri)
            if folder.stat(key) is None:
                raise missing(folder, key)
        except ClipsegKfpError as error:
            raise error.within(f"prompts: {reference.owner}", reference.uri) from error


def read_prompt_file_inline(path: str | Path) -> list[Any]:
    """Reads a prompt file of this machine into a value of the pipelines' parameter ``prompts``.

    Args:
        path: of a JSON or YAML prompt file.

    Returns:
        The list that the file holds; or a list of one mapping, with its ``defaults`` and ``prompts``.

    Raises:
        ParameterError: the file cannot be read, is not a prompt set, or names files of this machine, which a
            cluster does not see; names the file and the prompt.
    """
    try:
        data = read_bounded(Path(path))
    except (OSError, UnreadableError) as error:
        reason = (error.strerror if isinstance(error, OSError) else str(error)) or type(error).__name__
        raise ParameterError(
            f"{path} cannot be read: {reason}.", "Check the path.", code="file_unreadable", where=str(path)
        ) from error
    value = load_prompts(data, str(path))
    for reference in references(parse_prompts(value, str(path))):
        if "://" not in reference.uri or reference.uri.startswith("file:"):
            raise ParameterError(
                f"{path}: {reference.owner}: '{reference.uri}' is a file of this machine, which the cluster does "
                "not see.",
                "Put it where the cluster reads, and give its whole URI (s3://bucket/…). Or put the prompt file "
                "beside it there, and give that file's URI as prompts_uri.",
                code="file_not_on_cluster",
                where=reference.uri,
            )
    if isinstance(value, dict):
        return [{key: entry for key, entry in value.items() if key != "$schema"}]
    return [value] if isinstance(value, str) else list(value)
