"""Connects to an S3 endpoint: credentials, connections with time limits, and the minio client."""

from __future__ import annotations

import base64
import hashlib
import http.client
import io
import os
import time
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache, partial
from typing import Any, TypeVar
from urllib.parse import urlsplit

import urllib3
from minio import Minio
from minio.credentials.credentials import Credentials
from minio.credentials.providers import (
    AWSConfigProvider,
    ChainedProvider,
    EnvAWSProvider,
    EnvMinioProvider,
    IamAwsProvider,
    Provider,
)
from minio.helpers import ObjectWriteResult
from urllib3.connection import HTTPConnection, HTTPSConnection

from clipseg_kfp.errors import ClipsegKfpError, ParameterError
from clipseg_kfp.runtime.progress import say
from clipseg_kfp.storage.checksums import Checksums, acknowledged
from clipseg_kfp.storage.error_messages import explain
from clipseg_kfp.storage.retries import BusyError, Policy, retried

_BUSY = (429, 500, 502, 503, 504)
STORE = "storage"  # whose line tells that an endpoint does not answer
SILENCE_SECONDS = 2.0  # of connecting, before people are told
SAID_AGAIN_SECONDS = 30.0
#: Who else reads them: S3_ENDPOINT is ours, the others are those of the AWS tools, the special one first.
ENDPOINTS = ("S3_ENDPOINT", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
AUTHORITIES = ("AWS_CA_BUNDLE", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")

T = TypeVar("T")


class Client(Minio):
    """minio's client, with a policy for the endpoint's faults.

    Args:
        host: host and port.
        secure: whether to speak TLS.
        policy: for all calls.

    Raises:
        ValueError: a host name that the client refuses.
    """

    def __init__(self, host: str, secure: bool, policy: Policy) -> None:
        super().__init__(
            host,
            secure=secure,
            region=os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1",
            credentials=_credentials(),
            http_client=_Pools(policy),
        )
        self.host = host
        self.policy = policy
        self.checksums = Checksums(bool(policy.checksums))

    def retried(self, call: Callable[[], T], where: str, bucket: str) -> T:
        """Makes a call, repeats it on temporary faults, and names ``where`` in the final error."""

        def again(error: Exception) -> None:
            if isinstance(error, urllib3.exceptions.HTTPError):
                tell_silence(self.host)

        return retried(
            call, self.policy, lambda error, tries: explain(error, where, bucket, self.host, tries), again
        )

    def _put_object(
        self, bucket_name: str, object_name: str, data: bytes, headers: Any = None, query_params: Any = None
    ) -> ObjectWriteResult:
        """Sends an object or a part with its MD5, so that the store refuses damaged bytes.

        Over http minio-py signs a SHA-256 of the body instead, which SeaweedFS does not compare.
        """
        md5 = hashlib.md5(data, usedforsecurity=False).digest()
        headers = {**(headers or {}), "Content-MD5": base64.b64encode(md5).decode()}
        result = super()._put_object(bucket_name, object_name, data, headers, query_params)
        self.checksums.learn(acknowledged(result.etag).strip('"'), md5.hex())
        return result

    def _upload_part(self, bucket_name: str, object_name: str, *args: Any, **options: Any) -> str:
        """Retries each part alone: one fault must not repeat an upload of a thousand parts."""

        def call() -> str:
            return super(Client, self)._upload_part(bucket_name, object_name, *args, **options)

        return self.retried(call, f"s3://{bucket_name}/{object_name}", bucket_name)

    def _abort_multipart_upload(self, bucket_name: str, object_name: str, upload_id: str) -> None:
        """Removes the parts of a failed upload if it can; the upload's own error matters more."""
        remove = super()._abort_multipart_upload
        with suppress(ClipsegKfpError):
            self.retried(
                lambda: remove(bucket_name, object_name, upload_id),
                f"s3://{bucket_name}/{object_name}",
                bucket_name,
            )


_told: dict[str, float] = {}


def tell_silence(host: str) -> None:
    """Tells people that a host does not answer and is tried again; at most every half minute per host."""
    now = time.monotonic()
    if now - _told.get(host, -SAID_AGAIN_SECONDS) >= SAID_AGAIN_SECONDS:
        _told[host] = now
        say(STORE, f"{host} does not answer yet; trying again")


def endpoint_of(endpoint: str = "") -> str:
    """The endpoint that is used: the one given, else the environment's; empty means AWS itself."""
    return endpoint or next(filter(None, map(os.environ.get, ENDPOINTS)), None) or ""


def authority_file() -> str | None:
    """The file with certificates of a private authority, which the environment names; ``None`` takes the system's.

    Raises:
        ParameterError: the variable names a file that cannot be read.
    """
    for variable in AUTHORITIES:
        if path := os.environ.get(variable):
            if not os.access(path, os.R_OK):
                message = f"{variable} names {path}, which cannot be read."
                remedy = "Name a PEM file with the authority's certificates, or unset the variable."
                raise ParameterError(message, remedy, code="authority_unreadable", where=variable)
            return path
    return None


@lru_cache(maxsize=8)
def connect(endpoint: str = "") -> Client:
    """Makes a client from the usual environment; the connection pool is shared within the process.

    Args:
        endpoint: URL such as ``http://seaweedfs.kubeflow:9000``; a bare ``host:port`` means https.
            Empty takes the first of ``ENDPOINTS`` in the environment, and without those AWS itself.

    Raises:
        ParameterError: the endpoint is not the plain URL of a host, a setting of ``Policy`` is invalid, or the
            file of a private authority cannot be read.
    """
    endpoint = endpoint_of(endpoint)
    try:
        parts = urlsplit(endpoint if "://" in endpoint else f"https://{endpoint or 's3.amazonaws.com'}")
        valid = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        raise _bad_endpoint(endpoint) from None
    more = parts.path.strip("/") or parts.query or parts.fragment
    if not valid or more or "@" in parts.netloc or " " in parts.netloc:
        raise _bad_endpoint(endpoint)
    policy = Policy.from_environment()
    try:
        return Client(parts.netloc, parts.scheme == "https", policy)
    except ValueError:  # a host name that the client refuses
        raise _bad_endpoint(endpoint) from None


def _bad_endpoint(endpoint: str) -> ParameterError:
    plain = endpoint.rsplit("@", 1)[-1].partition("?")[0]  # neither a login nor a signature is repeated
    return ParameterError(
        f"The S3 endpoint '{plain}' is not a plain URL.",
        "Write it as http://host:port or https://host, credentials apart.",
        code="endpoint_invalid",
        where=plain,
    )


def _credentials() -> Provider:
    """Environment first, then ``~/.aws``, then the identity that the cluster gives the pod."""
    chain: list[Provider] = [EnvAWSProvider(), EnvMinioProvider(), AWSConfigProvider()]
    if os.environ.get("AWS_WEB_IDENTITY_TOKEN_FILE") or os.environ.get("AWS_CONTAINER_CREDENTIALS_FULL_URI"):
        chain.append(IamAwsProvider())
    return _OneLine(ChainedProvider(chain))


class _OneLine(Provider):
    """Refuses credentials with a line break or a space, such as ``echo KEY | base64`` puts into a secret.

    A header cannot carry them, and the error of the HTTP library would quote the key.
    """

    def __init__(self, provider: Provider) -> None:
        self._provider = provider

    def retrieve(self) -> Credentials:
        """Gives the credentials; raises ``ParameterError`` without repeating them."""
        found = self._provider.retrieve()
        for name, value in (
            ("access key", found.access_key),
            ("secret key", found.secret_key),
            ("session token", found.session_token),
        ):
            if value and not (value.isascii() and value.isprintable() and " " not in value):
                raise ParameterError(
                    f"The {name} of the store has a line break, a space or another character that no key has.",
                    "Write it again without: printf %s KEY | base64 (echo adds a newline).",
                    code="credentials_line_break",
                    where=name,
                )
        return found


class _Pools(urllib3.PoolManager):
    """Connections with the policy's limits, and errors for answers that ask to wait."""

    def __init__(self, policy: Policy) -> None:
        super().__init__(
            timeout=urllib3.Timeout(connect=policy.connect_timeout, read=policy.timeout),
            maxsize=32,
            cert_reqs="CERT_REQUIRED",
            ca_certs=authority_file(),
            retries=False,  # one place retries, which also covers the body of a response
        )
        own: dict[str, Any] = {"policy": policy}
        plain = type("_PlainConnection", (PacedConnection,), own)
        tls = type("_TlsConnection", (PacedConnection, HTTPSConnection), own)
        self.pool_classes_by_scheme = {
            "http": type("_PlainPool", (urllib3.HTTPConnectionPool,), {"ConnectionCls": plain}),
            "https": type("_TlsPool", (urllib3.HTTPSConnectionPool,), {"ConnectionCls": tls}),
        }

    def urlopen(  # type: ignore[override]
        self, method: str, url: str, redirect: bool = True, **options: Any
    ) -> urllib3.BaseHTTPResponse:
        """Sends a request; minio's own errors would lose the header ``Retry-After``."""
        response = super().urlopen(method, url, redirect, **options)
        if response.status in _BUSY and (error := busy(response)):
            response.drain_conn()
            response.release_conn()
            raise error
        return response


def busy(response: urllib3.BaseHTTPResponse) -> BusyError | None:
    """The error of an answer that asks to come again later."""
    asked = response.headers.get("Retry-After")
    if not asked:
        return None
    try:
        return BusyError(response.status, urllib3.Retry().parse_retry_after(asked))
    except urllib3.exceptions.InvalidHeader:
        return BusyError(response.status, 0.0)


class PacedConnection(HTTPConnection):
    """A connection that fails when a transfer is slower than the policy's minimum rate."""

    policy: Policy

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.response_class = partial(_Response, policy=self.policy)  # type: ignore[assignment]

    def connect(self) -> None:
        """Connects; tells people soon where nothing answers, since a silent host takes the whole time limit."""
        limit = self.timeout
        if isinstance(limit, int | float) and limit > SILENCE_SECONDS:
            self.timeout = SILENCE_SECONDS
            try:
                super().connect()
            except urllib3.exceptions.ConnectTimeoutError:
                tell_silence(self.host)
                limit -= SILENCE_SECONDS
            else:
                return
            finally:
                self.timeout = limit
        super().connect()

    def request(self, method: str, url: str, body: Any = None, *args: Any, **options: Any) -> None:
        """Sends a request, with a time limit that fits its body.

        A socket's timeout covers the sending of the whole body. urllib3 would leave the short connect timeout
        there, and no large upload over a slow line would ever succeed.
        """
        if self.sock is None:
            self.connect()
        self.timeout = self.policy.timeout + len(body or b"") / self.policy.min_rate
        super().request(method, url, body, *args, **options)


class _Response(http.client.HTTPResponse):
    """A response with complete headers; Python accepts headers that end early."""

    def __init__(self, *args: Any, policy: Policy, **options: Any) -> None:
        super().__init__(*args, **options)
        self._reader = _PacedReader(self.fp.detach(), policy)
        self.fp = io.BufferedReader(self._reader)

    def begin(self) -> None:
        """Reads the headers."""
        super().begin()
        if self._reader.ended:
            raise http.client.RemoteDisconnected("The connection ended within the headers of a response")


class _PacedReader(io.RawIOBase):
    """Reads a socket until its bytes come too slowly; only time spent waiting for them counts."""

    def __init__(self, source: io.RawIOBase, policy: Policy) -> None:
        self.ended = False
        self._source = source
        self._policy = policy
        self._waited = 0.0
        self._received = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        began = time.monotonic()
        count: int | None = self._source.readinto(buffer)
        self._waited += time.monotonic() - began
        self._received += count or 0
        self.ended = count == 0
        if self._waited > self._policy.timeout + self._received / self._policy.min_rate:
            raise TimeoutError(f"{self._received:,} bytes took {self._waited:.1f} s")
        return count

    def close(self) -> None:
        self._source.close()
        super().close()
