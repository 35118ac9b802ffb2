"""Where things are kept that can be made again."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from functools import cache
from pathlib import Path


def cache_folder(name: str) -> Path:
    """Returns a folder that exists and can be written.

    ``CLIPSEG_KFP_CACHE`` names its parent, else ``clipseg-kfp`` in the user's cache folder is. Where that
    cannot be written, as in a pod with a read-only root, it is a temporary one that goes with the process.
    """
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()) / "clipseg-kfp"
    folder = Path(os.environ.get("CLIPSEG_KFP_CACHE") or default) / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            return folder
    except (OSError, RuntimeError):  # RuntimeError: no home directory
        pass
    folder = _temporary() / name
    folder.mkdir(exist_ok=True)
    return folder


@cache
def _temporary() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="clipseg-kfp-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
