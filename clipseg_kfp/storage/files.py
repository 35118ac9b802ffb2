"""Plain folders."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from clipseg_kfp.errors import ObjectChangedError, ObjectUnreadableError, ParameterError, StorageError
from clipseg_kfp.storage.base import Entry, Folder, ObjectTooLargeError

_PART = ".part-"
_NO_STORE = (errno.ENOTCONN, errno.ESTALE, errno.ETIMEDOUT, errno.EMFILE, errno.ENFILE)  # no file's own fault


class FileFolder(Folder):
    """A folder of the local file system (a mounted volume included)."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self.uri = self.root.as_uri()

    def locate(self, key: str) -> str:
        """The ``file://`` URI of a key, with special characters quoted."""
        return (self.root / key).as_uri()

    def _path(self, key: str) -> Path:
        if Path(key).is_absolute() or ".." in Path(key).parts or "\0" in key:
            raise ParameterError(f"{key!r} leaves the folder {self.root}.", "Use a name below it.")
        return self.root / key

    def entries(self, prefix: str = "") -> Iterator[Entry]:
        """Streams the files, folder by folder in order of their names.

        Linked files count, linked folders do not: a link may point back up and never end.
        """
        above, _, beginning = prefix.rpartition("/")
        start = self._path(above)
        with _reported(start):
            if not self.root.exists():
                raise StorageError(f"The folder {self.root} does not exist.", "Check the path.")
            if not self.root.is_dir():
                raise StorageError(f"{self.root} is a file.", "Name the folder that holds it.")
            if not start.is_dir():
                return
        for folder, folders, names in os.walk(start, onerror=_unreadable):
            expected = beginning if Path(folder) == start else ""
            folders[:] = sorted(name for name in folders if name.startswith(expected))
            for name in sorted(names):
                if not name.startswith(expected) or name.startswith(_PART):  # the latter is being written
                    continue
                try:
                    found = self._entry(Path(folder, name))
                except ObjectChangedError:  # removed since the folder was listed
                    continue
                if found is not None:
                    yield found

    def subfolders(self) -> Iterator[str]:
        """The folders right below; links to folders do not count, as in listings."""
        with _reported(self.root):
            names = [entry.name for entry in os.scandir(self.root) if entry.is_dir(follow_symlinks=False)]
        yield from sorted(names)

    def _entry(self, path: Path) -> Entry | None:
        with _reported(path):
            if not path.is_file():  # sockets, pipes and broken links have no content
                return None
            with path.open("rb") as stream:
                version = hashlib.file_digest(stream, "sha256").hexdigest()[:32]
                size = stream.tell()
        return Entry(path.relative_to(self.root).as_posix(), size, version)

    def stat(self, key: str) -> Entry | None:
        """Describes one file; ``None`` where there is none."""
        try:
            return self._entry(self._path(key))
        except ObjectChangedError:
            return None

    def read(self, key: str, version: str | None = None, limit: int | None = None) -> bytes:
        """Reads a file whole; see ``Folder.read``."""
        path = self._path(key)
        with _reported(path, ObjectUnreadableError), path.open("rb") as stream:
            data = stream.read() if limit is None else stream.read(limit + 1)
        if limit is not None and len(data) > limit:
            raise ObjectTooLargeError(f"{path} is larger than the limit of {limit:,} bytes.")
        if version is not None and hashlib.sha256(data).hexdigest()[:32] != version:
            raise ObjectChangedError(f"{path} was replaced after it had been listed.", "Run again.")
        return data

    def download(self, key: str, path: Path) -> None:
        """Copies a file as a stream."""
        source = self._path(key)
        with _reported(source):
            content = source.open("rb")
        with content, _reported(path), path.open("wb") as target:
            shutil.copyfileobj(content, target)

    def write(self, key: str, data: bytes, content_type: str = "") -> None:
        """Writes a file in one piece, and the folders above it."""
        self._put(key, BytesIO(data))

    def upload(self, key: str, path: Path, content_type: str = "") -> None:
        """Copies a file as a stream, and makes the folders above it."""
        with _reported(path):
            content = path.open("rb")
        with content:
            self._put(key, content)

    def _put(self, key: str, content: BinaryIO) -> None:
        path = self._path(key)
        with _reported(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            # A temporary name in the same folder, then a rename: no reader ever sees half a file.
            handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=_PART)
            try:
                with os.fdopen(handle, "wb") as stream:
                    shutil.copyfileobj(content, stream)
                Path(temporary).chmod(0o644)
                Path(temporary).replace(path)
            except BaseException:
                Path(temporary).unlink()
                raise

    def child(self, key: str) -> FileFolder:
        """A folder below this one."""
        return FileFolder(self._path(key))


def _unreadable(error: OSError) -> None:
    """``os.walk`` would pass over a folder that it may not read, and its images would be missing silently."""
    if not isinstance(error, FileNotFoundError):
        raise _explain(Path(error.filename), error) from error


@contextmanager
def _reported(path: Path, kind: type[StorageError] = StorageError) -> Iterator[None]:
    """Turns an OSError into a StorageError that names the path."""
    try:
        yield
    except OSError as error:
        raise _explain(path, error, StorageError if error.errno in _NO_STORE else kind) from error


def _explain(path: Path, error: OSError, kind: type[StorageError] = StorageError) -> StorageError:
    if isinstance(error, FileNotFoundError):
        return ObjectChangedError(f"{path} does not exist.", "Check the path.")
    return kind(f"{path}: {error.strerror or error}.", "Check the path, permissions and free space.")
