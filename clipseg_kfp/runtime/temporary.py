"""Temporary folders; those that a killed process left are removed by the next user of the place."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from filelock import lock_descriptor

PREFIX = "clipseg-kfp-run-"
_LOCK = "lock"


@contextlib.contextmanager
def temporary_folder(parent: Path | None = None) -> Iterator[Path]:
    """A folder that exists while the context is open. Leftovers beside it are removed.

    A folder in use is locked; the lock ends with its process, even if that is killed.

    Args:
        parent: where to make it; ``None`` takes the system's temporary folder.
    """
    place = parent or Path(tempfile.gettempdir())
    for other in place.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):  # another user's, say
            _remove_leftover(other)
    with tempfile.TemporaryDirectory(prefix=PREFIX, dir=place) as name:
        folder = Path(name)
        # The file is locked before it gets its name: nobody ever finds it unlocked.
        handle = os.open(folder / f".{_LOCK}", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            with contextlib.suppress(OSError):  # a file system without locks, where leftovers stay
                lock_descriptor(handle, blocking=False)
                (folder / f".{_LOCK}").rename(folder / _LOCK)
            yield folder
        finally:
            os.close(handle)


def _remove_leftover(folder: Path) -> None:
    handle = os.open(folder / _LOCK, os.O_RDWR)
    try:
        if lock_descriptor(handle, blocking=False):
            shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(handle)
