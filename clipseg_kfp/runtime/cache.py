"""Folders for what can be made again."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from functools import cache
from pathlib import Path


def configured_folder(name: str) -> Path:
    """The cache folder of this name. It may not exist, and may be read-only, as in a container image.

    Its parent is ``CLIPSEG_KFP_CACHE``, or else ``clipseg-kfp`` in the user's cache folder.
    """
    if chosen := os.environ.get("CLIPSEG_KFP_CACHE"):
        return Path(chosen) / name
    try:
        default = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser())
    except RuntimeError:  # no home directory
        default = _temporary()
    return default / "clipseg-kfp" / name


def cache_folder(name: str) -> Path:
    """Returns a cache folder that exists and can be written.

    It is the configured one or, where that cannot be written (as in a pod with a read-only root), a temporary
    one that is removed when the process ends.
    """
    folder = configured_folder(name)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            return folder
    except OSError:
        pass
    folder = _temporary() / name
    folder.mkdir(exist_ok=True)
    return folder


@cache
def _temporary() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="clipseg-kfp-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
