"""The audit of the locks. (Their bills of materials: tests/images/test_recipes.py.)"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from security_store import ROOT

pytest.importorskip("pip_audit", reason="needs pip-audit: pip install 'clipseg-kfp[test]'")


class Advisories(BaseHTTPRequestHandler):
    """OSV's interface, with one advisory."""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        vulnerable = (asked["package"]["name"], asked["version"]) == ("jinja2", "3.1.2")
        ranges = [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "3.1.3"}]}]
        package = {"ecosystem": "PyPI", "name": "jinja2"}
        one = {
            "id": "GHSA-test", "summary": "x", "details": "x", "aliases": [], "modified": "2024-01-11T00:00:00Z",
            "published": "2024-01-11T00:00:00Z", "affected": [{"package": package, "ranges": ranges}],
        }  # fmt: skip
        body = json.dumps({"vulns": [one]} if vulnerable else {}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def service() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Advisories) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/v1/query"
        server.shutdown()


def audit(url: str, lock: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OSV_URL": url, "HTTPS_PROXY": "http://127.0.0.1:9", "NO_PROXY": "127.0.0.1"}
    return subprocess.run(
        [sys.executable, ROOT / ".ci" / "audit.py", str(lock)],
        env=environment, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip


def test_a_known_vulnerability_fails_the_audit(service: str, tmp_path: Path) -> None:
    lock = tmp_path / "lock.txt"
    lock.write_text("idna==3.20\njinja2==3.1.2\n")
    found = audit(service, lock)
    assert found.returncode == 1, found.stderr
    assert "2 of 2 packages audited by OSV" in found.stdout
    assert "jinja2 3.1.2: GHSA-test, fixed in 3.1.3" in found.stdout


def test_an_audit_without_a_service_does_not_say_that_all_is_well(tmp_path: Path) -> None:
    lock = tmp_path / "lock.txt"
    lock.write_text("jinja2==3.1.2\n")
    found = audit("http://127.0.0.1:9/", lock)
    assert (found.returncode, "NOT AUDITED" in found.stdout, "no known" in found.stdout) == (0, True, False)
