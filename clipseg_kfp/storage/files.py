"""Plain folders."""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from filelock import lock_descriptor

from clipseg_kfp.errors import ObjectUnreadableError, ParameterError, StorageError
from clipseg_kfp.naming import digest
from clipseg_kfp.runtime.progress import say
from clipseg_kfp.storage.base import ConditionUnsupportedError, Entry, Folder, missing, replaced, too_large

_PART = ".part-"
_LOG = "storage"
_NAMED = 20  # unreadable folders that the log names
_NO_STORE = (
    errno.ENOTCONN,
    errno.ESTALE,
    errno.ETIMEDOUT,
    errno.EMFILE,
    errno.ENFILE,
)  # not the file's fault
_NO_LOCKS = (errno.ENOTSUP, errno.ENOSYS, errno.ENOLCK, errno.EINVAL, errno.EBADF)
_NO_FLUSH = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS)  # of folders, on some mounted stores
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK)  # some mounted stores and FAT


def _replace(temporary: Path, path: Path) -> bool:
    temporary.replace(path)
    return True


def _link(temporary: Path, path: Path) -> bool:
    """Whether the name was free. A created file counts for good, so it is on the disk before it has the name."""
    try:
        _flush(temporary)
        path.hardlink_to(temporary)  # fails where the name is taken, unlike a rename
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        raise ConditionUnsupportedError(
            f"{path}: this file system has no hard links.", "Use another file system.", where=str(path)
        ) from error
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
    """Flushes the file system of a path; where the system cannot do that (it is not Linux), all of them."""
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
def _temporary_file(path: Path) -> Iterator[tuple[BinaryIO, Path]]:
    """A temporary file in the same folder, to be renamed: readers never see half a file.

    Its name derives from the file's name, so the next write of that name removes what a killed write left.
    A lock tells leftovers from a write in progress; it ends with its process. NFS gives exclusive locks only
    for files that are open for writing.
    """
    part = path.with_name(_PART + digest(path.name))
    while True:
        try:
            stream = os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")
        except FileExistsError:
            with suppress(FileNotFoundError), part.open("r+b") as leftover:
                if not _lock(leftover):
                    break
                _remove(leftover, part)
            continue
        if not _lock(stream):
            _remove(stream, part)
            stream.close()
            break
        if _is_at(stream, part):  # nobody took it for a leftover before it was locked
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


def _lock(stream: BinaryIO) -> bool:
    """Waits for an exclusive lock; ``False`` where the file system has none."""
    try:
        return lock_descriptor(stream.fileno(), poll_interval=0.01)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        return False


def _is_at(stream: BinaryIO, path: Path) -> bool:
    """Whether the path still names the open file."""
    try:
        return os.path.samestat(os.fstat(stream.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _remove(stream: BinaryIO, path: Path) -> None:
    if _is_at(stream, path):
        path.unlink(missing_ok=True)


class FileFolder(Folder):
    """A folder of the local file system, which includes mounted volumes."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self.uri = self.root.as_uri()

    def locate(self, key: str) -> str:
        """The ``file://`` URI of a key, with special characters quoted."""
        return (self.root / key).as_uri()

    def _path(self, key: str) -> Path:
        if Path(key).is_absolute() or ".." in Path(key).parts or "\0" in key:
            raise ParameterError(
                f"{key!r} leaves the folder {self.root}.",
                "Use a name below it.",
                code="key_outside_folder",
                where=key,
            )
        return self.root / key

    def entries(self, prefix: str = "") -> Iterator[Entry]:
        """Streams the files, folder by folder in order of their names.

        Links to files count. Links to folders do not: a link may point back up and never end. A file that cannot
        be read has no version: whoever reads it learns why. A folder below that cannot be read is named in the
        log, and the listing goes on.
        """
        for path in self._walk(prefix, _leave_out):
            if not path.name.startswith(_PART) and (entry := self._entry(path)) is not None:
                yield entry

    def names(self, prefix: str = "") -> Iterator[Entry]:
        """As for every folder; a folder that cannot be read is an error, since callers delete what nothing names."""
        for path in self._walk(prefix):
            if (entry := self._entry(path, read=False)) is not None:
                yield entry

    def _walk(self, prefix: str, unreadable: Callable[[OSError], None] | None = None) -> Iterator[Path]:
        above, _, beginning = prefix.rpartition("/")
        start = self._path(above)
        with _reported(start):
            if not self.root.exists():
                raise StorageError(
                    f"The folder {self.root} does not exist.",
                    "Check the path.",
                    code="folder_missing",
                    where=str(self.root),
                )
            if not self.root.is_dir():
                raise StorageError(
                    f"{self.root} is a file.",
                    "Name the folder that holds it.",
                    code="folder_is_file",
                    where=str(self.root),
                )
            if not start.is_dir():
                return
        failed: list[Path] = []

        def on_error(error: OSError) -> None:
            # os.walk would silently skip a folder that it may not read, and the images in it.
            if isinstance(error, FileNotFoundError):
                return
            place = Path(error.filename)
            if unreadable is None or error.errno in _NO_STORE or place == start:
                raise _explain(place, error, StorageError) from error
            failed.append(place)
            if len(failed) <= _NAMED:
                unreadable(error)

        for folder, folders, names in os.walk(start, onerror=on_error):
            expected = beginning if Path(folder) == start else ""
            folders[:] = sorted(name for name in folders if name.startswith(expected))
            yield from (Path(folder, name) for name in sorted(names) if name.startswith(expected))
        if failed:
            say(_LOG, f"{self.root}: left out what is below {len(failed):,} folders that cannot be read")

    def _entry(self, path: Path, read: bool = True) -> Entry | None:
        name = path.relative_to(self.root).as_posix()
        facts: os.stat_result | None = None
        try:
            facts = path.stat()
            if not stat.S_ISREG(facts.st_mode):  # folders, sockets and pipes have no content
                return None
            if not read:
                return Entry(name, facts.st_size, "", facts.st_mtime)
            with path.open("rb") as stream:
                version = hashlib.file_digest(stream, "sha256").hexdigest()[:32]
                return Entry(name, stream.tell(), version, os.fstat(stream.fileno()).st_mtime)
        except (
            FileNotFoundError,
            NotADirectoryError,
        ):  # removed after the folder was listed, or a broken link
            return None
        except OSError as error:
            if error.errno == errno.ELOOP:
                return None
            if error.errno in _NO_STORE:
                raise _explain(path, error, StorageError) from error
            # Known by its name alone: reading it tells what is wrong with it, and with it alone.
            return Entry(name, facts.st_size, "", facts.st_mtime) if facts else Entry(name, 0, "")

    def folders(self) -> list[str]:
        """Names of the folders right below this one. Links do not count, as in listings."""
        with _reported(self.root):
            return sorted(
                path.name for path in self.root.iterdir() if path.is_dir() and not path.is_symlink()
            )

    def stat(self, key: str) -> Entry | None:
        return self._entry(self._path(key))

    def read(self, key: str, version: str | None = None, limit: int | None = None) -> bytes:
        path = self._path(key)
        with _reported(path, ObjectUnreadableError), path.open("rb") as stream:
            data = stream.read() if limit is None else stream.read(limit + 1)
        if limit is not None and len(data) > limit:
            raise too_large(str(path), limit)
        if version is not None and hashlib.sha256(data).hexdigest()[:32] != version:
            raise replaced(str(path))
        return data

    def download(self, key: str, path: Path) -> None:
        source = self._path(key)
        with _reported(source):
            content = source.open("rb")
        with content, _reported(path), path.open("wb") as target:
            shutil.copyfileobj(content, target)

    def write(self, key: str, data: bytes, content_type: str = "") -> None:
        self._put(key, BytesIO(data))

    def upload(self, key: str, path: Path, content_type: str = "") -> None:
        with _reported(path):
            content = path.open("rb")
        with content:
            self._put(key, content)

    def create(self, key: str, data: bytes, content_type: str = "") -> bool:
        return self._put(key, BytesIO(data), _link)

    def _put(self, key: str, content: BinaryIO, place: Callable[[Path, Path], bool] = _replace) -> bool:
        path = self._path(key)
        with _reported(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with _temporary_file(path) as (stream, part):
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
        return FileFolder(self._path(key))


def _leave_out(error: OSError) -> None:
    say(_LOG, f"{error.filename}: {error.strerror}; what is below it is left out")


@contextmanager
def _reported(path: Path, kind: type[StorageError] = StorageError) -> Iterator[None]:
    """Turns an OSError into a StorageError that names the path."""
    try:
        yield
    except OSError as error:
        raise _explain(path, error, StorageError if error.errno in _NO_STORE else kind) from error


def _explain(path: Path, error: OSError, kind: type[StorageError]) -> StorageError:
    where = str(path)
    if isinstance(error, FileNotFoundError):
        return missing(where)
    remedy = "Check the path, permissions and free space."
    return kind(f"{path}: {error.strerror or error}.", remedy, code="file_error", where=where)


@contextmanager
def disk_errors(path: Path, doing: str) -> Iterator[None]:
    """Turns errors of the local disk into a StorageError; those of the network are StorageErrors already."""
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"{path}: {error.strerror or error}, {doing}.",
            "Check the path, permissions and free space.",
            code="file_error",
            where=str(path),
        ) from error
