"""The interface that all stores share, and the way from a URI to one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote

from clipseg_kfp.errors import ParameterError, StorageError

SCHEMES = "s3://bucket/prefix, file:///folder or a plain path"


class ObjectTooLargeError(StorageError):
    """An object has more bytes than its reader accepts."""


class ConditionUnsupportedError(StorageError):
    """The store knows no way to write an object only where there is none."""


@dataclass(frozen=True)
class Entry:
    """One object of a listing.

    Attributes:
        key: name relative to the folder that was listed.
        size: bytes.
        version: changes whenever the content does: an ETag for S3, a sha256 for files.
        modified: when it was written, in seconds since 1970; 0 where the store does not tell.
    """

    key: str
    size: int
    version: str
    modified: float = field(default=0.0, compare=False)


class Folder(ABC):
    """A prefix of an object store, or a folder of a file system.

    Every method takes keys relative to the folder. All raise ``StorageError`` (or its subclass
    ``ObjectChangedError``) with the full URI of the object in the message.
    """

    uri: str

    @abstractmethod
    def entries(self, prefix: str = "") -> Iterator[Entry]:
        """Streams all objects whose keys start with ``prefix``, recursively, in no promised order.

        A missing bucket or folder is an error; a prefix without objects is not.
        """

    def names(self, prefix: str = "") -> Iterator[Entry]:
        """Streams what ``entries`` does, but without versions where these would cost reading every object.

        Files that a killed write has left behind are among them.
        """
        return self.entries(prefix)

    @abstractmethod
    def folders(self) -> list[str]:
        """Names of the folders right below this one, in order; what lies in them is not looked at."""

    @abstractmethod
    def stat(self, key: str) -> Entry | None:
        """Describes one object; ``None`` where there is none."""

    @abstractmethod
    def read(self, key: str, version: str | None = None, limit: int | None = None) -> bytes:
        """Reads an object whole.

        Args:
            key: name below the folder.
            version: the version that the listing gave; another one there now is an error.
            limit: the most bytes accepted.

        Raises:
            ObjectChangedError: the object is gone or has another version.
            ObjectTooLargeError: it has more bytes than ``limit``.
            StorageError: everything else.
        """

    @abstractmethod
    def download(self, key: str, path: Path) -> None:
        """Copies an object to a local file, as a stream."""

    @abstractmethod
    def write(self, key: str, data: bytes, content_type: str = "application/octet-stream") -> None:
        """Writes an object in one piece: readers see the old state or the new one, never a part."""

    @abstractmethod
    def upload(self, key: str, path: Path, content_type: str = "application/octet-stream") -> None:
        """Copies a local file to an object, as a stream; readers see it whole or not at all."""

    @abstractmethod
    def create(self, key: str, data: bytes, content_type: str = "application/octet-stream") -> bool:
        """Writes an object in one piece if there is none of that name; of several at once, one succeeds.

        A store may accept the condition and ignore it: the object is replaced then. Creating an object that
        is there, with the bytes that it has, shows it and changes nothing. It outlives a power cut at once.

        Returns:
            Whether it was written. After a lost answer, the object may be this call's own and the result
            false: compare the bytes.

        Raises:
            ConditionUnsupportedError: the store refuses conditions.
        """

    def settle(self) -> None:
        """Returns when all that was written would outlive a power cut: object stores promise so by answering."""
        return

    @abstractmethod
    def delete(self, key: str) -> None:
        """Removes an object; one that is gone already is no error."""

    @abstractmethod
    def child(self, key: str) -> Folder:
        """A folder below this one."""

    def locate(self, key: str) -> str:
        """The full URI of a key."""
        return f"{self.uri.rstrip('/')}/{key}"


def split_object_uri(uri: str) -> tuple[str, str]:
    """Splits an object's URI into its folder's URI and its name.

    >>> split_object_uri("s3://bucket/a/b.jpg")
    ('s3://bucket/a', 'b.jpg')

    Raises:
        ParameterError: the URI names a folder or a bucket.
    """
    scheme, slashes, rest = uri.rpartition("://")
    head, slash, name = rest.rpartition("/")
    if not name or (slashes and not slash):
        raise ParameterError(f"'{uri}' names a folder where an object is needed.")
    if not slash:
        return ".", name
    return f"{scheme}{slashes}{head}" if head else f"{scheme}{slashes}/", name


def open_folder(uri: str, endpoint: str = "") -> Folder:
    """Opens a folder by URI; nothing is contacted before the first call.

    Args:
        uri: ``s3://bucket/prefix``, ``file:///folder`` or a plain path.
        endpoint: URL of the S3 endpoint; empty takes ``S3_ENDPOINT`` or AWS itself.

    Raises:
        ParameterError: an unknown scheme, no bucket in the URI, or an unusable endpoint.
    """
    from clipseg_kfp.storage.files import FileFolder

    head, slashes, rest = uri.partition("://")
    scheme = head.lower() if slashes else ""
    if scheme == "s3":
        from clipseg_kfp.storage.s3 import S3Folder, connect

        bucket, _, prefix = rest.partition("/")
        if not bucket:
            raise ParameterError(f"'{uri}' names no bucket.", "Write it as s3://bucket/prefix.")
        if "@" in bucket or ":" in bucket:  # not repeated: it may hold a secret
            raise ParameterError(
                "An s3:// URI has a login or a port before its bucket.",
                "Write it as s3://bucket/prefix; credentials and endpoint are given apart.",
            )
        return S3Folder(connect(endpoint), bucket, prefix)
    if scheme == "file":
        host, slash, path = rest.partition("/")
        if host not in ("", "localhost"):
            raise ParameterError(f"'{uri}' names a host.", f"Write it with three slashes: file:///{host}/…")
        return FileFolder(Path(_unquoted(slash + path) or "/"))
    if slashes:
        raise ParameterError(f"'{uri}' has the unknown scheme '{scheme}'.", f"Use {SCHEMES}.")
    if not uri:
        raise ParameterError("A folder or bucket is needed, and the value is empty.", f"Use {SCHEMES}.")
    return FileFolder(Path(uri).expanduser())


def open_object(uri: str, endpoint: str = "") -> tuple[Folder, str]:
    """Opens the folder of an object; returns it with the object's key.

    Raises:
        ParameterError: as ``open_folder``, or the URI names no object.
    """
    head, slashes, rest = uri.partition("://")
    scheme = head.lower() if slashes else ""
    if scheme == "s3":
        bucket, _, key = rest.partition("/")
        folder = open_folder(f"s3://{bucket}", endpoint)
        if not key or key.endswith("/"):
            raise ParameterError(f"'{uri}' names a bucket or prefix where an object is needed.")
        return folder, key
    parent, name = split_object_uri(uri)
    return open_folder(parent, endpoint), _unquoted(name) if scheme == "file" else name


def _unquoted(path: str) -> str:
    """A ``file://`` URI's path; bytes that are no UTF-8 come back as the file system gave them."""
    return unquote(path, errors="surrogateescape")
