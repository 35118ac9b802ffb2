"""Processes for work on hostile input: one that crashes or hangs costs its task and nothing else.

A worker is a new interpreter, not a fork, because its parent has threads. It sees neither the caller's main module
nor the credentials in the environment, and may not look into other processes (``worker_main.confine``). Its results
are read as data (``messages``), so an exploited decoder gains no more than its own process. Each worker has its own
pipe, so no lock is shared that a dying process could keep.
In the pools of pebble and of the standard library, a worker that dies at the wrong moment breaks its neighbors' tasks.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import Pipe
from typing import Any, TypeVar

from clipseg_kfp.errors import ClipsegKfpError
from clipseg_kfp.runtime.messages import BadMessageError, parse_message, parse_result
from clipseg_kfp.runtime.resources import cpu_limit
from clipseg_kfp.runtime.worker_main import READY, TAKEN

R = TypeVar("R")

_SET_DUMPABLE = 4  # PR_SET_DUMPABLE of <linux/prctl.h>
_START_SECONDS = 120.0  # for an interpreter and its imports, on a machine that is busy
#: The environment variables that a worker gets, by their exact names; none is a credential.
_PASSED_ON = frozenset(
    (
        *("PATH", "HOME", "LANG", "LC_ALL", "LC_CTYPE", "TMPDIR", "TMP", "TEMP", "SYSTEMROOT", "VIRTUAL_ENV"),
        *("LD_LIBRARY_PATH", "LD_PRELOAD", "DYLD_LIBRARY_PATH", "DYLD_FALLBACK_LIBRARY_PATH"),
        *("PYTHONHOME", "PYTHONUTF8", "PYTHONDONTWRITEBYTECODE", "PYTHONPYCACHEPREFIX", "PYTHONNOUSERSITE"),
    )
)

#: No threads for arrays. And glibc returns the blocks of large images (16 MB each) to the system instead of keeping
#: them; small blocks it keeps.
_SETTINGS = {
    **{"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
    **{"MALLOC_MMAP_THRESHOLD_": "12000000", "MALLOC_TRIM_THRESHOLD_": "64000000"},
}


class WorkerEndedError(Exception):
    """A worker ended during a task.

    Attributes:
        signal_name: what ended it, such as ``SIGSEGV``; empty if it exited.
    """

    def __init__(self, status: int) -> None:
        self.signal_name = ""
        with contextlib.suppress(ValueError):
            self.signal_name = signal.Signals(-status).name if status < 0 else ""
        super().__init__(f"ended by {self.signal_name or f'status {status}'}")


class WorkerTimeoutError(Exception):
    """A worker was ended because its task took too long."""


class _Worker:
    def __init__(self) -> None:
        self._pipe, theirs = Pipe()
        with theirs:
            command = [sys.executable, "-P", "-W", "ignore", "-m", "clipseg_kfp.runtime.worker_main"]
            self._process = subprocess.Popen(
                [*command, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env=_environment(),
            )
        self._ready = False

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def run(
        self, function: Callable[..., Any], arguments: tuple[Any, ...], seconds: float
    ) -> tuple[bool, Any]:
        """Returns whether the function succeeded, and its value or exception."""
        if not self._ready:
            with contextlib.suppress(EOFError, ConnectionResetError, BadMessageError):
                self._ready = self._says(READY)
            if not self._ready:
                raise _not_started()
        try:
            self._pipe.send((function, arguments))
            if not self._says(TAKEN):
                raise _not_started()
            if not self._pipe.poll(seconds):
                raise WorkerTimeoutError(f"took longer than {seconds:g} s")
            return parse_result(self._pipe.recv_bytes())
        except (EOFError, BrokenPipeError, ConnectionResetError):
            raise WorkerEndedError(self._process.wait()) from None
        except BadMessageError as error:
            raise WorkerEndedError(0) from error

    def _says(self, word: str) -> bool:
        """Whether the worker sends this word, after its imports."""
        return self._pipe.poll(_START_SECONDS) and parse_message(self._pipe.recv_bytes()) == word

    def end(self) -> None:
        """Ends the process at once, whatever it is doing."""
        self._process.kill()
        self._process.wait()
        self._pipe.close()


def _not_started() -> ClipsegKfpError:
    return ClipsegKfpError(
        "A process for decoding images could not be started.",
        "See the messages above; the pod may be short of memory or of processes.",
        code="workers_not_started",
    )


class Workers:
    """A fixed number of processes that run functions for threads; see the module.

    Args:
        count: of processes; ``None`` takes as many as the process may use CPUs.
    """

    def __init__(self, count: int | None = None) -> None:
        self.count = count or cpu_limit()
        # The system ends a worker with the thread that started it, so that thread has to last.
        self._starter = ThreadPoolExecutor(1, "workers")
        self._free: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        self._gate = (
            threading.Lock()
        )  # who holds it takes the next free worker; a task that must be alone, all of them
        for _ in range(self.count):  # their imports overlap with what the caller does next
            self._free.put(self._start())

    def call(self, function: Callable[..., R], *arguments: Any, seconds: float) -> R:
        """Runs a function in a worker, once one is free.

        A task whose worker is killed (as by a system that is short of memory) is tried once more, alone: its neighbors
        may have taken the memory.

        Args:
            function: a module's; travels as its name.
            arguments: travel pickled.
            seconds: the longest that it may take.

        Returns:
            What the function returned.

        Raises:
            WorkerEndedError: the worker ended during the task.
            WorkerTimeoutError: it took too long, and the worker was ended.
            ClipsegKfpError: workers cannot be started.
            KeyboardInterrupt: Ctrl-C interrupted the worker, and with it the caller.
            Exception: what the function raised.
        """
        with self._gate:
            worker = self._free.get()
        try:
            return self._run(worker, function, arguments, seconds)
        except WorkerEndedError as error:
            if error.signal_name != "SIGKILL":
                raise
        with self._gate:
            worker, *others = [self._free.get() for _ in range(self.count)]
            try:
                return self._run(worker, function, arguments, seconds)
            finally:
                for other in others:
                    self._free.put(other)

    def _run(
        self, worker: _Worker, function: Callable[..., R], arguments: tuple[Any, ...], seconds: float
    ) -> R:
        """Runs a function in this worker, and sets it, or the one in its place, free."""
        try:
            if not worker.alive:  # something ended it while it was idle
                worker = self._restart(worker)
            done, value = worker.run(function, arguments, seconds)
        except BaseException as error:  # also an interrupt, which leaves it in the middle of its task
            worker = self._restart(worker)
            if isinstance(error, WorkerEndedError) and error.signal_name == "SIGINT":
                raise KeyboardInterrupt from error
            raise
        finally:
            self._free.put(worker)
        if not done:
            raise value
        result: R = value
        return result

    def close(self) -> None:
        """Ends the processes. No call may be running."""
        with contextlib.suppress(queue.Empty):
            while True:
                self._free.get_nowait().end()
        self._starter.shutdown()

    def _restart(self, worker: _Worker) -> _Worker:
        worker.end()
        return self._start()

    def _start(self) -> _Worker:
        return self._starter.submit(_Worker).result()


def _environment() -> dict[str, str]:
    """The caller's environment without secrets, and with its module search path."""
    kept = {name: value for name, value in os.environ.items() if name in _PASSED_ON}
    path = os.pathsep.join(os.path.abspath(entry) for entry in sys.path)  # noqa: PTH100
    return {**kept, **_SETTINGS, "PYTHONPATH": path}


def shared() -> Workers:
    """The workers that all threads of this process share, started by the first call; they end with the process."""
    with _lock:
        if not _shared:
            hide_process()
            _shared.append(Workers())
        return _shared[0]


def hide_process() -> None:
    """Keeps this user's other processes (but not root's) out of this one's memory and environment, on Linux."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SET_DUMPABLE, 0)


def _forget() -> None:
    """After a fork: a child has none of its parent's threads and must not use its workers."""
    global _lock  # noqa: PLW0603
    _lock = threading.Lock()
    _shared.clear()


_lock = threading.Lock()
_shared: list[Workers] = []
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
