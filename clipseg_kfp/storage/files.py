"""Plain folders."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from clipseg_kfp.errors import ObjectChangedError, ObjectUnreadableError, ParameterError, StorageError
from clipseg_kfp.naming import digest
from clipseg_kfp.storage.base import ConditionUnsupportedError, Entry, Folder, ObjectTooLargeError

_PART = ".part-"
_NO_STORE = (errno.ENOTCONN, errno.ESTALE, errno.ETIMEDOUT, errno.EMFILE, errno.ENFILE)  # no file's own fault
_NO_LOCKS = (errno.ENOTSUP, errno.ENOSYS, errno.ENOLCK, errno.EINVAL, errno.EBADF)
_NO_FLUSH = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS)  # of folders, on some mounted stores
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK)  # some mounted stores and FAT


def _replace(temporary: Path, path: Path) -> bool:
    temporary.replace(path)
    return True


def _link(temporary: Path, path: Path) -> bool:
    """Whether the name was free. What is created counts for good, so it is on the disk before it has the name."""
    try:
        _flush(temporary)
        path.hardlink_to(temporary)  # fails where the name is taken, unlike a rename
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        raise ConditionUnsupportedError(f"{path}: this file system has no hard links.") from error
    _flush(path.parent)
    return True


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _NO_FLUSH:
            raise
    finally:
        os.close(handle)


def _flush_all(path: Path) -> None:
    """Flushes the file system of a path; where that cannot be asked for (it is not Linux), all of them."""
    flush = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)
    if flush is None:
        os.sync()
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        if flush(handle):
            number = ctypes.get_errno()
            if number not in _NO_FLUSH:
                raise OSError(number, os.strerror(number))
            os.sync()
    finally:
        os.close(handle)


@contextmanager
def _part_of(path: Path) -> Iterator[tuple[BinaryIO, Path]]:
    """A temporary file in the same folder, to be renamed: no reader ever sees half a file.

    Its name derives from the file's, so that the next write of that name clears away what a killed one left.
    A lock, which ends with its process, tells the two from a write that is under way. NFS gives an exclusive
    one for files only that are open for writing.
    """
    part = path.with_name(_PART + digest(path.name))
    while True:
        try:
            stream = os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")
        except FileExistsError:
            with suppress(FileNotFoundError), part.open("r+b") as left:
                if not _locked(left):
                    break
                _remove(left, part)
            continue
        if not _locked(stream):
            _remove(stream, part)
            stream.close()
            break
        if _is(stream, part):  # and not taken for a remainder before it was locked
            with stream:
                try:
                    yield stream, part
                finally:
                    _remove(stream, part)  # unless it was renamed
            return
        stream.close()
    # A file system without locks: what a killed write leaves stays.
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=_PART)
    with os.fdopen(handle, "wb") as stream:
        try:
            yield stream, Path(name)
        finally:
            Path(name).unlink(missing_ok=True)


def _locked(stream: BinaryIO) -> bool:
    """Waits for an exclusive lock; ``False`` where the file system has none."""
    try:
        fcntl.flock(stream, fcntl.LOCK_EX)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        return False
    return True


def _is(stream: BinaryIO, path: Path) -> bool:
    """Whether a path still names an open file."""
    try:
        return os.path.samestat(os.fstat(stream.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _remove(stream: BinaryIO, path: Path) -> None:
    if _is(stream, path):
        path.unlink(missing_ok=True)


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
        for path in self._walk(prefix):
            if not path.name.startswith(_PART) and (found := self._found(path)) is not None:
                yield found

    def names(self, prefix: str = "") -> Iterator[Entry]:
        """Streams the files without reading them; see ``Folder.names``."""
        for path in self._walk(prefix):
            if (found := self._found(path, read=False)) is not None:
                yield found

    def _walk(self, prefix: str) -> Iterator[Path]:
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
            yield from (Path(folder, name) for name in sorted(names) if name.startswith(expected))

    def _found(self, path: Path, read: bool = True) -> Entry | None:
        try:
            return self._entry(path, read)
        except ObjectChangedError:  # removed since the folder was listed
            return None

    def _entry(self, path: Path, read: bool = True) -> Entry | None:
        with _reported(path):
            if not path.is_file():  # sockets, pipes and broken links have no content
                return None
            name = path.relative_to(self.root).as_posix()
            if not read:
                facts = path.stat()
                return Entry(name, facts.st_size, "", facts.st_mtime)
            with path.open("rb") as stream:
                version = hashlib.file_digest(stream, "sha256").hexdigest()[:32]
                return Entry(name, stream.tell(), version, os.fstat(stream.fileno()).st_mtime)

    def folders(self) -> list[str]:
        """Names of the folders right below this one; links do not count, as in listings."""
        with _reported(self.root):
            return sorted(
                path.name for path in self.root.iterdir() if path.is_dir() and not path.is_symlink()
            )

    def stat(self, key: str) -> Entry | None:
        """Describes one file; ``None`` where there is none."""
        return self._found(self._path(key))

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

    def create(self, key: str, data: bytes, content_type: str = "") -> bool:
        """Writes a file in one piece if there is none of that name; see ``Folder.create``."""
        return self._put(key, BytesIO(data), _link)

    def _put(self, key: str, content: BinaryIO, place: Callable[[Path, Path], bool] = _replace) -> bool:
        path = self._path(key)
        with _reported(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with _part_of(path) as (stream, part):
                shutil.copyfileobj(content, stream)
                stream.flush()
                part.chmod(0o644)
                return place(part, path)

    def settle(self) -> None:
        """Flushes the whole file system: thousands of files cost no more than one."""
        with _reported(self.root):
            _flush_all(self.root)

    def delete(self, key: str) -> None:
        """Removes a file; the folders above it stay."""
        path = self._path(key)
        with _reported(path):
            path.unlink(missing_ok=True)

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
