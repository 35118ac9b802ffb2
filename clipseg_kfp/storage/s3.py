"""S3-compatible stores through the minio client."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from io import BytesIO
from itertools import islice, pairwise
from pathlib import Path
from typing import TypeVar

import urllib3
from minio.datatypes import Object
from minio.error import MinioException, S3Error, ServerError

from clipseg_kfp.errors import ObjectChangedError, StorageError
from clipseg_kfp.storage.base import ConditionUnsupportedError, Entry, Folder, missing, replaced, too_large
from clipseg_kfp.storage.checksums import acknowledged, etag_of
from clipseg_kfp.storage.connection import Client, connect
from clipseg_kfp.storage.files import disk_errors
from clipseg_kfp.storage.retries import TransportError, status

__all__ = ["S3Folder", "connect"]

PAGE = 1000  # the most keys that S3 lists at once
_ONE_PUT = 5 << 30  # S3's bound; up to there an object goes in one request and is there whole or not at all

T = TypeVar("T")


class S3Folder(Folder):
    """A prefix of a bucket.

    Keys are passed on unchanged: the store, not a file system, decides what ``..`` or ``//`` mean.
    """

    def __init__(self, client: Client, bucket: str, prefix: str = "") -> None:
        self.client = client
        self.bucket = bucket
        self.prefix = prefix if not prefix or prefix.endswith("/") else f"{prefix}/"
        self.uri = f"s3://{bucket}/{self.prefix}".rstrip("/")

    def locate(self, key: str) -> str:
        return f"s3://{self.bucket}/{self.prefix}{key}"

    def entries(self, prefix: str = "") -> Iterator[Entry]:
        """Streams the objects in the store's own order; markers of empty folders are left out.

        A fault repeats one page, not the whole listing.

        Raises:
            StorageError: also where the store repeats itself and would never end.
        """
        start = self.prefix + prefix
        first = last = ""
        ordered = True
        began: set[str] = set()  # the first name of each page
        listing: Iterator[Object] | None = None

        def page() -> list[Object]:
            nonlocal listing
            if listing is None:
                listing = self._resume(start, first, last, ordered)
            try:
                return list(islice(listing, PAGE))
            except BaseException:
                listing = None  # a generator that raised has ended
                raise

        while items := self._attempts(page, prefix):
            names = [item.object_name or "" for item in items]
            if names[0] in began:
                raise self._repeats_itself()
            began.add(names[0])
            first, ordered = first or names[0], ordered and all(a < b for a, b in pairwise([last, *names]))
            last = names[-1]
            for item, name in zip(items, names, strict=True):
                if name and not item.is_dir and not name.endswith("/"):
                    version = (item.etag or "").strip('"')
                    yield Entry(
                        name.removeprefix(self.prefix), item.size or 0, version, _seconds(item.last_modified)
                    )
            if len(items) < PAGE:
                return

    def _resume(self, start: str, first: str, last: str, ordered: bool) -> Iterator[Object]:
        """Lists from after ``last``, also where the store ignores ``start-after`` and begins anew."""
        items = self.client.list_objects(self.bucket, start or None, recursive=True, start_after=last or None)
        anew = False
        for i, item in enumerate(items):
            name = item.object_name or ""
            anew = anew or (i == 0 and bool(last) and name == first)
            if anew and not ordered:  # nobody knows what was listed before
                raise self._repeats_itself()
            if not anew or name > last:
                yield item

    def _repeats_itself(self) -> StorageError:
        return StorageError(
            f"{self.client.host} lists the same objects of {self.uri} again and again.",
            "The store does not follow ListObjectsV2 (start-after or continuation-token); name the images in a "
            "manifest instead.",
            code="listing_repeats",
            where=self.uri,
        )

    def stat(self, key: str) -> Entry | None:
        def call() -> Entry | None:
            try:
                info = self.client.stat_object(self.bucket, self.prefix + key)
            except S3Error as error:
                if error.code in ("NoSuchKey", "NoSuchObject"):
                    return None
                # AWS and MinIO deny access to missing objects where the right to list is limited to a prefix.
                if error.code == "AccessDenied" and self._is_missing(key):
                    return None
                if status(error) == 400:  # the answer to a HEAD has no body: that to a GET says what is wrong
                    self.client.get_object(self.bucket, self.prefix + key, length=1).close()
                raise
            version = acknowledged(info.etag).strip('"')
            return Entry(key, info.size or 0, version, _seconds(info.last_modified))

        return self._attempts(call, key)

    def _is_missing(self, key: str) -> bool:
        """Whether a listing shows that the object is missing; false where listing is refused, too."""
        name = self.prefix + key
        try:
            listing = self.client.list_objects(self.bucket, name, recursive=True)
            first = next(iter(listing), None)  # the name itself comes before names that begin with it
            return first is None or first.object_name != name
        except S3Error:
            return False

    def read(self, key: str, version: str | None = None, limit: int | None = None) -> bytes:
        digests: list[str] = []

        def call() -> bytes:
            with self._opened(key, version) as response:
                length = int(response.headers.get("Content-Length", 0))
                if limit is not None and length > limit:
                    raise too_large(self.locate(key), limit)
                # As stored, whatever Content-Encoding says: sizes and digests are about the same bytes then.
                data = response.read(None if limit is None else limit + 1, decode_content=False)
            if len(data) < length:  # urllib3 does not notice when it was told where to stop
                raise TransportError(f"{len(data):,} of {length:,} bytes")
            if limit is not None and len(data) > limit:  # the store did not tell the length
                raise too_large(self.locate(key), limit)
            digest = hashlib.md5(data, usedforsecurity=False).hexdigest()
            self.client.checksums.check(self.locate(key), response.headers, digest, digests)
            return data

        try:
            return self._attempts(call, key)
        except ObjectChangedError as error:
            if version and self.stat(key) is not None:
                raise replaced(self.locate(key)) from error
            raise

    def download(self, key: str, path: Path) -> None:
        digests: list[str] = []

        def call() -> None:
            digest = hashlib.md5(usedforsecurity=False)
            with self._opened(key) as response, path.open("wb") as target:
                for block in response.stream(1 << 20, decode_content=False):
                    digest.update(block)
                    target.write(block)
            self.client.checksums.check(self.locate(key), response.headers, digest.hexdigest(), digests)

        with disk_errors(path, f"while {self.locate(key)} was copied to it"):
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
                raise missing(self.locate(key)) from error
            raise
        try:
            if version and etag_of(response.headers) != version:  # some stores ignore If-Match
                raise replaced(self.locate(key))
            yield response
        finally:
            response.close()  # keeps the connection where the body was read to its end
            response.release_conn()

    def write(self, key: str, data: bytes, content_type: str = "application/octet-stream") -> None:
        part = min(max(len(data), 5 << 20), _ONE_PUT)

        def call() -> None:
            self.client.put_object(
                self.bucket, self.prefix + key, BytesIO(data), len(data), content_type, part_size=part
            )

        self._attempts(call, key)

    def upload(self, key: str, path: Path, content_type: str = "application/octet-stream") -> None:
        """Copies a file; a large one in parts, which nobody sees before the last one is there."""

        def call() -> None:
            written = self.client.fput_object(self.bucket, self.prefix + key, str(path), content_type)
            if "-" in acknowledged(written.etag):  # the store joined parts
                size = self.client.stat_object(self.bucket, self.prefix + key).size or 0
                if size != path.stat().st_size:
                    raise TransportError(f"{size:,} of {path.stat().st_size:,} bytes were joined")

        with disk_errors(path, f"while it was copied to {self.locate(key)}"):
            self._attempts(call, key)

    def folders(self) -> list[str]:
        """Names below this prefix up to the next slash: one request per thousand of them."""

        def call() -> list[str]:
            listing = self.client.list_objects(self.bucket, self.prefix or None)
            return [(item.object_name or "")[len(self.prefix) : -1] for item in listing if item.is_dir]

        return sorted(filter(None, self._attempts(call, "")))

    def create(self, key: str, data: bytes, content_type: str = "application/octet-stream") -> bool:
        # put_object of minio-py would turn If-None-Match into metadata of the object.
        headers = {"If-None-Match": "*", "Content-Type": content_type}

        def call() -> bool:
            try:
                self.client._put_object(self.bucket, self.prefix + key, data, headers)
            except MinioException as error:
                code = error.code if isinstance(error, S3Error) else ""
                if status(error) == 412 or code == "PreconditionFailed":
                    return False
                if status(error) == 501 or code == "NotImplemented":
                    raise ConditionUnsupportedError(
                        f"The store does not support conditional writes of {self.locate(key)}.",
                        "Use a store that does.",
                        where=self.locate(key),
                    ) from error
                if status(error) == 409:  # another conditional PUT is in progress: try again
                    raise ServerError("another conditional request is in progress", 503) from error
                raise
            return True

        return self._attempts(call, key)

    def delete(self, key: str) -> None:
        self._attempts(lambda: self.client.remove_object(self.bucket, self.prefix + key), key)

    def child(self, key: str) -> S3Folder:
        return S3Folder(self.client, self.bucket, self.prefix + key)

    def _attempts(self, call: Callable[[], T], key: str) -> T:
        """Makes a call and repeats it on temporary faults, as the client's policy says."""
        return self.client.retried(call, self.locate(key) if key else self.uri, self.bucket)


def _seconds(time: datetime | None) -> float:
    return time.timestamp() if time else 0.0
