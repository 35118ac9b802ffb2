"""A proxy between client and store that writes down every call, signatures untouched."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, unquote, urlsplit

#: What AWS and MinIO say of a missing object to those who may list some prefixes only.
DENIED = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"


@dataclass(frozen=True)
class Call:
    """One request as the store saw it."""

    method: str
    bucket: str
    key: str
    query: dict[str, str]
    status: int
    conditional: bool = False  # a PUT only where there is no such object

    @property
    def action(self) -> str:
        """The right that S3 asks for, as its documentation of each operation names it."""
        if not self.bucket:
            return "s3:ListAllMyBuckets"
        if not self.key:
            if self.method == "GET" and "location" in self.query:
                return "s3:GetBucketLocation"
            listing = self.method in ("GET", "HEAD")
            return "s3:ListBucket" if listing else {"PUT": "s3:CreateBucket"}.get(self.method, "s3:Other")
        if self.method == "DELETE":
            return "s3:AbortMultipartUpload" if "uploadId" in self.query else "s3:DeleteObject"
        return {"GET": "s3:GetObject", "HEAD": "s3:GetObject"}.get(self.method, "s3:PutObject")


class Recorder(ThreadingHTTPServer):
    """Passes requests on to a store and keeps them."""

    daemon_threads = True

    def __init__(self, store: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.store = urlsplit(store).netloc
        self.calls: list[Call] = []
        self.hide_missing = False
        self.refuse_deletion = False  # as AWS does: s3:PutObject is no s3:DeleteObject
        self.fail_part = False  # the next second part of an upload, once

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: Recorder
    protocol_version = "HTTP/1.1"

    def _pass_on(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = urlsplit(self.path)
        bucket, _, key = unquote(parts.path).lstrip("/").partition("/")
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        if self.server.refuse_deletion and self.command == "DELETE":
            self.server.calls.append(Call("DELETE", bucket, key, query, 403))
            self.send_response(403)
            self.send_header("Content-Type", "application/xml")
            self.send_header("Content-Length", str(len(DENIED)))
            self.end_headers()
            self.wfile.write(DENIED)
            return
        upstream = http.client.HTTPConnection(self.server.store, timeout=60)
        upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():  # with the client's own Host, which the signature covers
            upstream.putheader(name, value)
        upstream.endheaders(body)
        answer = upstream.getresponse()
        data, status, headers = answer.read(), answer.status, answer.getheaders()
        upstream.close()
        if self.server.fail_part and query.get("partNumber") == "2":
            self.server.fail_part = False
            data, status, headers = b"<html>busy</html>", 503, [("Content-Type", "text/html")]
        if self.server.hide_missing and status == 404 and key:
            data, status, headers = DENIED, 403, [("Content-Type", "application/xml")]
        conditional = "If-None-Match" in self.headers
        self.server.calls.append(Call(self.command, bucket, key, query, status, conditional))
        self.send_response(status)
        for name, value in headers:
            if name.lower() not in ("transfer-encoding", "connection", "content-length"):
                self.send_header(name, value)
        length = answer.getheader("Content-Length") if self.command == "HEAD" and status < 300 else None
        self.send_header("Content-Length", length or str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _pass_on

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def recording(store: str) -> Iterator[Recorder]:
    """A recorder before a store, while the context is open."""
    with Recorder(store) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield server
        finally:
            server.shutdown()
