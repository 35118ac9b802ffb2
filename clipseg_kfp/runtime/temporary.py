"""Temporary folders that the next user of the place removes where a killed process left them."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

PREFIX = "clipseg-kfp-run-"
_LOCK = "lock"


@contextlib.contextmanager
def scratch_folder(parent: Path | None = None) -> Iterator[Path]:
    """A folder that is there while the context is open, beside which leftovers are removed.

    A lock tells the two apart: it ends with the process that has it, however that ends.

    Args:
        parent: where it is made; ``None`` takes the system's temporary folder.
    """
    place = parent or Path(tempfile.gettempdir())
    for left in place.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):  # another user's, say
            _remove_if_left(left)
    with tempfile.TemporaryDirectory(prefix=PREFIX, dir=place) as name:
        folder = Path(name)
        # It has the lock before it gets its name: nobody ever finds it free.
        handle = os.open(folder / f".{_LOCK}", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            with contextlib.suppress(OSError):  # a file system without locks, where leftovers stay
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                (folder / f".{_LOCK}").rename(folder / _LOCK)
            yield folder
        finally:
            os.close(handle)


def _remove_if_left(folder: Path) -> None:
    handle = os.open(folder / _LOCK, os.O_RDWR)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(handle)
