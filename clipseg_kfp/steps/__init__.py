"""One module a component: files and parameters in, files out; nothing here knows of Kubeflow."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

from clipseg_kfp.errors import StorageError, exit_on_user_error
from clipseg_kfp.progress import say


@contextmanager
def running(step: str) -> Iterator[None]:
    """What a component wraps its step in.

    Says how long it took; a user's mistake, a full disk or a missing permission ends it without a traceback.
    """
    start = time.monotonic()
    with exit_on_user_error(step):
        try:
            yield
        except OSError as error:  # of a step's own files: stores report theirs as StorageError
            if error.strerror is None or (error.filename is None and error.errno != errno.ENOSPC):
                raise
            named = "A file of this step" if error.filename is None else os.fsdecode(error.filename)
            raise StorageError(
                f"{named}: {error.strerror}.",
                "Check the permissions and the free space of the folder for intermediate files.",
            ) from error
    say(step, f"took {time.monotonic() - start:.1f} s")
