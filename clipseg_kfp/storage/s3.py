"""S3-compatible stores through the minio client."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import TypeVar

import urllib3
from minio.error import S3Error

from clipseg_kfp.errors import ObjectChangedError, StorageError
from clipseg_kfp.storage.base import Entry, Folder, ObjectTooLargeError
from clipseg_kfp.storage.checking import acknowledged, etag_of
from clipseg_kfp.storage.conditional import put_if_absent
from clipseg_kfp.storage.connecting import Client, connect
from clipseg_kfp.storage.retrying import TransportError

__all__ = ["S3Folder", "connect"]

PAGE = 1000  # the most keys that S3 lists at once
_ONE_PUT = 5 << 30  # S3's bound; up to there an object goes in one request and is there whole or not at all

T = TypeVar("T")


class S3Folder(Folder):
    """A prefix of a bucket.

    Keys are passed as they are: the store, not a file system, decides what ``..`` or ``//`` mean.
    """

    def __init__(self, client: Client, bucket: str, prefix: str = "") -> None:
        self.client = client
        self.bucket = bucket
        self.prefix = prefix if not prefix or prefix.endswith("/") else f"{prefix}/"
        self.uri = f"s3://{bucket}/{self.prefix}".rstrip("/")

    def locate(self, key: str) -> str:
        """The ``s3://`` URI of a key."""
        return f"s3://{self.bucket}/{self.prefix}{key}"

    def entries(self, prefix: str = "") -> Iterator[Entry]:
        """Streams the objects in the store's own order; markers of empty folders are left out."""
        start = self.prefix + prefix
        last: str | None = None

        def page() -> list[Entry]:
            # A page at a time, so that a fault in the middle repeats a page and not the listing.
            found: list[Entry] = []
            listing = self.client.list_objects(self.bucket, start or None, recursive=True, start_after=last)
            for item in listing:
                if item.object_name and not item.is_dir and not item.object_name.endswith("/"):
                    version, written = (item.etag or "").strip('"'), item.last_modified
                    modified = written.timestamp() if written else 0.0
                    found.append(Entry(item.object_name, item.size or 0, version, modified))
                if len(found) == PAGE:
                    break
            return found

        while batch := self._attempts(page, prefix):
            for entry in batch:
                yield replace(entry, key=entry.key.removeprefix(self.prefix))
            if len(batch) < PAGE:
                return
            last = batch[-1].key

    def stat(self, key: str) -> Entry | None:
        """Describes one object; ``None`` where there is none."""

        def call() -> Entry | None:
            try:
                found = self.client.stat_object(self.bucket, self.prefix + key)
            except S3Error as error:
                if error.code in ("NoSuchKey", "NoSuchObject"):
                    return None
                # AWS and MinIO answer so for what is missing, too, where the right to list has a prefix.
                if error.code == "AccessDenied" and self._is_missing(key):
                    return None
                raise
            written = found.last_modified.timestamp() if found.last_modified else 0.0
            return Entry(key, found.size or 0, acknowledged(found.etag).strip('"'), written)

        return self._attempts(call, key)

    def _is_missing(self, key: str) -> bool:
        """Asks by a listing whether there is no such object; false where that is refused, too."""
        name = self.prefix + key
        try:
            found = self.client.list_objects(self.bucket, name, recursive=True)
            first = next(iter(found), None)  # the name itself comes before those that it begins
            return first is None or first.object_name != name
        except S3Error:
            return False

    def read(self, key: str, version: str | None = None, limit: int | None = None) -> bytes:
        """Reads an object whole; see ``Folder.read``."""
        digests: list[str] = []

        def call() -> bytes:
            with self._opened(key, version) as response:
                length = int(response.headers.get("Content-Length", 0))
                if limit is not None and length > limit:
                    raise ObjectTooLargeError(
                        f"{self.locate(key)} has {length:,} bytes, more than the limit of {limit:,}."
                    )
                # As stored, whatever Content-Encoding says: sizes and digests then mean the same bytes.
                data = response.read(None if limit is None else limit + 1, decode_content=False)
            if len(data) < length:  # urllib3 notices only what it was not told to stop at
                raise TransportError(f"{len(data):,} of {length:,} bytes")
            if limit is not None and len(data) > limit:  # a store that did not tell the length
                raise ObjectTooLargeError(f"{self.locate(key)} is larger than the limit of {limit:,} bytes.")
            digest = hashlib.md5(data, usedforsecurity=False).hexdigest()
            self.client.checksums.check(self.locate(key), response.headers, digest, digests)
            return data

        try:
            return self._attempts(call, key)
        except ObjectChangedError as error:
            if version and self.stat(key) is not None:
                raise ObjectChangedError(
                    f"{self.locate(key)} was replaced after it had been listed.", "Run again."
                ) from error
            raise

    def download(self, key: str, path: Path) -> None:
        """Copies an object to a local file, as a stream."""
        digests: list[str] = []

        def call() -> None:
            digest = hashlib.md5(usedforsecurity=False)
            with self._opened(key) as response, path.open("wb") as target:
                for block in response.stream(1 << 20, decode_content=False):
                    digest.update(block)
                    target.write(block)
            self.client.checksums.check(self.locate(key), response.headers, digest.hexdigest(), digests)

        with _disk_errors(path, f"while {self.locate(key)} was copied to it"):
            self._attempts(call, key)

    @contextmanager
    def _opened(self, key: str, version: str | None = None) -> Iterator[urllib3.BaseHTTPResponse]:
        """The response of a GET; a body that ends early raises when it is read."""
        headers: dict[str, str | list[str] | tuple[str]] = {}
        if version:
            headers["If-Match"] = f'"{version}"'
        try:
            response = self.client.get_object(self.bucket, self.prefix + key, request_headers=headers or None)
        except S3Error as error:
            if error.code == "AccessDenied" and self._is_missing(key):  # see stat
                raise ObjectChangedError(
                    f"{self.locate(key)} does not exist (any more).", "Check the key."
                ) from error
            raise
        try:
            if version and etag_of(response.headers) != version:  # some stores ignore If-Match
                raise ObjectChangedError(f"{self.locate(key)} has another version now.", "Run again.")
            yield response
        finally:
            response.close()  # keeps the connection where the body was read to its end
            response.release_conn()

    def write(self, key: str, data: bytes, content_type: str = "application/octet-stream") -> None:
        """Writes an object in one piece."""
        part = min(max(len(data), 5 << 20), _ONE_PUT)

        def call() -> None:
            self.client.put_object(
                self.bucket, self.prefix + key, BytesIO(data), len(data), content_type, part_size=part
            )

        self._attempts(call, key)

    def upload(self, key: str, path: Path, content_type: str = "application/octet-stream") -> None:
        """Copies a file; a large one in parts, which nobody sees before the last is there."""

        def call() -> None:
            written = self.client.fput_object(self.bucket, self.prefix + key, str(path), content_type)
            if "-" in acknowledged(written.etag):  # in parts, which the store put together
                size = self.client.stat_object(self.bucket, self.prefix + key).size or 0
                if size != path.stat().st_size:
                    raise TransportError(f"{size:,} of {path.stat().st_size:,} bytes were put together")

        with _disk_errors(path, f"while it was copied to {self.locate(key)}"):
            self._attempts(call, key)

    def folders(self) -> list[str]:
        """Names below this prefix up to the next slash: a request for each thousand of them."""

        def call() -> list[str]:
            listing = self.client.list_objects(self.bucket, self.prefix or None)
            return [(item.object_name or "")[len(self.prefix) : -1] for item in listing if item.is_dir]

        return sorted(filter(None, self._attempts(call, "")))

    def create(self, key: str, data: bytes, content_type: str = "application/octet-stream") -> bool:
        """Writes an object if there is none of that name; see ``Folder.create``."""
        put = partial(put_if_absent, self.client, self.bucket, self.prefix + key, data, content_type)
        return self._attempts(put, key)

    def delete(self, key: str) -> None:
        """Removes an object."""
        self._attempts(lambda: self.client.remove_object(self.bucket, self.prefix + key), key)

    def child(self, key: str) -> S3Folder:
        """A longer prefix of the same bucket."""
        return S3Folder(self.client, self.bucket, self.prefix + key)

    def _attempts(self, call: Callable[[], T], key: str) -> T:
        """Runs a call; repeats it on faults that pass, as the client's policy says."""
        return self.client.retried(call, self.locate(key) if key else self.uri, self.bucket)


@contextmanager
def _disk_errors(path: Path, doing: str) -> Iterator[None]:
    """Names the local file; the network's errors come as StorageError."""
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"{path}: {error.strerror or error}, {doing}.", "Check the path, permissions and free space."
        ) from error
