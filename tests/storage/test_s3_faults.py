"""S3 folders against a server that fails in the ways that networks and busy stores do."""

from __future__ import annotations

import hashlib
import socket
import struct
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import pytest

from clipseg_kfp.errors import ObjectUnreadableError
from clipseg_kfp.storage import connection, open_folder
from clipseg_kfp.storage.retries import Policy
from clipseg_kfp.storage.s3 import S3Folder, connect
from tests.codes import fails


class FaultyServer(ThreadingHTTPServer):
    """Answers GETs of ``/bucket/x`` with ``BODY``, after the faults that a test has queued."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), FaultyHandler)
        self.faults: list[int | str] = []
        self.requests = 0
        self.headers = {"ETag": '"v"'}


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
        for name, value in self.server.headers.items():
            self.send_header(name, value)
        if fault != "unsized":
            self.send_header("Content-Length", str(len(sent)))
        self.end_headers()
        self.wfile.write(sent[:5] if fault == "cut" else sent)
        self.close_connection = True

    do_PUT = do_HEAD = do_GET

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
        with fails("not_an_s3_answer") as caught:
            call()
        assert caught.value.where.startswith("s3://bucket") and f" {fault} " in caught.value.message
        assert faulty.requests == 1


def test_retries_are_bounded(faulty: FaultyServer) -> None:
    faulty.faults = [503] * 50
    with fails("not_an_s3_answer", where="s3://bucket/x"):
        behind(faulty).read("x")
    assert faulty.requests == Policy().tries


def test_a_web_page_is_no_listing(faulty: FaultyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "LISTING", b"<html><br>Sign in</html>")
    with fails("not_an_s3_answer", where="s3://bucket"):
        list(behind(faulty).entries())


def test_a_body_of_unknown_length_is_limited(faulty: FaultyServer) -> None:
    folder = behind(faulty)
    faulty.faults = ["unsized", "unsized"]
    assert folder.read("x", limit=len(BODY)) == BODY
    with fails("object_too_large", where="s3://bucket/x"):
        folder.read("x", limit=9_999)


OTHER = "0123456789abcdef" * 2  # looks like an MD5, and is not this body's


MD5 = hashlib.md5(BODY).hexdigest()


def test_etags_that_are_no_md5_cost_a_few_more_reads(
    faulty: FaultyServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = behind(faulty)
    faulty.headers = {"ETag": f'"{OTHER}"'}
    assert folder.read("x") == BODY
    assert faulty.requests == 2  # the same bytes twice: the ETag is something else
    folder.download("x", tmp_path / "x")
    folder.read("x")
    folder.read("x")
    assert faulty.requests == 8
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 4 and all("s3://bucket/x" in line and OTHER in line for line in said)
    assert folder.read("x") == BODY
    assert faulty.requests == 9
    assert capsys.readouterr().out == ""


def test_one_damaged_object_ends_no_checks(faulty: FaultyServer) -> None:
    """Not even the first, when nothing is known about the store's ETags yet."""
    folder = behind(faulty)
    for tag in [OTHER] * 5 + [MD5]:
        faulty.headers = {"ETag": f'"{tag}"'}
        assert folder.read("x") == BODY
    faulty.headers = {"ETag": f'"{OTHER}"'}
    with fails("object_damaged", where="s3://bucket/x"):
        folder.read("x")


def test_what_was_written_shows_what_etags_are(
    faulty: FaultyServer, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = behind(faulty)
    faulty.headers = {"ETag": f'"{MD5}"'}
    folder.write("y", BODY)
    faulty.headers = {"ETag": f'"{OTHER}"'}
    with fails("object_damaged", where="s3://bucket/x"):
        folder.read("x")
    connect.cache_clear()
    folder = behind(faulty)
    folder.write("y", BODY)
    (line,) = capsys.readouterr().out.splitlines()
    assert OTHER in line and MD5 in line
    faulty.requests = 0
    assert folder.read("x") == BODY
    assert faulty.requests == 1


@pytest.mark.parametrize(
    "header",
    [
        {"x-amz-server-side-encryption": "aws:kms"},
        {"x-amz-server-side-encryption-customer-algorithm": "AES256"},
        {"ETag": f'"{OTHER}-3"'},
    ],
)
def test_etags_of_encrypted_bytes_and_of_parts_are_not_compared(
    faulty: FaultyServer, header: dict[str, str]
) -> None:
    faulty.headers = {"ETag": f'"{OTHER}"', **header}
    assert behind(faulty).read("x") == BODY
    assert faulty.requests == 1


def test_a_damaged_object_is_refused_where_etags_are_md5(
    faulty: FaultyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = behind(faulty)
    faulty.headers = {
        "ETag": f'"{hashlib.md5(BODY).hexdigest()}"', "x-amz-server-side-encryption": "AES256"
    }  # fmt: skip
    assert folder.read("x") == BODY
    faulty.headers = {"ETag": f'"{OTHER}"'}
    with fails("object_damaged", where="s3://bucket/x") as caught:
        folder.read("x")
    assert isinstance(caught.value, ObjectUnreadableError)
    assert OTHER in caught.value.message and "CLIPSEG_KFP_S3_CHECKSUMS=0" in caught.value.remedy
    assert faulty.requests == 3
    monkeypatch.setenv("CLIPSEG_KFP_S3_CHECKSUMS", "0")
    connect.cache_clear()
    assert behind(faulty).read("x") == BODY
    assert faulty.requests == 4


def test_another_version_is_noticed_where_the_store_ignores_conditions(faulty: FaultyServer) -> None:
    folder = behind(faulty)
    assert folder.read("x", version="v") == BODY
    with fails("object_changed", where="s3://bucket/x"):
        folder.read("x", version="w")


@pytest.mark.parametrize(
    ("name", "value"),
    [("TRIES", "0"), ("TRIES", "2.5"), ("TIMEOUT", "soon"), ("MIN_RATE", "-1"), ("DEADLINE", "inf")],
)
def test_settings_that_are_no_numbers(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"CLIPSEG_KFP_S3_{name}", value)
    connect.cache_clear()
    with fails("setting_invalid", where=f"CLIPSEG_KFP_S3_{name}"):
        open_folder("s3://bucket", "http://127.0.0.1:1")


class OddStore(BaseHTTPRequestHandler):
    """Lists 1,500 objects; the server's ``kind`` says what it gets wrong."""

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        kind = self.server.kind  # type: ignore[attr-defined]
        query = dict(parse_qsl(urlsplit(self.path).query, keep_blank_values=True))
        after = "" if kind == "no continuation" else query.get("continuation-token", "")
        keys = [key for key in (f"{i:05d}.jpg" for i in range(1500)) if key > after]
        page, more = keys[:1000], len(keys) > 1000
        rows = "".join(f"<Contents><Key>{key}</Key><ETag>1</ETag><Size>1</Size></Contents>" for key in page)
        mark = f"<NextContinuationToken>{page[-1]}</NextContinuationToken>" if more else ""
        head = f"<Name>bucket</Name><IsTruncated>{str(more).lower()}</IsTruncated>"
        body = f"<ListBucketResult>{head}{mark}{rows}</ListBucketResult>"
        if kind == "expired":
            body = "<Error><Code>ExpiredToken</Code><Message>expired</Message></Error>"
        self.send_response(400 if kind == "expired" else 200)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body.encode())

    do_HEAD = do_GET


@pytest.fixture
def odd(faulty: FaultyServer) -> FaultyServer:
    faulty.RequestHandlerClass = OddStore
    return faulty


def test_a_store_that_ignores_start_after(odd: FaultyServer) -> None:
    odd.kind = "no start-after"  # type: ignore[attr-defined]
    keys = [entry.key for entry in behind(odd).entries()]
    assert keys == [f"{i:05d}.jpg" for i in range(1500)]


def test_a_listing_that_would_never_end(odd: FaultyServer) -> None:
    odd.kind = "no continuation"  # type: ignore[attr-defined]
    with fails("listing_repeats", where="s3://bucket"):
        for _ in islice(behind(odd).entries(), 6000):
            pass


def test_an_expired_token_is_no_fault_of_one_object(odd: FaultyServer) -> None:
    odd.kind = "expired"  # type: ignore[attr-defined]
    with fails("credentials_rejected") as caught:
        behind(odd).stat("x.zip")
    assert not isinstance(caught.value, ObjectUnreadableError)


@pytest.mark.parametrize("name", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"])
def test_a_key_with_a_line_break(faulty: FaultyServer, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "key-of-mine\n")
    with fails("credentials_line_break") as caught:
        list(behind(faulty).entries())
    assert "key-of-mine" not in str(caught.value)
    assert not faulty.requests


@pytest.mark.parametrize("name", ["S3_ENDPOINT", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"])
def test_endpoints_of_the_environment(
    faulty: FaultyServer, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for other in ("S3_ENDPOINT", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(other, raising=False)
    monkeypatch.setenv(name, f"http://127.0.0.1:{faulty.server_port}")
    assert [entry.key for entry in open_folder("s3://bucket").entries()] == ["x"]


@pytest.mark.parametrize("name", ["AWS_CA_BUNDLE", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"])
def test_an_authority_that_is_not_there(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    connect.cache_clear()
    for other in connection.AUTHORITIES:
        monkeypatch.delenv(other, raising=False)
    monkeypatch.setenv(name, str(tmp_path / "none.pem"))
    with fails("authority_unreadable", where=name):
        open_folder("s3://bucket")
    connect.cache_clear()


def test_a_silent_endpoint_is_told_soon(
    monkeypatch: pytest.MonkeyPatch, faulty: FaultyServer, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CLIPSEG_KFP_S3_TRIES", "1")
    monkeypatch.setattr(connection, "SILENCE_SECONDS", 0.2)
    monkeypatch.setenv("CLIPSEG_KFP_S3_CONNECT_TIMEOUT", "0.5")
    connection._told.clear()
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        port = full.getsockname()[1]
        waiting = [socket.socket() for _ in range(4)]  # no room for more: connecting gets no answer
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(("127.0.0.1", port))
        began = time.monotonic()
        with fails("store_unreachable"):
            list(open_folder("s3://bucket", f"http://127.0.0.1:{port}").entries())
        assert time.monotonic() - began < 3
        for one in waiting:
            one.close()
    assert "127.0.0.1" in capsys.readouterr().out
