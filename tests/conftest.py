"""Fixtures that several folders of tests share."""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest
from backend_rules import HandedOver

from clipseg_kfp.local.store import EmbeddedStore, Identity
from clipseg_kfp.storage.s3 import connect

READER = Identity("reader", "readerkey", "reader-secret-0123456789", ("Read:shared", "List:shared"))
_numbers = itertools.count(1)

# A shell starts what it puts into the background deaf to Ctrl-C, and the processes of tests would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


# Packages are compared with what is committed, whatever image the developer's shell names.
os.environ.pop("CLIPSEG_KFP_IMAGE", None)


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keeps converted models out of the user's cache; subprocesses inherit it."""
    before = os.environ.get("CLIPSEG_KFP_CACHE")
    os.environ["CLIPSEG_KFP_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    yield
    if before is None:
        del os.environ["CLIPSEG_KFP_CACHE"]
    else:
        os.environ["CLIPSEG_KFP_CACHE"] = before


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedStore]:
    """A real S3 store; one for each worker process, on ports of its own."""
    with EmbeddedStore(tmp_path_factory.mktemp("store"), identities=[READER]) as running:
        yield running


@pytest.fixture
def bucket(store: EmbeddedStore) -> str:
    """The name of a new, empty bucket."""
    name = f"bucket-{next(_numbers)}"
    store.make_bucket(name)
    return name


@pytest.fixture
def s3_env(store: EmbeddedStore, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """The environment through which the library finds the store."""
    for name in ("AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL", "MINIO_ACCESS_KEY", "MINIO_SECRET_KEY"):
        monkeypatch.delenv(name, raising=False)
    environment = store.environment()
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    connect.cache_clear()
    yield environment
    connect.cache_clear()


@pytest.fixture(autouse=True)
def handed_over(monkeypatch: pytest.MonkeyPatch) -> HandedOver:
    """What the tasks of this test's local runs hand over; a run fails on what a Kubeflow backend would refuse."""
    from kfp.local import executor_output_utils

    watched, load = HandedOver(), executor_output_utils.load_executor_output

    def checked(executor_output_path: str) -> Any:
        watched.look_at(executor_output_path)
        return load(executor_output_path)

    monkeypatch.setattr(executor_output_utils, "load_executor_output", checked)
    return watched
