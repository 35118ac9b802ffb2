"""Files of web servers, read by ``https://``: anybody's servers, so where each connection goes is checked."""

from __future__ import annotations

import hashlib
import ipaddress
import os
import socket
import ssl
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, NoReturn, TypeVar
from urllib.parse import urljoin, urlsplit

import urllib3
from urllib3.connection import HTTPSConnection
from urllib3.util.connection import create_connection

from clipseg_kfp.errors import ObjectChangedError, ObjectUnreadableError, ParameterError, StorageError
from clipseg_kfp.naming import redacted
from clipseg_kfp.storage.base import Entry, Folder, missing, replaced, too_large
from clipseg_kfp.storage.connection import PacedConnection, authority_file, busy, tell_silence
from clipseg_kfp.storage.error_messages import explain_web
from clipseg_kfp.storage.files import disk_errors
from clipseg_kfp.storage.retries import BusyError, Policy, retried

#: Names the servers that may have an address of a private network: hosts, or host:port, with commas between.
PRIVATE_HOSTS = "CLIPSEG_KFP_HTTPS_PRIVATE_HOSTS"
#: Sets the most megabytes of a file where its reader has no smaller limit.
MAX_MEGABYTES = "CLIPSEG_KFP_HTTPS_MAX_MEGABYTES"
DEFAULT_MAX_MEGABYTES = 10_000
MAX_REDIRECTS = 5

_FOUND = (200, 203)
_MOVED = (301, 302, 303, 307, 308)
_GONE = (404, 410)
_DENIED = (401, 403, 407, 451)
_BUSY = (408, 425, 429)
# Addresses of IPv6 that lead to one of IPv4: NAT64, also with a network's own prefix. Python knows the other kinds.
_NAT64 = (ipaddress.ip_network("64:ff9b::/96"), ipaddress.ip_network("64:ff9b:1::/48"))
_UNICAST = ipaddress.ip_network("2000::/3")  # all of IPv6 that is given out for the internet

T = TypeVar("T")


class WebFolder(Folder):
    """A web server; keys are paths with their queries. It can be read, and neither listed nor written.

    A file's version is its ETag, or else its date and size, or else the sha256 of its bytes.

    Args:
        host: host, with the port where it is not 443.
    """

    def __init__(self, host: str) -> None:
        self.host = host
        self.uri = f"https://{host}"
        self.policy = Policy.from_environment()
        self._servers = _servers(self.policy, authority_file(), os.environ.get(PRIVATE_HOSTS, ""))
        self._limit = _max_bytes()

    def stat(self, key: str) -> Entry | None:
        """Describes a file: by its headers, or where these do not tell size and version, by reading it once."""

        def ask() -> Entry | None:
            # Many servers refuse HEAD, and a signed URL is good for GET alone: only a good answer counts.
            with self._opened(key, "HEAD") as response:
                size = response.headers.get("Content-Length", "")
                version = _version(response.headers)
                if response.status in _FOUND and version and size.isdecimal():
                    return Entry(key, int(size), version)
            return None

        def read() -> Entry:
            digest, size = hashlib.sha256(), 0
            with self._opened(key) as response:
                self._check(response, key)
                version, told = _version(response.headers), response.headers.get("Content-Length", "")
                if version and told.isdecimal():
                    return Entry(key, int(told), version)
                for block in self._blocks(response, key, self._limit):
                    digest.update(block)
                    size += len(block)
            return Entry(key, size, version or digest.hexdigest())

        try:
            return self._attempts(ask, key) or self._attempts(read, key)
        except ObjectChangedError:
            return None

    def read(self, key: str, version: str | None = None, limit: int | None = None) -> bytes:
        def call() -> bytes:
            with self._opened(key) as response:
                self._check(response, key)
                now = _version(response.headers)
                if version and now and now != version:
                    raise replaced(self.locate(key))
                data = b"".join(self._blocks(response, key, self._limit if limit is None else limit))
            if version and not now and hashlib.sha256(data).hexdigest() != version:
                raise replaced(self.locate(key))
            return data

        return self._attempts(call, key)

    def download(self, key: str, path: Path) -> None:
        def call() -> None:
            with self._opened(key) as response:
                self._check(response, key)
                with path.open("wb") as target:
                    for block in self._blocks(response, key, self._limit):
                        target.write(block)

        with disk_errors(path, f"while {self.locate(key)} was copied to it"):
            self._attempts(call, key)

    @contextmanager
    def _opened(self, key: str, method: str = "GET") -> Iterator[urllib3.BaseHTTPResponse]:
        """The answer of the server that the redirects, each of them checked, lead to."""
        url = self.locate(key)
        for _ in range(MAX_REDIRECTS + 1):
            response = self._request(method, url, key)
            try:
                if response.status not in _MOVED:
                    yield response
                    return
                url = self._redirected(url, response.headers.get("Location", ""), key)
            finally:
                response.close()  # keeps the connection where the body was read to its end
                response.release_conn()
        raise self._refusal(
            "https_redirects",
            key,
            f"is redirected more than {MAX_REDIRECTS} times",
            "Give the URL that it ends at.",
        )

    def _request(self, method: str, url: str, key: str) -> urllib3.BaseHTTPResponse:
        headers = {"Accept-Encoding": "identity", "User-Agent": "clipseg-kfp"}
        try:
            return self._servers.request(method, url, headers=headers, preload_content=False, redirect=False)
        except ObjectUnreadableError as error:  # of the connection, which knows no more than the host
            raise error.within(self.locate(key), self.locate(key)) from error

    def _redirected(self, url: str, location: str, key: str) -> str:
        target = urljoin(url, location)
        try:
            host, path = split_url(target)
        except ParameterError as error:
            raise self._refusal(
                "https_redirect_refused",
                key,
                f"is redirected to '{target}', which is not followed: {error.message}",
                "Give an https:// URL that leads to the file itself.",
            ) from None
        return f"https://{host}/{path}"

    def _check(self, response: urllib3.BaseHTTPResponse, key: str) -> None:
        """Raises what a status other than success means."""
        code = response.status
        if code in _FOUND:
            return
        if code in _GONE:
            raise missing(self.locate(key))
        if code in _BUSY or code >= 500:
            raise busy(response) or BusyError(code, 0.0)
        if code in _DENIED:
            raise self._refusal(
                "access_denied",
                key,
                f"is not for everyone: {self.host} answers with status {code}",
                "Give a URL that needs no login, such as a signed one that has not expired.",
            )
        raise self._refusal(
            "request_refused", key, f"was answered with status {code}", "Open the URL in a browser."
        )

    def _blocks(self, response: urllib3.BaseHTTPResponse, key: str, limit: int) -> Iterator[bytes]:
        """The bytes as sent; more than ``limit`` of them are an error as soon as they are seen or announced."""
        told = response.headers.get("Content-Length", "")
        if told.isdecimal() and int(told) > limit:
            raise too_large(self.locate(key), limit)
        size = 0
        for block in response.stream(1 << 18, decode_content=False):
            size += len(block)
            if size > limit:
                raise too_large(self.locate(key), limit)
            yield block

    def _refusal(self, code: str, key: str, what: str, remedy: str) -> ObjectUnreadableError:
        where = self.locate(key)
        return ObjectUnreadableError(f"{where} {what.rstrip('.')}.", remedy, code=code, where=where)

    def _attempts(self, call: Callable[[], T], key: str) -> T:
        def again(error: Exception) -> None:
            if isinstance(error, urllib3.exceptions.HTTPError):
                tell_silence(self.host)

        return retried(
            call,
            self.policy,
            lambda error, tries: explain_web(error, self.locate(key), self.host, tries),
            again,
        )

    def locate(self, key: str) -> str:
        return f"{self.uri}/{key}"

    def entries(self, prefix: str = "") -> Iterator[Entry]:
        raise not_listed(self.uri)

    def folders(self) -> list[str]:
        raise not_listed(self.uri)

    def child(self, key: str) -> Folder:
        raise not_listed(self.locate(key))

    def write(self, key: str, data: bytes, content_type: str = "") -> None:
        self._read_only(key)

    def upload(self, key: str, path: Path, content_type: str = "") -> None:
        self._read_only(key)

    def create(self, key: str, data: bytes, content_type: str = "") -> bool:
        self._read_only(key)

    def delete(self, key: str) -> None:
        self._read_only(key)

    def _read_only(self, key: str) -> NoReturn:
        where = self.locate(key)
        raise StorageError(
            f"{where}: what is read by https:// cannot be written.",
            "Write to s3://bucket/prefix or a folder.",
            code="https_read_only",
            where=where,
        )


def not_listed(uri: str) -> ParameterError:
    """The error for a URL where a folder or prefix is needed."""
    return ParameterError(
        f"{uri} is taken for a folder, and web servers do not list theirs.",
        "Give one file by https:// (an image, an archive, or a manifest with the URLs of the images), or "
        "s3://bucket/prefix.",
        code="https_not_listed",
        where=redacted(uri),
    )


def split_url(url: str) -> tuple[str, str]:
    """Splits a URL into the host, with its port if it has one, and the path with the query.

    Raises:
        ParameterError: not https, no host, a login, or characters that no URL has.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        host, port, parts = "", None, urlsplit("")
    if parts.scheme == "http":
        raise ParameterError(
            f"{url} would be read without encryption: anybody on the way could replace it.",
            "Write https:// where the server has it, or copy the file to a bucket or folder.",
            code="http_refused",
            where=url,
        )
    if "@" in parts.netloc:
        raise ParameterError(
            "An https:// URL has a login before its host.",  # not repeated
            "Give a URL that needs no login, such as a signed one.",
            code="uri_has_login",
        )
    if (
        parts.scheme != "https"
        or not host
        or port == 0
        or any(c.isspace() or ord(c) < 32 for c in parts.netloc)
    ):
        raise ParameterError(
            f"'{url}' is not a URL that can be read.",
            "Write it as https://host/path.",
            code="url_invalid",
            where=url,
        )
    host = f"[{host}]" if ":" in host else host
    return (
        host if port in (None, 443) else f"{host}:{port}",
        parts.path.removeprefix("/") + (f"?{parts.query}" if parts.query else ""),
    )


def _version(headers: Mapping[str, str]) -> str:
    """What tells one content from another, as far as the headers do."""
    if etag := headers.get("ETag", "").strip():
        return etag.replace('"', "")
    modified, size = headers.get("Last-Modified", ""), headers.get("Content-Length", "")
    return f"{modified}, {size} bytes" if modified and size else ""


def _max_bytes() -> int:
    text = os.environ.get(MAX_MEGABYTES) or str(DEFAULT_MAX_MEGABYTES)
    if not text.isdecimal() or int(text) == 0:
        message, remedy = f"{MAX_MEGABYTES} is '{text}'.", "Give a whole number above 0, or unset it."
        raise ParameterError(message, remedy, code="setting_invalid", where=MAX_MEGABYTES)
    return int(text) * 1_000_000


class _Connection(PacedConnection, HTTPSConnection):
    """A TLS connection to an address that was checked: the name is resolved once, for both."""

    private: frozenset[str] = frozenset()

    def _new_conn(self) -> socket.socket:
        host, port = self._dns_host.rstrip("."), self.port or 443
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            reason = error if isinstance(error, socket.gaierror) else socket.gaierror(str(error))
            raise urllib3.exceptions.NameResolutionError(self.host, self, reason) from error
        addresses = list(dict.fromkeys(str(place[4][0]) for place in found))
        name = host.lower()
        if not self.private & {name, f"{name}:{port}", f"[{name}]:{port}"}:
            for address in addresses:
                if not is_public(address):
                    raise _not_public(host, address)
        return self._connected(addresses, port)

    def _connected(self, addresses: list[str], port: int) -> socket.socket:
        last: OSError = OSError("it has no address")
        for address in addresses:
            try:
                sock = create_connection(
                    (address, port), self.timeout, self.source_address, self.socket_options
                )
            except OSError as error:
                last = error
                continue
            sys.audit("http.client.connect", self, self.host, self.port)
            return sock
        if isinstance(last, TimeoutError):
            raise urllib3.exceptions.ConnectTimeoutError(self, f"no answer in {self.timeout} s") from last
        raise urllib3.exceptions.NewConnectionError(self, str(last)) from last


def is_public(address: str) -> bool:
    """Tells whether an address belongs to the public internet, and so does what it may lead to."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:  # such as fe80::1%eth0 of systems that Python does not know
        return False
    if isinstance(ip, ipaddress.IPv6Address):
        if any(ip in network for network in _NAT64):
            return is_public(str(ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)))
        if inner := ip.ipv4_mapped or ip.sixtofour:
            return is_public(str(inner))
        if ip not in _UNICAST:  # Python takes site-local addresses for global ones
            return False
    return ip.is_global and not (ip.is_multicast or ip.is_reserved)


def _not_public(host: str, address: str) -> ObjectUnreadableError:
    return ObjectUnreadableError(
        f"{host} has the address {address}, which is not one of the public internet.",
        f"Copy the file to a bucket. A server of your own is read where {PRIVATE_HOSTS} names it.",
        code="address_not_public",
    )


@lru_cache(maxsize=8)
def _servers(policy: Policy, authority: str | None, private: str) -> urllib3.PoolManager:
    """Connections to web servers, kept for later requests; the environment's proxies are not used.

    Args:
        policy: limits of time.
        authority: file with certificates that count beside the system's.
        private: value of ``PRIVATE_HOSTS``.
    """
    context = ssl.create_default_context()
    if authority:
        try:
            context.load_verify_locations(authority)
        except (OSError, ssl.SSLError) as error:
            message = f"{authority} has no certificates that can be read."
            remedy = "Name a PEM file with the authority's certificates, or unset the variable."
            raise ParameterError(message, remedy, code="authority_unreadable", where=authority) from error
    names = frozenset(name.strip().lower() for name in private.split(",") if name.strip())
    connection = type("_WebConnection", (_Connection,), {"policy": policy, "private": names})
    pools = urllib3.PoolManager(
        num_pools=32,
        maxsize=32,
        timeout=urllib3.Timeout(connect=policy.connect_timeout, read=policy.timeout),
        retries=False,  # one place retries, which also covers the body
        ssl_context=context,
    )
    own: Any = type("_WebPool", (urllib3.HTTPSConnectionPool,), {"ConnectionCls": connection})
    pools.pool_classes_by_scheme = {"https": own}
    return pools
