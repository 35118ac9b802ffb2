"""Starts a program that does not outlive this process, even if this one is killed."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

from clipseg_kfp.runtime import child_main as tethered


def start_tethered(command: Sequence[str], **options: Any) -> tuple[subprocess.Popen[bytes], threading.Event]:
    """Starts a program through ``tethered``.

    The system ends such a process with the very thread that started it, so that is one which lives on: a daemon,
    so that this process can still end the program in an orderly way at its own end.

    Args:
        command: the program's path and its arguments.
        options: of ``subprocess.Popen``.

    Returns:
        The process, and what ends the thread; to be set when the process has ended.
    """
    shim = [sys.executable, "-I", "-S", tethered.__file__, str(os.getpid())]
    result: Future[subprocess.Popen[bytes]] = Future()
    ended = threading.Event()

    def body() -> None:
        try:
            result.set_result(subprocess.Popen([*shim, *command], **options))
        except Exception as error:
            result.set_exception(error)
        else:
            ended.wait()

    threading.Thread(target=body, name="tethered", daemon=True).start()
    return result.result(), ended
