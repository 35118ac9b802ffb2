"""Prompts from example pictures alone: one folder per thing, named after it."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

from clipseg_kfp.images.formats import IMAGE_SUFFIXES
from clipseg_kfp.prompts.files import no_images, unusable
from clipseg_kfp.prompts.sets import MAX_PROMPTS
from clipseg_kfp.storage import Folder, open_folder
from clipseg_kfp.storage.files import FileFolder

LAYOUT = "Lay them out as <name>/images/x.jpg with <name>/masks/x.png, or <name>/x.jpg alone."


def prompts_from_folders(
    support_uri: str, engineering: str = "paper", endpoint: str = ""
) -> list[dict[str, Any]]:
    """Makes an image prompt of every folder below a folder or prefix; hidden ones are left out.

    Only names are read here. The pictures, and that each has its mask, are looked at when the prompts are
    gathered.

    Args:
        support_uri: with ``<name>/images/x.jpg`` and ``<name>/masks/x.png``, or ``<name>/x.jpg`` alone.
        engineering: how pictures with masks are prepared: ``paper`` or ``none``.
        endpoint: S3 endpoint URL.

    Returns:
        Entries of a prompt set, sorted by name.

    Raises:
        ParameterError: no folders, a folder without images, images outside of them, or more folders than a set
            has prompts.
        StorageError: the bucket or folder does not exist, or the store failed.
    """
    folder = open_folder(support_uri, endpoint)
    names = _names(folder)
    if not names:
        raise unusable("support_empty", folder.uri, "has no folders with example pictures.", LAYOUT)
    if inside := {"images", "masks"} & set(names):
        problem = f"has {' and '.join(sorted(inside))} itself; each thing needs a folder."
        raise unusable("support_without_name", folder.uri, problem, LAYOUT)
    for name in sorted(names):
        if not names[name]:
            raise no_images(folder.locate(name), f"Put some there, or remove it. {LAYOUT}")
    return [
        {"name": name, "images_in": f"{folder.locate(name)}/", "engineering": engineering}
        for name in sorted(names)
    ]


def _names(folder: Folder) -> dict[str, bool]:
    """The folders of a folder, each with whether it has an image outside of its ``masks/``."""
    names: dict[str, bool] = {}
    if isinstance(folder, FileFolder) and folder.root.is_dir():  # a listing has no empty folders
        names = {p.name: False for p in folder.root.iterdir() if p.is_dir() and not p.name.startswith(".")}
    for entry in folder.entries():
        name, slash, rest = entry.key.partition("/")
        image = PurePosixPath(entry.key).suffix.lower() in IMAGE_SUFFIXES
        if entry.key.startswith("."):  # of file managers and notebooks
            continue
        if not slash:
            if image:
                problem = "is not in a folder that names the thing."
                raise unusable("support_without_name", folder.locate(name), problem, LAYOUT)
            continue
        names[name] = names.get(name, False) or (image and not rest.startswith("masks/"))
        if len(names) > MAX_PROMPTS:
            problem = f"has more than {MAX_PROMPTS:,} folders; each is a prompt."
            raise unusable("prompts_too_many", folder.uri, problem, "Make several runs.")
    return names
