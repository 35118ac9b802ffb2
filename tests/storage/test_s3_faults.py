"""S3 folders against a server that fails in the ways that networks and busy stores do."""

from __future__ import annotations

import socket
import struct
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from clipseg_kfp.errors import StorageError
from clipseg_kfp.storage import open_folder
from clipseg_kfp.storage.retrying import Policy
from clipseg_kfp.storage.s3 import S3Folder, connect


class FaultyServer(ThreadingHTTPServer):
    """Answers GETs of ``/bucket/x`` with ``BODY``, after the faults that a test has queued."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), FaultyHandler)
        self.faults: list[int | str] = []
        self.requests = 0


class FaultyHandler(BaseHTTPRequestHandler):
    server: FaultyServer

    def do_GET(self) -> None:
        self.server.requests += 1
        fault = self.server.faults.pop(0) if self.server.faults else 200
        if fault == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
            return
        page = LISTING if "list-type" in self.path else BODY
        sent = page if isinstance(fault, str) or fault == 200 else b"<html>busy</html>"
        self.send_response(200 if isinstance(fault, str) else fault)
        self.send_header("Content-Type", "application/xml" if sent is LISTING else "text/html")
        self.send_header("ETag", '"v"')
        if fault != "unsized":
            self.send_header("Content-Length", str(len(sent)))
        self.end_headers()
        self.wfile.write(sent[:5] if fault == "cut" else sent)
        self.close_connection = True

    do_PUT = do_HEAD = do_GET  # noqa: N815

    def log_message(self, *_: object) -> None:
        pass


BODY = b"0123456789" * 1000
LISTING = b"""<?xml version="1.0"?><ListBucketResult><Name>bucket</Name><IsTruncated>false</IsTruncated>
<Contents><Key>x</Key><Size>10000</Size><ETag>"v"</ETag></Contents></ListBucketResult>"""


@pytest.fixture
def faulty(monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyServer]:
    monkeypatch.setenv("CLIPSEG_KFP_S3_BACKOFF", "0")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "any")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "any-secret")
    connect.cache_clear()
    with FaultyServer() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()
    connect.cache_clear()


def behind(server: FaultyServer) -> S3Folder:
    opened = open_folder("s3://bucket", f"http://127.0.0.1:{server.server_port}")
    assert isinstance(opened, S3Folder)
    return opened


@pytest.mark.parametrize("fault", [429, 500, 502, 503, 504, "cut", "reset"])
def test_faults_that_pass_are_retried(faulty: FaultyServer, fault: int | str, tmp_path: Path) -> None:
    folder = behind(faulty)
    faulty.faults = [fault, fault]
    assert folder.read("x") == BODY
    faulty.faults = [fault, fault]
    folder.download("x", tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == BODY
    faulty.faults = [fault, fault]
    assert [entry.key for entry in folder.entries()] == ["x"]
    assert faulty.requests == 9


@pytest.mark.parametrize("fault", [429, 503, "reset"])
def test_uploads_are_retried(faulty: FaultyServer, fault: int | str, tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(BODY)
    faulty.faults = [fault, fault]
    behind(faulty).upload("x", tmp_path / "source")
    assert faulty.requests == 3


@pytest.mark.parametrize("fault", [400, 401, 403, 404, 409, 411])
def test_refusals_are_not_retried(faulty: FaultyServer, fault: int) -> None:
    folder = behind(faulty)
    for call in (lambda: folder.read("x"), lambda: folder.write("x", b"1"), lambda: list(folder.entries())):
        faulty.faults, faulty.requests = [fault], 0
        with pytest.raises(StorageError, match=rf"status {fault} for s3://bucket.*1 attempt.*S3 service"):
            call()
        assert faulty.requests == 1


def test_retries_are_bounded(faulty: FaultyServer) -> None:
    faulty.faults = [503] * 50
    with pytest.raises(StorageError, match=r"status 503 for s3://bucket/x \(5 attempts\)"):
        behind(faulty).read("x")
    assert faulty.requests == Policy().tries


def test_a_web_page_is_no_listing(faulty: FaultyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "LISTING", b"<html><br>Sign in</html>")
    with pytest.raises(StorageError, match="answered text that is no S3 answer for s3://bucket"):
        list(behind(faulty).entries())


def test_a_body_of_unknown_length_is_limited(faulty: FaultyServer) -> None:
    folder = behind(faulty)
    faulty.faults = ["unsized", "unsized"]
    assert folder.read("x", limit=len(BODY)) == BODY
    with pytest.raises(StorageError, match="larger than the limit of 9,999 bytes"):
        folder.read("x", limit=9_999)
