"""The interface that all stores share, and the way from a URI to one."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urljoin

from clipseg_kfp.errors import ObjectChangedError, ParameterError, StorageError

_FORMS = "Use s3://bucket/prefix, https://host/file, file:///folder or a plain path."


class ObjectTooLargeError(StorageError):
    """An object has more bytes than its reader accepts."""

    code = "object_too_large"


class ConditionUnsupportedError(StorageError):
    """The store cannot write an object only where there is none."""

    code = "condition_unsupported"


def missing(where: str) -> ObjectChangedError:
    """The error for an object that does not exist, or does not exist any more."""
    return ObjectChangedError(
        f"{where} does not exist.", "Check the name.", code="object_missing", where=where
    )


def replaced(where: str) -> ObjectChangedError:
    """The error for an object that has another version than the listing gave."""
    return ObjectChangedError(f"{where} was replaced after it had been listed.", "Run again.", where=where)


def too_large(where: str, limit: int) -> ObjectTooLargeError:
    """The error for an object of more than ``limit`` bytes."""
    return ObjectTooLargeError(
        f"{where} is larger than the limit of {limit:,} bytes.", "Make it smaller, or split it.", where=where
    )


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
        """Streams all objects whose keys start with ``prefix``, recursively, in any order.

        A missing bucket or folder is an error; a prefix without objects is not.
        """

    def names(self, prefix: str = "") -> Iterator[Entry]:
        """Streams what ``entries`` does, but without versions where these would cost reading every object.

        This includes files that a killed write left behind.
        """
        return self.entries(prefix)

    @abstractmethod
    def folders(self) -> list[str]:
        """Names of the folders right below this one, in order."""

    @abstractmethod
    def stat(self, key: str) -> Entry | None:
        """Describes one object; ``None`` where there is none."""

    @abstractmethod
    def read(self, key: str, version: str | None = None, limit: int | None = None) -> bytes:
        """Reads an object whole.

        Args:
            key: name below the folder.
            version: the version that the listing gave; it is an error if the object has another one now.
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
        """Writes an object in one piece: readers see the old state or the new one, never half."""

    @abstractmethod
    def upload(self, key: str, path: Path, content_type: str = "application/octet-stream") -> None:
        """Copies a local file to an object, as a stream; readers see it whole or not at all."""

    @abstractmethod
    def create(self, key: str, data: bytes, content_type: str = "application/octet-stream") -> bool:
        """Writes an object in one piece if there is none of that name; of several at once, one succeeds.

        A store may accept the condition and ignore it; then the object is replaced. To find out, create an
        object that is there, with the same bytes. What is created outlives a power cut at once.

        Returns:
            Whether it was written. After a lost answer the result may be false although this call wrote the
            object: compare the bytes.

        Raises:
            ConditionUnsupportedError: the store refuses conditions.
        """

    def settle(self) -> None:
        """Returns when all that was written would outlive a power cut; object stores answer only then."""
        return

    @abstractmethod
    def delete(self, key: str) -> None:
        """Removes an object; it is not an error if it is gone already."""

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
    uri = plain_path(uri)
    scheme, slashes, rest = uri.rpartition("://")
    head, slash, name = rest.rpartition("/")
    if not name or (slashes and not slash):
        raise _no_object(uri)
    if not slash:
        return ".", name
    return f"{scheme}{slashes}{head}" if head else f"{scheme}{slashes}/", name


def open_folder(uri: str, endpoint: str = "") -> Folder:
    """Opens a folder by URI. Nothing is contacted before the first call.

    Args:
        uri: ``s3://bucket/prefix``, ``file:///folder`` or a plain path.
        endpoint: URL of the S3 endpoint; empty takes ``S3_ENDPOINT`` or AWS itself.

    Raises:
        ParameterError: an unknown scheme, a URI without a bucket, or an unusable endpoint.
    """
    from clipseg_kfp.storage.files import FileFolder

    scheme, rest = _split_scheme(uri)
    if scheme == "s3":
        from clipseg_kfp.storage.s3 import S3Folder, connect

        bucket, _, prefix = rest.partition("/")
        if not bucket:
            remedy = "Write it as s3://bucket/prefix."
            raise ParameterError(f"'{uri}' names no bucket.", remedy, code="uri_bucket_missing", where=uri)
        if "@" in bucket or ":" in bucket:  # not repeated: it may hold a secret
            raise ParameterError(
                "An s3:// URI has a login or a port before its bucket.",
                "Write it as s3://bucket/prefix; credentials and endpoint are given apart.",
                code="uri_has_login",
            )
        return S3Folder(connect(endpoint), bucket, prefix)
    if scheme in ("https", "http"):
        from clipseg_kfp.storage.web import not_listed, split_url

        split_url(uri)
        raise not_listed(uri)
    if scheme == "file":
        host, slash, path = rest.partition("/")
        if host not in ("", "localhost"):
            remedy = f"Write it with three slashes: file:///{host}/…"
            raise ParameterError(f"'{uri}' names a host.", remedy, code="uri_has_host", where=uri)
        return FileFolder(Path(_unquoted(slash + path) or "/"))
    if scheme or "://" in uri:
        message = f"'{uri}' has the unknown scheme '{scheme}'."
        raise ParameterError(message, _FORMS, code="uri_scheme_unknown", where=uri)
    if not uri:
        raise ParameterError("The URI of a folder or bucket is empty.", _FORMS, code="uri_empty")
    return FileFolder(Path(uri).expanduser())


def open_object(uri: str, endpoint: str = "") -> tuple[Folder, str]:
    """Opens the folder of an object. Returns it with the object's key.

    Raises:
        ParameterError: as for ``open_folder``, or the URI names no object.
    """
    scheme, rest = _split_scheme(uri)
    if scheme == "s3":
        bucket, _, key = rest.partition("/")
        folder = open_folder(f"s3://{bucket}", endpoint)
        if not key or key.endswith("/"):
            raise _no_object(uri)
        return folder, key
    if scheme in ("https", "http"):
        from clipseg_kfp.storage.web import WebFolder, split_url

        host, key = split_url(uri)
        return WebFolder(host), key
    parent, name = split_object_uri(uri)
    return open_folder(parent, endpoint), _unquoted(name) if scheme == "file" else name


def is_web(uri: str) -> bool:
    """Whether a URI is that of a web server."""
    return _split_scheme(uri)[0] in ("https", "http")


def plain_path(uri: str) -> str:
    """The part of a URI that ends with a file's suffix: that of a web server without query and fragment."""
    return re.split("[?#]", uri, maxsplit=1)[0] if is_web(uri) else uri


def web_reference(base: str, value: str) -> str:
    """What a file from the web names: a URI, or a place relative to the file.

    Args:
        base: URL of the file.
        value: what it says.

    Raises:
        ParameterError: a file of this machine, which is not for others to name.
    """
    found = urljoin(plain_path(base), value)
    if is_web(found) or _split_scheme(found)[0] == "s3":
        return found
    raise ParameterError(
        f"{base} names '{value}', and a file from the web may not name files of this machine.",
        "Name files by https:// or s3://, or relative to the one that names them.",
        code="web_names_local_file",
        where=value,
    )


def _no_object(uri: str) -> ParameterError:
    return ParameterError(
        f"'{uri}' names a folder or bucket where an object is needed.",
        "Give the URI of one file or object.",
        code="uri_names_no_object",
        where=uri,
    )


def _split_scheme(uri: str) -> tuple[str, str]:
    scheme, slashes, rest = uri.partition("://")
    return (scheme.lower(), rest) if slashes else ("", uri)


def _unquoted(path: str) -> str:
    """The path of a ``file://`` URI; bytes that are not UTF-8 come back as the file system gave them."""
    return unquote(path, errors="surrogateescape")
