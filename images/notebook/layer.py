"""Keeps apart what an installation adds to an environment: ``layer.py note``, install, ``layer.py move``."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

ENVIRONMENT = Path("/opt/clipseg-kfp")
LAYER = Path("/build/layer")
NOTE = Path("/build/before.txt")


def files() -> set[str]:
    """Paths of all files and links, below the environment."""
    return {
        str(path.relative_to(ENVIRONMENT))
        for path in ENVIRONMENT.rglob("*")
        if path.is_symlink() or not path.is_dir()
    }


if sys.argv[1] == "note":
    NOTE.write_text("\n".join(files()), "utf-8")
else:
    for name in sorted(files() - set(NOTE.read_text("utf-8").split("\n"))):
        target = LAYER / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(ENVIRONMENT / name, target)
