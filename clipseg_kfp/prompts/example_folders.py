"""Prompts from example pictures alone: a folder a thing, named after it."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

from clipseg_kfp.errors import ParameterError
from clipseg_kfp.images.decode import IMAGE_SUFFIXES
from clipseg_kfp.prompts.sets import MAX_PROMPTS
from clipseg_kfp.storage import Folder, open_folder

LAYOUT = "Lay them out as <name>/images/x.jpg with <name>/masks/x.png, or <name>/x.jpg alone."
ENGINEERINGS = ("paper", "none")


def prompts_shown(support_uri: str, engineering: str = "paper", endpoint: str = "") -> list[dict[str, Any]]:
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
        ParameterError: no folders, one without images, images outside of them, more folders than a set has
            prompts, or another ``engineering``.
        StorageError: the bucket or folder does not exist, or the store failed.
    """
    check_engineering(engineering)
    folder = open_folder(support_uri, endpoint)
    names = _names(folder)
    if not names:
        raise ParameterError(f"There are no example pictures in {folder.uri}.", LAYOUT)
    if inside := {"images", "masks"} & set(names):
        raise ParameterError(
            f"{folder.uri} has {' and '.join(sorted(inside))} itself; each thing needs a folder.", LAYOUT
        )
    empty = next((name for name in sorted(names) if not names[name]), None)
    if empty is not None:
        raise ParameterError(
            f"There are no images in {folder.locate(empty)}.", f"Put some there, or remove it. {LAYOUT}"
        )
    return [
        {"name": name, "images_in": f"{folder.locate(name)}/", "engineering": engineering}
        for name in sorted(names)
    ]


def check_engineering(engineering: str) -> None:
    """Raises ``ParameterError`` unless it is the name of a way to prepare pictures."""
    if engineering not in ENGINEERINGS:
        raise ParameterError(f"engineering is '{engineering}'.", f"Give {' or '.join(ENGINEERINGS)}.")


def _names(folder: Folder) -> dict[str, bool]:
    """The folders of a folder, each with whether it has an image outside of its ``masks/``."""
    from clipseg_kfp.storage.files import FileFolder

    found: dict[str, bool] = {}
    if isinstance(folder, FileFolder) and folder.root.is_dir():  # a listing has no empty folders
        found = {path.name: False for path in folder.root.iterdir() if path.is_dir()}
        found = {name: False for name in found if not name.startswith(".")}
    for entry in folder.entries():
        name, slash, rest = entry.key.partition("/")
        image = PurePosixPath(entry.key).suffix.lower() in IMAGE_SUFFIXES
        if entry.key.startswith("."):  # of file managers and notebooks
            continue
        if not slash:
            if image:
                raise ParameterError(f"{folder.locate(name)} lies in no folder named after a thing.", LAYOUT)
            continue
        found[name] = found.get(name, False) or (image and not rest.startswith("masks/"))
        if len(found) > MAX_PROMPTS:
            raise ParameterError(
                f"{folder.uri} has more than {MAX_PROMPTS:,} folders; each is a prompt.", "Make several runs."
            )
    return found
