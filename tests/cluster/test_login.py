"""Ways in: tokens, files that are renewed, cookies, Dex's form; and what is said where the way is closed."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from cluster_backend import GIVEN, PACKAGE, Backend
from codes import fails

from clipseg_kfp import Client
from clipseg_kfp.client import Login, LoginError

SECRET = "secret-4711"


def test_importing_the_library_does_not_import_kfp() -> None:
    code = "import sys, clipseg_kfp; clipseg_kfp.Client; sys.exit('kfp' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_token_file_is_read_again_when_it_is_renewed(users: Backend, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("alice-token\n", "utf-8")
    client = Client(users.url, "team-a", login=Login(token_file=str(file)))
    client.upload(PACKAGE)
    users.tokens = {"renewed": ["team-a"]}
    with fails("login_refused"):
        client.runs.list()
    file.write_text("renewed", "utf-8")
    assert client.runs.list() == []


def test_cookies_and_token_from_the_environment(
    users: Backend, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    users.cookies = {"session=abc"}
    monkeypatch.setenv("KFP_ENDPOINT", users.url)
    monkeypatch.setenv("KFP_NAMESPACE", "team-b")
    monkeypatch.setenv("KFP_COOKIES", "session=abc")
    assert Client().runs.list() == []
    monkeypatch.delenv("KFP_COOKIES")
    (tmp_path / "cookies").write_text("session=abc\n", "utf-8")
    monkeypatch.setenv("KFP_COOKIES_FILE", str(tmp_path / "cookies"))
    assert Client().runs.list() == []
    monkeypatch.delenv("KFP_COOKIES_FILE")
    monkeypatch.setenv("KFP_TOKEN", "bob-token")
    assert Client().runs.list() == []
    assert Client(namespace="team-b").login.way == "token"


def test_users_are_kept_apart(alice: Client, users: Backend) -> None:
    alice.runs.start(PACKAGE, GIVEN)
    bob = Client(users.url, "team-b", login=Login(token="bob-token"))
    assert len(alice.runs.list()) == 1 and bob.runs.list() == []
    with fails("forbidden", where="team-a") as error:
        Client(users.url, "team-a", login=Login(token="bob-token")).runs.list()
    assert "kubeflow-edit" in error.value.remedy
    with fails("namespace_missing"):
        Client(users.url, login=Login(token="bob-token")).runs.list()


def test_a_namespace_is_not_sent_where_there_are_no_users(backend: Backend) -> None:
    client = Client(backend.url, "some-namespace")
    client.runs.start(PACKAGE, GIVEN)
    assert len(client.runs.list()) == 1


@pytest.mark.parametrize("way", ["token", "cookies"])
def test_no_message_holds_a_secret(backend: Backend, way: str, tmp_path: Path) -> None:
    backend.tokens = {"another": []}
    login = Login(token=SECRET) if way == "token" else Login(cookies=f"session={SECRET}")
    client = Client(backend.url, login=login)
    with pytest.raises(LoginError) as error:
        client.upload(PACKAGE)
    for text in (str(error.value), repr(client), repr(client.login), repr(login), repr(client.api.__dict__)):
        assert SECRET not in text


def test_a_login_page_is_recognized(backend: Backend) -> None:
    backend.page = "<html><form action='/dex/auth/local/login'></form></html>"
    with fails("web_page", where=backend.url):
        Client(backend.url).runs.list()


def test_what_is_no_backend_is_recognized(backend: Backend) -> None:
    backend.faults = [404] * 9
    with fails("not_found"):
        Client(backend.url).runs.list()
    nobody = Client("http://127.0.0.1:9")
    with fails("unreachable", where="http://127.0.0.1:9"):
        nobody.api.read(nobody.api.health.healthz_service_get_healthz, patience=0)


@pytest.mark.parametrize(
    ("host", "code"),
    [
        ("", "endpoint_missing"),
        ("ftp://kubeflow", "endpoint_invalid"),
        ("https://user:secret-4711@kubeflow.example", "endpoint_invalid"),
        ("http://host:port", "endpoint_invalid"),
    ],
)
def test_wrong_endpoints_are_explained(host: str, code: str) -> None:
    with fails(code, where="host") as error:
        Client(host)
    assert SECRET not in str(error.value)


def test_missing_and_empty_secrets_are_explained(tmp_path: Path) -> None:
    with fails("secret_unreadable", where=str(tmp_path / "none")):
        Client("http://localhost", login=Login(token_file=str(tmp_path / "none")))
    (tmp_path / "empty").touch()
    with fails("secret_empty", where=str(tmp_path / "empty")):
        Client("http://localhost", login=Login(token_file=str(tmp_path / "empty")))
    with fails("password_missing", where="dex_password"):
        Client("http://localhost", login=Login(dex_username="alice@example.com"))


def test_a_host_without_a_scheme_means_https() -> None:
    assert Client("kubeflow.example/pipeline/").login.host == "https://kubeflow.example/pipeline"


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    if not shutil.which("openssl"):
        pytest.skip("needs openssl")
    path = tmp_path / "certificate.pem"
    subprocess.run(
        [
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
            "subjectAltName=IP:127.0.0.1",
            "-keyout",
            str(path),
            "-out",
            f"{path}.crt",
        ],
        check=True,
        capture_output=True,
    )
    path.write_text(path.read_text("ascii") + Path(f"{path}.crt").read_text("ascii"), "ascii")
    return path


def test_certificates_are_checked(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Backend(certificate=certificate) as secure:
        begun = time.monotonic()
        with fails("certificate_untrusted", where=secure.url) as error:
            Client(secure.url).runs.list()
        assert "KFP_CA_CERT" in error.value.remedy
        assert time.monotonic() - begun < 5, "a wrong certificate stays wrong: it is not tried again"
        monkeypatch.setenv("KFP_CA_CERT", f"{certificate}.crt")
        assert Client(secure.url).runs.list() == []


def test_one_way_in_is_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("from-a-file", "utf-8")
    monkeypatch.setenv("KFP_TOKEN_FILE", str(tmp_path / "token"))
    monkeypatch.setenv("KFP_COOKIES", "session=abc")
    login = Client("http://localhost").login
    assert (login.way, login.token_file) == ("cookies", "")
    login = Client("http://localhost", login=Login(token="given")).login
    assert (login.way, login.cookies) == ("token", "")


class Dex(ThreadingHTTPServer):
    """oauth2-proxy and Dex with its local form, as redirects and cookies go; not their pages."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Pages)
        self.posted: list[dict[str, list[str]]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Pages(BaseHTTPRequestHandler):
    server: Dex

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        if path == "/":
            self._send(200 if "session=good" in (self.headers.get("Cookie") or "") else 403)
        elif path == "/oauth2/start":
            self._send(302, "/dex/auth?client_id=kubeflow&state=1", "csrf=1")
        elif path == "/dex/auth/local":
            self._send(302, "/dex/auth/local/login?state=1", "dex=own", "/dex")
        elif path == "/oauth2/callback":
            self._send(302, "/", "session=good")
        else:
            self._send(200)

    def do_POST(self) -> None:
        form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
        self.server.posted.append(form)
        if self.path.startswith("/dex/approval"):
            self._send(303, "/oauth2/callback?code=1")
        elif form == {"login": ["alice@example.com"], "password": [SECRET]}:
            self._send(303, "/dex/approval?req=1")
        else:
            self._send(200)

    def _send(self, status: int, location: str = "", cookie: str = "", path: str = "/") -> None:
        self.send_response(status)
        if location:
            self.send_header("Location", location)
        if cookie:
            self.send_header("Set-Cookie", f"{cookie}; Path={path}")
        self.send_header("Content-Length", "0")
        self.end_headers()


@pytest.fixture
def dex() -> Iterator[Dex]:
    with Dex() as running:
        threading.Thread(target=running.serve_forever, args=(0.05,), daemon=True).start()
        yield running
        running.shutdown()


def test_dex_gives_a_session(dex: Dex) -> None:
    from clipseg_kfp.client.dex import session_cookies

    cookies = session_cookies(dex.url, "alice@example.com", SECRET)
    assert "session=good" in cookies and "dex=own" not in cookies
    assert dex.posted[-1] == {"approval": ["approve"]}


def test_a_wrong_password_is_told_without_it(dex: Dex, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KFP_DEX_USERNAME", "alice@example.com")
    monkeypatch.setenv("KFP_DEX_PASSWORD", f"{SECRET}-wrong")
    with fails("dex_refused", where="alice@example.com") as error:
        Client(dex.url)
    assert SECRET not in str(error.value)


def test_the_session_of_dex_opens_the_backend(
    dex: Dex, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    from clipseg_kfp.client import dex as module

    cookies = module.session_cookies(dex.url, "alice@example.com", SECRET)
    backend.cookies = {cookies}
    assert Client(backend.url, login=Login(cookies=cookies)).runs.list() == []
