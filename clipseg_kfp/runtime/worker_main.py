"""The process that ``workers`` starts: runs functions for its parent, one after the other, until that ends.

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

    It first says ``TAKEN``: the function's modules are imported by then, and its time begins.
    """
    connection.send(READY)
    while True:
        try:
            function, arguments = connection.recv()
        except EOFError:  # the parent has ended
            return
        connection.send(TAKEN)
        result: tuple[bool, Any]
        try:
            result = (True, function(*arguments))
        except Exception as error:
            result = (False, error)
        connection.send(result)
        del function, arguments, result  # free the memory before the next message


@contextlib.contextmanager
def memory_limited(size: int) -> Iterator[None]:
    """Limits how many more bytes this process may take, with some to spare; beyond it gets ``MemoryError``.

    The limit is on address space, which most systems enforce. Systems other than Linux have none.

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


def _set_up() -> None:
    """Makes this process end with its parent, and be the first to end when memory is short."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # and is not ignored
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # also ends native code, so that Ctrl-C is quick
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(_SIGNAL_ON_PARENTS_DEATH, signal.SIGKILL)
        with contextlib.suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text("1000")
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # crashes are expected


if __name__ == "__main__":
    _set_up()
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        serve(Connection(int(sys.argv[1])))
    os._exit(0)
