"""The stand-in backend, a client for it, and the command line against it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cluster_backend import Backend

from clipseg_kfp import Client, cli
from clipseg_kfp.client import Login, api
from clipseg_kfp.client import wait as waiting

Said = tuple[int, str, str]


@pytest.fixture(autouse=True)
def _apart(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No setting of this machine counts, and nothing waits for long."""
    for name in list(os.environ):
        if name.startswith(("KFP_", "KF_PIPELINES", "KUBECONFIG")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(waiting, "POLL_SECONDS", 0.02)
    monkeypatch.setattr(api, "BACKOFF_SECONDS", 0.01)


@pytest.fixture
def backend() -> Iterator[Backend]:
    with Backend() as running:
        yield running


@pytest.fixture
def users() -> Iterator[Backend]:
    """A backend with users kept apart: alice has team-a, bob has team-b."""
    with Backend(multi_user=True) as running:
        running.tokens = {"alice-token": ["team-a"], "bob-token": ["team-b"]}
        yield running


@pytest.fixture
def client(backend: Backend) -> Client:
    return Client(backend.url)


@pytest.fixture
def alice(users: Backend) -> Client:
    return Client(users.url, "team-a", login=Login(token="alice-token"))


@pytest.fixture
def say(
    backend: Backend, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Said]:
    """Runs a command; returns exit status, standard output and standard error."""
    monkeypatch.setenv("KFP_ENDPOINT", backend.url)

    def run(*words: Any) -> Said:
        try:
            cli.main([str(word) for word in words])
            status = 0
        except SystemExit as end:
            status = int(end.code or 0)
        out, err = capsys.readouterr()
        return status, out, err

    return run
