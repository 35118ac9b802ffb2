"""Finds every boundary of a write in this process, and kills the process at one of them.

Python itself tells of each opening for writing, renaming, linking and removal (audit events), and of
each piece of a request that goes to a store. So no boundary is listed by hand, and a new kind of file or
another order of writes needs no change here.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any
from urllib.parse import unquote

_WRITING = os.O_WRONLY | os.O_RDWR
_PATHS = {"os.rename": 1, "os.link": 1, "os.symlink": 1, "os.remove": 0}
_TEMPORARY = re.compile(r"\.part-\w+")
_LINE = re.compile(rb"(PUT|POST|DELETE) /([^ ?]*)")

#: What ``Folder`` offers to write with; one that does not exist (yet) is passed over.
WRITES = ("write", "upload", "create")


class Boundaries:
    """Watches this process from ``start`` on, for good: for a process of its own.

    A boundary has a name that is the same in every run: what is done to which file or object, and how
    often that was done before. With threads the order differs from run to run, the names do not.

    Args:
        roots: local folders that count; names are relative to them.
        remote: beginning of the objects that count, ``bucket/prefix/``; empty for none.
        kill_at: where to end, by SIGKILL of this process's group; empty for nowhere.
        note: called with the names of boundaries as they are met.
    """

    def __init__(
        self, roots: dict[str, Path], remote: str, kill_at: str, note: Callable[[str], None] = lambda _: None
    ) -> None:
        self._roots = {f"{path}{os.sep}": name for name, path in roots.items()}
        self._remote, self._kill_at, self._note = remote, kill_at, note
        self._seen: Counter[str] = Counter()
        self._sending: dict[int, str] = {}  # by connection: the object whose body comes next
        self._lock = threading.Lock()

    def start(self) -> None:
        """Begins to watch."""
        from clipseg_kfp.storage.files import FileFolder
        from clipseg_kfp.storage.s3 import S3Folder

        for kind in (FileFolder, S3Folder):
            for name in WRITES:
                if hasattr(kind, name):
                    setattr(kind, name, self._with_end(getattr(kind, name)))
        sys.addaudithook(self._on_event)

    def _with_end(self, method: Callable[..., Any]) -> Callable[..., Any]:
        """A write with a boundary behind it; what comes before it is told by events."""

        @wraps(method)
        def ended(folder: Any, key: str, *arguments: Any, **options: Any) -> Any:
            result = method(folder, key, *arguments, **options)
            where = folder.locate(key).removeprefix("s3://").removeprefix(f"{self._remote}")
            self._reach(f"{method.__name__} ended", self._relative(unquote(where.removeprefix("file://"))))
            return result

        return ended

    def _on_event(self, event: str, values: tuple[Any, ...]) -> None:
        if event == "open":
            path, mode, flags = values
            if isinstance(path, str | bytes) and (flags & _WRITING or set(mode or "") & set("wxa+")):
                self._local("open", path)
        elif event in _PATHS:
            self._local(event.removeprefix("os."), values[_PATHS[event]])
        elif event == "http.client.send":
            self._send(*values)

    def _local(self, what: str, path: Any) -> None:
        text = os.fsdecode(path) if isinstance(path, str | bytes | os.PathLike) else ""
        relative = self._relative(text)
        if relative != text:
            self._reach(what, relative)

    def _relative(self, path: str) -> str:
        for root, name in self._roots.items():
            if path.startswith(root):
                return _TEMPORARY.sub(".part-*", f"{name}/{path[len(root) :]}")
        return path

    def _send(self, connection: Any, data: Any) -> None:
        if key := self._sending.pop(id(connection), ""):
            self._reach("body", key, lambda: connection.sock.sendall(bytes(data)[: len(data) // 2]))
            return
        found = _LINE.match(data) if isinstance(data, bytes) else None
        if found and self._remote and unquote(found[2].decode()).startswith(self._remote):
            key = unquote(found[2].decode()).removeprefix(self._remote)
            self._reach(found[1].decode(), key)
            self._sending[id(connection)] = key

    def _reach(self, what: str, where: str, half: Callable[[], None] = lambda: None) -> None:
        with self._lock:
            name = f"{what} {where}"
            self._seen[name] += 1
            if self._seen[name] > 1:
                name = f"{name} #{self._seen[name]}"
            self._note(name)
            if name == self._kill_at:
                half()  # a part of the body is on its way
                os.killpg(os.getpgid(0), signal.SIGKILL)
