"""S3-compatible stores through the minio client."""

from __future__ import annotations

import configparser
import os
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit
from xml.etree.ElementTree import ParseError

import urllib3
from minio import Minio
from minio.credentials.providers import (
    AWSConfigProvider,
    ChainedProvider,
    EnvAWSProvider,
    EnvMinioProvider,
    IamAwsProvider,
    Provider,
)
from minio.error import InvalidResponseError, MinioException, S3Error, ServerError

from clipseg_kfp.errors import (
    ClipsegKfpError,
    ObjectChangedError,
    ObjectUnreadableError,
    ParameterError,
    StorageError,
)
from clipseg_kfp.storage.base import Entry, Folder, ObjectTooLargeError

ATTEMPTS = 5
BACKOFF_SECONDS, BACKOFF_LIMIT = 0.5, 8.0  # the longest first wait, doubled each time up to the limit
CONNECT_SECONDS, READ_SECONDS = 5.0, 60.0
PAGE = 1000  # the most keys that S3 lists at once
_ONE_PUT = 5 << 30  # S3's bound; up to there an object goes in one request and is there whole or not at all
_RETRIED_STATUS = (429, 500, 502, 503, 504)
_RETRIED_CODES = {"SlowDown", "InternalError", "RequestTimeout", "ServiceUnavailable", "TooManyRequests"}

T = TypeVar("T")


@lru_cache(maxsize=8)
def connect(endpoint: str = "") -> Minio:
    """Makes a client from the usual environment; the connection pool is shared within the process.

    Args:
        endpoint: URL such as ``http://seaweedfs.kubeflow:9000``; a bare ``host:port`` means https.
            Empty takes ``S3_ENDPOINT`` or ``AWS_ENDPOINT_URL``, and without those AWS itself.

    Raises:
        ParameterError: the endpoint is no URL of a host, or names a path.
    """
    endpoint = endpoint or os.environ.get("S3_ENDPOINT") or os.environ.get("AWS_ENDPOINT_URL") or ""
    try:
        parts = urlsplit(endpoint if "://" in endpoint else f"https://{endpoint or 's3.amazonaws.com'}")
        valid = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        raise _bad_endpoint(endpoint) from None
    more = parts.path.strip("/") or parts.query or parts.fragment
    if not valid or more or "@" in parts.netloc or " " in parts.netloc:
        raise _bad_endpoint(endpoint)
    pool = urllib3.PoolManager(
        timeout=urllib3.Timeout(connect=CONNECT_SECONDS, read=READ_SECONDS),
        maxsize=32,
        cert_reqs="CERT_REQUIRED",
        ca_certs=os.environ.get("SSL_CERT_FILE") or None,
        retries=False,  # one place retries: _attempts below, which also covers the body of a response
    )
    try:
        return Minio(
            parts.netloc,
            secure=parts.scheme == "https",
            region=os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1",
            credentials=_credentials(),
            http_client=pool,
        )
    except ValueError:  # a host name that the client refuses
        raise _bad_endpoint(endpoint) from None


def _bad_endpoint(endpoint: str) -> ParameterError:
    plain = endpoint.rsplit("@", 1)[-1].partition("?")[0]  # neither a login nor a signature is repeated
    return ParameterError(
        f"The S3 endpoint '{plain}' is not a plain URL.",
        "Write it as http://host:port or https://host, credentials apart.",
    )


def _credentials() -> Provider:
    """Environment first, then ``~/.aws``, then the identity that the cluster gives the pod."""
    chain: list[Provider] = [EnvAWSProvider(), EnvMinioProvider(), AWSConfigProvider()]
    if os.environ.get("AWS_WEB_IDENTITY_TOKEN_FILE") or os.environ.get("AWS_CONTAINER_CREDENTIALS_FULL_URI"):
        chain.append(IamAwsProvider())
    return ChainedProvider(chain)


class S3Folder(Folder):
    """A prefix of a bucket.

    Keys are passed as they are: the store, not a file system, decides what ``..`` or ``//`` mean.
    """

    def __init__(self, client: Minio, bucket: str, prefix: str = "") -> None:
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
                    found.append(Entry(item.object_name, item.size or 0, (item.etag or "").strip('"')))
                if len(found) == PAGE:
                    break
            return found

        while batch := self._attempts(page, prefix):
            for entry in batch:
                yield Entry(entry.key.removeprefix(self.prefix), entry.size, entry.version)
            if len(batch) < PAGE:
                return
            last = batch[-1].key

    def subfolders(self) -> Iterator[str]:
        """The common prefixes below this one, up to the next slash."""

        def call() -> list[str]:
            listing = self.client.list_objects(self.bucket, self.prefix or None, recursive=False)
            return [item.object_name for item in listing if item.is_dir and item.object_name]

        for name in self._attempts(call, ""):
            yield name.removeprefix(self.prefix).rstrip("/")

    def stat(self, key: str) -> Entry | None:
        """Describes one object; ``None`` where there is none."""

        def call() -> Entry | None:
            try:
                found = self.client.stat_object(self.bucket, self.prefix + key)
            except S3Error as error:
                if error.code in ("NoSuchKey", "NoSuchObject"):
                    return None
                raise
            return Entry(key, found.size or 0, (found.etag or "").strip('"'))

        return self._attempts(call, key)

    def read(self, key: str, version: str | None = None, limit: int | None = None) -> bytes:
        """Reads an object whole; see ``Folder.read``."""

        def call() -> bytes:
            with self._opened(key, version) as response:
                length = int(response.headers.get("Content-Length", 0))
                if limit is not None and length > limit:
                    raise ObjectTooLargeError(
                        f"{self.locate(key)} has {length:,} bytes, more than the limit of {limit:,}."
                    )
                # As stored, whatever Content-Encoding says: sizes and digests then mean the same bytes.
                data = response.read(None if limit is None else limit + 1, decode_content=False)
            if limit is not None and len(data) > limit:  # a store that did not tell the length
                raise ObjectTooLargeError(f"{self.locate(key)} is larger than the limit of {limit:,} bytes.")
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

        def call() -> None:
            with self._opened(key) as response, path.open("wb") as target:
                for block in response.stream(1 << 20, decode_content=False):
                    target.write(block)

        try:
            self._attempts(call, key)
        except OSError as error:  # the network's own come as StorageError
            raise StorageError(
                f"{path}: {error.strerror or error}, while {self.locate(key)} was copied to it.",
                "Check the path, permissions and free space.",
            ) from error

    @contextmanager
    def _opened(self, key: str, version: str | None = None) -> Iterator[urllib3.BaseHTTPResponse]:
        """The response of a GET; a body that ends early raises when it is read."""
        headers: dict[str, str | list[str] | tuple[str]] = {}
        if version:
            headers["If-Match"] = f'"{version}"'
        response = self.client.get_object(self.bucket, self.prefix + key, request_headers=headers or None)
        try:
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
            self.client.fput_object(self.bucket, self.prefix + key, str(path), content_type)

        try:
            self._attempts(call, key)
        except OSError as error:  # the network's own come as StorageError
            raise StorageError(
                f"{path}: {error.strerror or error}, while it was copied to {self.locate(key)}.",
                "Check the path and permissions.",
            ) from error

    def child(self, key: str) -> S3Folder:
        """A longer prefix of the same bucket."""
        return S3Folder(self.client, self.bucket, self.prefix + key)

    def _attempts(self, call: Callable[[], T], key: str) -> T:
        """Runs a call; repeats it on faults that pass, with doubling waits and full jitter."""
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return call()
            except configparser.Error:
                raise StorageError(  # not chained: the parser's message quotes the line
                    "The AWS credentials file cannot be parsed.",
                    "Check ~/.aws/credentials or AWS_SHARED_CREDENTIALS_FILE.",
                ) from None
            except (MinioException, urllib3.exceptions.HTTPError, ParseError, ValueError) as error:
                if not _passes(error) or attempt == ATTEMPTS:
                    raise self._explain(error, key, attempt) from error
                time.sleep(random.uniform(0, min(BACKOFF_LIMIT, BACKOFF_SECONDS * 2 ** (attempt - 1))))
        raise AssertionError("unreachable")

    def _explain(self, error: Exception, key: str, attempts: int) -> ClipsegKfpError:
        where = self.locate(key) if key else self.uri
        host = self.client._base_url.host
        tries = f"{attempts} attempts" if attempts > 1 else "1 attempt"
        if isinstance(error, S3Error):
            return self._explain_answer(error, where, host, tries)
        if isinstance(error, MinioException | ParseError):
            status = _status(error)
            answer = f"status {status}" if status else "text that is no S3 answer"
            return StorageError(
                f"{host} answered {answer} for {where} ({tries}).",
                "Check that the endpoint is an S3 service and not a proxy or a web page.",
            )
        if isinstance(error, urllib3.exceptions.HTTPError):
            return StorageError(
                f"{host} could not be reached for {where} ({tries}; last: {_root_cause(error)}).",
                "Check the endpoint, its scheme (http or https) and the network.",
            )
        # What is left are minio-py's own checks, made before anything is sent.
        if "credentials" in str(error):
            return StorageError(
                f"No credentials for {host} were found, for {where}.",
                "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or mount the storage secret.",
            )
        if "bucket name" in str(error):
            return StorageError(f"'{self.bucket}' is not a valid bucket name.", "Check the URI.")
        return ObjectUnreadableError(f"{where} cannot be used: {error}.", "Rename the object.")

    def _explain_answer(self, error: S3Error, where: str, host: str, tries: str) -> StorageError:
        code = error.code
        if code == "NoSuchBucket":
            return StorageError(
                f"The bucket '{self.bucket}' does not exist on {host}.",
                "Check its name and the endpoint; this suite never creates buckets.",
            )
        if code in ("NoSuchKey", "NoSuchObject", "PreconditionFailed"):
            return ObjectChangedError(f"{where} does not exist (any more).", "Check the key.")
        if code in ("InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken"):
            return StorageError(
                f"{host} rejects the credentials ({code}) at {where}.",
                "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or mount the storage secret.",
            )
        if code in ("AccessDenied", "AllAccessDisabled"):
            return ObjectUnreadableError(
                f"Access to {where} is denied.",
                "Check the credentials: the input needs read and list, the output read, list and write.",
            )
        if code in ("AuthorizationHeaderMalformed", "PermanentRedirect"):
            return StorageError(f"{where} is in another region.", "Set AWS_REGION to the bucket's region.")
        of_this_one = 400 <= _status(error) < 500 and code != "RequestTimeTooSkewed" and not _passes(error)
        kind = ObjectUnreadableError if of_this_one else StorageError  # such as InvalidObjectState
        return kind(f"{where}: {host} answered {code} ({tries}): {error.message}")


def _status(error: Exception) -> int:
    if isinstance(error, S3Error):
        return int(getattr(error.response, "status", 0))
    if isinstance(error, InvalidResponseError):  # an answer that is no XML, such as a proxy's page
        return error._code
    return error.status_code if isinstance(error, ServerError) else 0


def _passes(error: Exception) -> bool:
    """Whether trying again may help: overload and broken connections, but no refusal."""
    if isinstance(error, MinioException):
        return _status(error) in _RETRIED_STATUS or getattr(error, "code", None) in _RETRIED_CODES
    if isinstance(error, urllib3.exceptions.SSLError):
        return "EOF" in str(error)  # cut in the handshake; a bad certificate stays bad
    return isinstance(error, urllib3.exceptions.HTTPError) and not isinstance(error, ValueError)


def _root_cause(error: Exception) -> str:
    text = str(error).rsplit("): ", maxsplit=1)[-1].rsplit(">: ", maxsplit=1)[-1]
    return text.strip().rstrip(".") or type(error).__name__
