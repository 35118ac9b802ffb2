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
_SIGNAL_ON_PARENTS_DEATH, _NO_NEW_PRIVILEGES = 1, 38  # of <linux/prctl.h>
_ACCESS_TO_FILES = 1 << 1 | 1 << 2  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
_CREATE_RULESET, _RESTRICT_SELF = 444, 446  # system calls, the same on all architectures
# Of <linux/landlock.h>. Files: execute, and make devices, sockets, pipes and links.
_FILES = 1 << 0 | 1 << 6 | 1 << 9 | 1 << 10 | 1 << 11 | 1 << 12
_NETWORK, _SCOPES = 1 << 0 | 1 << 1, 1 << 0 | 1 << 1  # bind and connect TCP; abstract sockets and signals


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


def confine() -> int:
    """Gives up what decoding never needs, for good, where the kernel can do that (Landlock, Linux 5.13).

    From then on this process cannot look into others (their memory and ``/proc/<id>/environ``, whoever's child it
    is, even as root), run programs, and in newer kernels open TCP connections or send signals to others.

    Returns:
        The version of Landlock; 0 where there is none, or it is not allowed.
    """
    if sys.platform != "linux":
        return 0
    import ctypes

    system = ctypes.CDLL(None)
    _drop_privileges(system)
    version = system.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), 1)
    if version < 1:
        return 0
    handled = (_FILES, _NETWORK, _SCOPES)[: 1 + (version >= 4) + (version >= 6)]
    rules = (ctypes.c_uint64 * len(handled))(*handled)
    ruleset = system.syscall(_CREATE_RULESET, rules, ctypes.c_size_t(ctypes.sizeof(rules)), 0)
    if ruleset < 0:
        return 0
    try:
        system.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
        return 0 if system.syscall(_RESTRICT_SELF, ruleset, 0) else version
    finally:
        os.close(ruleset)


def _drop_privileges(system: Any) -> None:
    """Of root's privileges, keeps access to files: the others would open other processes in spite of Landlock."""
    import ctypes

    version_3, words = 0x20080522, 2  # of <linux/capability.h>
    header = (ctypes.c_uint32 * 2)(version_3, 0)
    held = (ctypes.c_uint32 * (3 * words))()  # effective, permitted and inheritable, word by word
    if system.capget(header, held) == 0:
        for i in range(3 * words):
            held[i] &= _ACCESS_TO_FILES if i < 3 else 0
        system.capset(header, held)


def _set_up() -> None:
    """Makes this process end with its parent, and be the first to end when memory is short."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # and is not ignored
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # also ends native code, so that Ctrl-C is quick
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(_SIGNAL_ON_PARENTS_DEATH, signal.SIGKILL)
        with contextlib.suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text("1000")
    confine()
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # crashes are expected


if __name__ == "__main__":
    _set_up()
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        serve(Connection(int(sys.argv[1])))
    os._exit(0)
