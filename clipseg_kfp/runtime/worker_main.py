"""The process that ``workers`` starts: runs functions for its parent, one after the other, until it is gone.

It is started as ``python -m clipseg_kfp.runtime.worker_main <file descriptor>`` and imports nothing heavy by itself.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

READY, TAKEN = "ready", "taken"
_SPARE_BYTES = 256_000_000  # for the interpreter, the message and what libraries set up when first used
_SIGNAL_ON_PARENTS_DEATH = 1  # PR_SET_PDEATHSIG of <linux/prctl.h>


def serve(connection: Connection) -> None:
    """Answers ``(function, arguments)`` with ``(True, value)`` or ``(False, exception)`` until the end.

    Before that it says ``TAKEN``: what the function needs is imported then, and its time begins.
    """
    connection.send(READY)
    while True:
        try:
            function, arguments = connection.recv()
        except EOFError:  # the parent has ended
            return
        connection.send(TAKEN)
        answer: tuple[bool, Any]
        try:
            answer = (True, function(*arguments))
        except Exception as error:
            answer = (False, error)
        connection.send(answer)
        del function, arguments, answer  # before the next message takes their place


@contextlib.contextmanager
def memory_limited(size: int) -> Iterator[None]:
    """Lets this process take only so many more bytes, and some to spare; beyond, it gets ``MemoryError``.

    The limit is on address space, the one that most systems enforce. Where a system tells too little (it is not
    Linux), there is none.

    Args:
        size: bytes.
    """
    try:
        import resource

        pages = int(Path("/proc/self/statm").read_text().split()[0])
        before = resource.getrlimit(resource.RLIMIT_AS)
        limit = pages * resource.getpagesize() + size + _SPARE_BYTES
        if before[1] != resource.RLIM_INFINITY:
            limit = min(limit, before[1])
        resource.setrlimit(resource.RLIMIT_AS, (limit, before[1]))
    except (ImportError, OSError, ValueError):
        yield
        return
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def _settle() -> None:
    """Makes sure that this process never outlives its parent, and goes before it when memory is short."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # and is not ignored
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # ends it in native code, too, so that Ctrl-C is quick
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(_SIGNAL_ON_PARENTS_DEATH, signal.SIGKILL)
        with contextlib.suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text("1000")
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # crashes are expected


if __name__ == "__main__":
    _settle()
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        serve(Connection(int(sys.argv[1])))
    os._exit(0)
