"""One module a component: files and parameters in, files out; nothing here knows of Kubeflow."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from clipseg_kfp.errors import exit_on_user_error
from clipseg_kfp.progress import say


@contextmanager
def running(step: str) -> Iterator[None]:
    """What a component wraps its step in.

    Says how long it took; a user's mistake ends it without a traceback.
    """
    start = time.monotonic()
    with exit_on_user_error(step):
        yield
    say(step, f"took {time.monotonic() - start:.1f} s")
