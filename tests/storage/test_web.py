"""Sources by https:// against a real TLS server: what is read, what is refused, and where connections go."""

from __future__ import annotations

import io
import json
import shutil
import socket
import ssl
import subprocess
import threading
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from clipseg_kfp.dataset.listing import Source, check_source, list_sources
from clipseg_kfp.errors import ObjectUnreadableError
from clipseg_kfp.prompts import read_prompt_set
from clipseg_kfp.prompts.files import Files
from clipseg_kfp.storage import open_folder, open_object, web
from tests.codes import fails


@dataclass
class Page:
    """An answer; ``pace`` is the seconds between its bytes."""

    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    sized: bool = True
    pace: float = 0.0
    head: int = 200


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, certificate: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.pages: dict[str, Page | list[Page]] = {}
        self.asked: list[str] = []
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        self.socket = context.wrap_socket(self.socket, server_side=True)

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        return f"https://{host}:{self.server_port}{path}"

    def handle_error(self, *_: object) -> None:
        """Clients that close early are no news."""


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.asked.append(f"{self.command} {self.path}")
        page = self.server.pages.get(self.path.partition("?")[0], Page(status=404))
        if isinstance(page, list):
            page = page.pop(0) if len(page) > 1 else page[0]
        head = self.command == "HEAD"
        self.send_response(page.head if head and page.status == 200 else page.status)
        for name, value in page.headers.items():
            self.send_header(name, value)
        if page.sized and "Content-Length" not in page.headers:
            self.send_header("Content-Length", str(len(page.body)))
        self.end_headers()
        if not head:
            for i in range(0, len(page.body), 1 if page.pace else 1 << 20):
                self.wfile.write(page.body[i : i + 1] if page.pace else page.body[i : i + (1 << 20)])
                time.sleep(page.pace)
        self.close_connection = True

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not shutil.which("openssl"):
        pytest.skip("needs openssl")
    folder = tmp_path_factory.mktemp("authority")
    both, public = folder / "both.pem", folder / "public.pem"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "1",
        "-subj",
        "/CN=localhost",
        "-addext",
    ]
    names = "subjectAltName=IP:127.0.0.1,DNS:localhost,DNS:photos.example"
    subprocess.run([*command, names, "-keyout", both, "-out", public], check=True, capture_output=True)
    both.write_bytes(both.read_bytes() + public.read_bytes())
    return both


@pytest.fixture
def server(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate.with_name("public.pem")))
    monkeypatch.setenv(web.PRIVATE_HOSTS, "elsewhere.example, 127.0.0.1")
    monkeypatch.setenv("CLIPSEG_KFP_S3_BACKOFF", "0.01")
    with Server(certificate) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def picture(format_: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (4, 3), "red").save(file, format_)
    return file.getvalue()


def listed(uri: str, staging: Path) -> list[Source]:
    return list(list_sources(uri, open_folder(str(staging))))


def read(source: Source) -> bytes:
    folder, key = open_object(source.uri)
    return folder.read(key, source.version, 1 << 20)


def test_a_single_image(server: Server, tmp_path: Path) -> None:
    server.pages["/in/a%20b.png"] = Page(picture(), headers={"ETag": '"one"'})
    check_source(server.url("/in/a%20b.png"))
    uri = server.url("/in/a%20b.png?part=1&X-Amz-Signature=hidden")
    [source] = listed(uri, tmp_path)
    assert (source.key, source.version, source.size) == ("a b.png", "one", len(picture()))
    assert source.uri == uri and "hidden" not in source.source
    assert read(source) == picture()


def test_an_archive_is_unpacked_once(server: Server, tmp_path: Path) -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("x/a.png", picture())
        archive.writestr("b.png", picture())
    server.pages["/set.zip"] = Page(file.getvalue(), headers={"ETag": '"z"'})
    for _ in range(2):
        assert sorted(source.key for source in listed(server.url("/set.zip"), tmp_path)) == [
            "b.png",
            "x/a.png",
        ]
    assert server.asked.count("GET /set.zip") == 1


def test_a_manifest_of_the_web(server: Server, tmp_path: Path) -> None:
    server.pages["/in/m.csv"] = Page(
        b"uri,mask_uri,prompt\nx/a.png,/m.png,cat\n" + server.url("/b.png").encode()
    )
    server.pages |= {name: Page(picture(), headers={"ETag": name}) for name in ("/in/x/a.png", "/b.png")}
    a, b = listed(server.url("/in/m.csv?sig=a/b"), tmp_path)
    assert (a.uri, b.uri) == (server.url("/in/x/a.png"), server.url("/b.png"))
    assert a.ground_truth[0].uri == server.url("/m.png")
    assert read(a) == picture()


def test_rows_that_cannot_be_read_do_not_end_the_listing(server: Server, tmp_path: Path) -> None:
    server.pages["/a.png"] = Page(picture(), headers={"ETag": "a"})
    server.pages["/login.png"] = Page(status=403)
    rows = ["/a.png", "/gone.png", "/login.png"]
    manifest = tmp_path / "m.csv"
    urls = [server.url(row) for row in rows] + [server.url("/a.png", "localhost")]
    manifest.write_text("\n".join(["uri", *urls]), "utf-8")
    good, gone, login, private = listed(str(manifest), tmp_path / "staging")
    assert read(good) == picture()
    assert gone.version == ""
    for source, code in ((login, "access_denied"), (private, "address_not_public")):
        with fails(code) as caught:
            read(source)
        assert isinstance(caught.value, ObjectUnreadableError)


@pytest.mark.parametrize("value", ["/etc/passwd.png", "file:///etc/a.png", "~/a.png"])
def test_files_of_this_machine_are_not_for_the_web_to_name(
    server: Server, tmp_path: Path, value: str
) -> None:
    server.pages["/m.csv"] = Page(f"uri\n{value}\n".encode())
    if value.startswith("file:"):
        with fails("web_names_local_file"):
            listed(server.url("/m.csv"), tmp_path)
        with fails("web_names_local_file"):
            Files(server.url("/p.yaml")).read(value)
    else:
        [source] = listed(server.url("/m.csv"), tmp_path)
        assert source.uri == server.url(f"/{value.removeprefix('/')}")


def test_prompts(server: Server) -> None:
    server.pages["/p.txt"] = Page(b"a cat\na dog\n")
    server.pages["/p.json"] = Page(json.dumps(["a cat"]).encode())
    server.pages["/sets/support.png"] = Page(picture())
    assert len(read_prompt_set([], server.url("/p.txt?version=2")).prompts) == 2
    assert len(read_prompt_set([], server.url("/p.json")).prompts) == 1
    assert Files(server.url("/sets/p.yaml?sig=a/b")).read("support.png") == picture()


@pytest.mark.parametrize(
    ("page", "reads"),
    [
        (Page(b"abc", headers={"Last-Modified": "Tue, 01 Dec 2020 00:00:00 GMT"}), 0),
        (Page(b"abc"), 1),
        (Page(b"abc", headers={"ETag": '"x"'}, sized=False), 1),
        (Page(b"abc", headers={"ETag": '"x"'}, head=405), 1),
        (Page(b"abc", headers={"ETag": '"x"'}, head=403), 1),
    ],
)
def test_size_and_version_whatever_the_headers_tell(server: Server, page: Page, reads: int) -> None:
    server.pages["/x"] = page
    folder, key = open_object(server.url("/x"))
    entry = folder.stat(key)
    assert entry is not None and entry.size == 3 and entry.version
    assert server.asked.count("GET /x") == reads
    assert folder.read(key, entry.version) == b"abc"


@pytest.mark.parametrize("headers", [({"ETag": "1"}, {"ETag": "2"}), ({}, {})])
def test_changed_content_is_noticed(server: Server, headers: tuple[dict[str, str], dict[str, str]]) -> None:
    server.pages["/x"] = Page(b"abc", headers=headers[0])
    folder, key = open_object(server.url("/x"))
    entry = folder.stat(key)
    assert entry is not None
    server.pages["/x"] = Page(b"abd", headers=headers[1])
    with fails("object_changed"):
        folder.read(key, entry.version)
    del server.pages["/x"]
    with fails("object_missing"):
        folder.read(key, entry.version)
    assert folder.stat(key) is None


@pytest.mark.parametrize("sized", [True, False])
def test_too_large(server: Server, sized: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    server.pages["/x.zip"] = Page(b"0" * 1_000_001, sized=sized)
    folder, key = open_object(server.url("/x.zip"))
    with fails("object_too_large", where=server.url("/x.zip")):
        folder.read(key, limit=1000)
    monkeypatch.setenv(web.MAX_MEGABYTES, "1")
    folder, key = open_object(server.url("/x.zip"))
    for call in (lambda: folder.download(key, tmp_path / "x"), lambda: folder.read(key)):
        with fails("object_too_large"):
            call()
    monkeypatch.setenv(web.MAX_MEGABYTES, "many")
    with fails("setting_invalid", where=web.MAX_MEGABYTES):
        open_object(server.url("/x.zip"))


def test_too_slow(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"TRIES": "1", "TIMEOUT": "0.5", "MIN_RATE": "1000"}.items():
        monkeypatch.setenv(f"CLIPSEG_KFP_S3_{name}", value)
    server.pages["/x"] = Page(b"0" * 500, pace=0.02)  # each byte is in time
    folder, key = open_object(server.url("/x"))
    began = time.monotonic()
    with fails("connection_failed", where=server.url("/x")):
        folder.read(key)
    assert time.monotonic() - began < 5


def test_temporary_faults_are_tried_again(server: Server) -> None:
    cut = Page(b"abc", headers={"Content-Length": "5"})
    server.pages["/x"] = [
        Page(status=503),
        Page(status=429, headers={"Retry-After": "0"}),
        cut,
        Page(b"abcde"),
    ]
    folder, key = open_object(server.url("/x"))
    assert folder.read(key) == b"abcde"
    server.pages["/y"] = Page(status=500)
    with fails("store_busy"):
        folder.read("y")


def test_redirects_are_followed_a_few_times(server: Server) -> None:
    server.pages["/0"] = Page(b"abc", headers={"ETag": "e"})
    for i in range(1, 8):
        server.pages[f"/{i}"] = Page(status=302, headers={"Location": f"/{i - 1}"})
    folder, key = open_object(server.url(f"/{web.MAX_REDIRECTS}"))
    assert folder.read(key) == b"abc"
    folder, key = open_object(server.url(f"/{web.MAX_REDIRECTS + 1}"))
    with fails("https_redirects"):
        folder.read(key)


@pytest.mark.parametrize(
    ("location", "code"),
    [
        ("http://127.0.0.1/x", "https_redirect_refused"),
        ("file:///etc/passwd", "https_redirect_refused"),
        ("https://ann:secret@127.0.0.1/x", "https_redirect_refused"),
        ("https://localhost:{port}/secret", "address_not_public"),
        ("https://169.254.169.254/latest/meta-data", "address_not_public"),
        ("https://[::1]:{port}/secret", "address_not_public"),
        ("https://[::ffff:10.0.0.1]/secret", "address_not_public"),
        ("https://2130706433:{port}/secret", "address_not_public"),
        ("https://0:{port}/secret", "address_not_public"),
    ],
)
def test_redirects_to_other_places_are_refused(server: Server, location: str, code: str) -> None:
    server.pages["/x"] = Page(status=302, headers={"Location": location.format(port=server.server_port)})
    server.pages["/secret"] = Page(b"secret")
    folder, key = open_object(server.url("/x?token=hidden"))
    with fails(code, where=server.url("/x?token=***")) as caught:
        folder.read(key)
    assert "hidden" not in str(caught.value) and "ann:secret" not in str(caught.value)
    assert not any("secret" in asked for asked in server.asked)


def test_the_address_that_was_checked_is_the_one_that_is_connected_to(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that changes its address between the check and the connection (DNS rebinding)."""
    asked: list[str] = []
    connected: list[Any] = []
    real = socket.getaddrinfo

    def resolve(host: Any, port: Any, *args: Any, **options: Any) -> Any:
        if host != "photos.example":
            return real(host, port, *args, **options)
        asked.append(host)
        address = "8.8.8.8" if len(asked) == 1 else "127.0.0.1"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    def connect(address: Any, *_: Any) -> socket.socket:
        connected.append(address)
        return socket.create_connection(("127.0.0.1", server.server_port))

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.setattr(web, "create_connection", connect)
    server.pages["/x"] = Page(b"abc")
    folder, key = open_object(server.url("/x", "photos.example"))
    assert folder.read(key) == b"abc"
    assert connected == [("8.8.8.8", server.server_port)] and len(asked) == 1
    with fails("address_not_public"):
        folder.read(key)


def test_one_private_address_of_several_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, 443)) for one in ("8.8.8.8", "10.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    folder, key = open_object("https://photos.example/x")
    with fails("address_not_public"):
        folder.stat(key)


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("8.8.8.8", True),
        ("2606:4700::1111", True),
        ("64:ff9b::808:808", True),
        *(
            (one, False)
            for one in (
                "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "100.64.0.1", "169.254.169.254", "0.0.0.0",
                "224.0.0.1", "240.0.0.1", "255.255.255.255", "::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1",
                "ff02::1", "::10.0.0.1", "::ffff:127.0.0.1", "2002:7f00:1::", "64:ff9b::a00:1", "2001:db8::1",
                "fec0::1", "nothing",
            )
        ),
    ],
)  # fmt: skip
def test_public_addresses(address: str, public: bool) -> None:
    assert web.is_public(address) is public


def test_certificates_are_checked(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_CA_BUNDLE")
    folder, key = open_object(server.url("/x"))
    with fails("certificate_untrusted"):
        folder.read(key)


@pytest.mark.parametrize(
    ("uri", "code"),
    [
        ("http://photos.example/a.png", "http_refused"),
        ("HTTP://photos.example/a.png", "http_refused"),
        ("https://ann:pw@photos.example/a.png", "uri_has_login"),
        ("https:///a.png", "url_invalid"),
        ("https://photos.example:99999/a.png", "url_invalid"),
        ("https://[photos/a.png", "url_invalid"),
        ("https://photos.example/dir/", "https_not_listed"),
        ("https://photos.example/dir", "https_not_listed"),
        ("https://photos.example", "https_not_listed"),
    ],
)
def test_urls_that_are_no_sources(uri: str, code: str, tmp_path: Path) -> None:
    with fails(code) as caught:
        listed(uri, tmp_path)
    assert "ann:pw" not in str(caught.value)
    with fails(code):
        check_source(uri)


def test_nothing_is_written() -> None:
    with fails("https_not_listed"):
        open_folder("https://photos.example/results")
    folder, key = open_object("https://photos.example/a.png")
    with fails("https_read_only"):
        folder.write(key, b"")
