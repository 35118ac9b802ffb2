"""Starts a program that ends with this process, even if this one is killed."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

from clipseg_kfp.runtime import child_main


def start_child(command: Sequence[str], **options: Any) -> tuple[subprocess.Popen[bytes], threading.Event]:
    """Starts a program through ``child_main``.

    Linux ends such a process with the thread that started it, so a thread is kept for it. It is a daemon, so that
    this process can still end the program in an orderly way at its own end.

    Args:
        command: the program's path and its arguments.
        options: of ``subprocess.Popen``.

    Returns:
        The process, and an event that ends the thread; set it when the process has ended.
    """
    shim = [sys.executable, "-I", "-S", child_main.__file__, str(os.getpid())]
    result: Future[subprocess.Popen[bytes]] = Future()
    ended = threading.Event()

    def body() -> None:
        try:
            result.set_result(subprocess.Popen([*shim, *command], **options))
        except Exception as error:
            result.set_exception(error)
        else:
            ended.wait()

    threading.Thread(target=body, name="child", daemon=True).start()
    return result.result(), ended
