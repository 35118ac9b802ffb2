"""What the process of a step tells the one that started the run: lines, progress, times and errors, as data.

The environment names a file. Each event is one JSON object on a line of its own, appended by one write, so that
processes may share the file. Where nobody listens, as in a pod, nothing is written.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

VARIABLE = "CLIPSEG_KFP_EVENTS"
POLL_SECONDS = 0.1

Event = dict[str, Any]


def tell(kind: str, **values: Any) -> None:
    """Writes one event; a file that cannot be written does not stop the step.

    Args:
        kind: ``line``, ``progress``, ``time`` or ``error``; the event's key ``kind``.
        values: its other keys; plain JSON values.
    """
    path = os.environ.get(VARIABLE)
    if not path:
        return
    content = json.dumps({"kind": kind, "process": os.getpid(), **values}) + "\n"
    with contextlib.suppress(OSError):
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(handle, content.encode())
        finally:
            os.close(handle)


class Listener:
    """Hands each event of a file to a function, in a thread, while the context is open.

    Args:
        path: the file; it need not exist yet.
        on_event: called for one event at a time. All have been handed over when the context ends.
    """

    def __init__(self, path: Path, on_event: Callable[[Event], None]) -> None:
        self._path, self._on_event = path, on_event
        self._position, self._rest = 0, b""
        self._finished = threading.Event()
        self._thread = threading.Thread(target=self._poll, daemon=True)

    def __enter__(self) -> Listener:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._finished.set()
        self._thread.join()
        self._read()

    def _poll(self) -> None:
        while not self._finished.wait(POLL_SECONDS):
            self._read()

    def _read(self) -> None:
        try:
            with self._path.open("rb") as stream:
                stream.seek(self._position)
                content = stream.read()
        except OSError:
            return
        self._position += len(content)
        *lines, self._rest = (self._rest + content).split(b"\n")
        for line in lines:
            with contextlib.suppress(ValueError):  # a full disk cut it
                self._on_event(json.loads(line))
