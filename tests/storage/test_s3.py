"""S3 folders against a real server."""

from __future__ import annotations

import os
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partialmethod
from pathlib import Path

import pytest
from minio import Minio

from clipseg_kfp.dataset.listing import list_sources
from clipseg_kfp.errors import ClipsegKfpError, ObjectChangedError
from clipseg_kfp.local.store import EmbeddedStore
from clipseg_kfp.storage import open_folder, open_object, s3
from clipseg_kfp.storage.s3 import S3Folder, connect
from tests.codes import fails

pytestmark = pytest.mark.usefixtures("s3_env")


@pytest.fixture
def folder(bucket: str) -> S3Folder:
    opened = open_folder(f"s3://{bucket}/in put")
    assert isinstance(opened, S3Folder)
    return opened


def fill(folder: S3Folder, keys: list[str]) -> None:
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda key: folder.write(key, key.encode()), keys))


def test_round_trip(folder: S3Folder, tmp_path: Path) -> None:
    folder.write("a/b.bin", b"\x00\xff" * 5000, "application/x-test")
    (entry,) = folder.entries()
    assert (entry.key, entry.size) == ("a/b.bin", 10000)
    assert entry == folder.stat("a/b.bin")
    assert folder.read("a/b.bin", entry.version, limit=10000) == b"\x00\xff" * 5000
    folder.download("a/b.bin", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == b"\x00\xff" * 5000
    assert folder.child("a").read("b.bin") == b"\x00\xff" * 5000
    assert folder.locate("a/b.bin") == f"s3://{folder.bucket}/in put/a/b.bin"
    other, key = open_object(folder.locate("a/b.bin"))
    assert other.read(key, limit=10000) == b"\x00\xff" * 5000
    assert folder.stat("a/c.bin") is None
    assert folder.stat("a") is None


def test_empty_and_large_objects(folder: S3Folder, tmp_path: Path) -> None:
    folder.write("empty", b"")
    assert folder.read("empty", limit=0) == b""
    folder.download("empty", tmp_path / "empty")
    assert (tmp_path / "empty").read_bytes() == b""
    large = bytes(12 << 20)
    folder.write("large", large)  # one request: its ETag is no multipart ETag, its parts are never visible
    entry = folder.stat("large")
    assert entry is not None and "-" not in entry.version
    assert folder.read("large", entry.version) == large


@pytest.mark.parametrize("size", [0, 1000, 12 << 20])
def test_uploads(folder: S3Folder, tmp_path: Path, size: int) -> None:
    """The last one goes in three parts."""
    source = tmp_path / "source"
    source.write_bytes(os.urandom(size))
    folder.upload("up/a b.bin", source, "application/x-test")
    assert folder.read("up/a b.bin") == source.read_bytes()
    assert [(entry.key, entry.size) for entry in folder.entries()] == [("up/a b.bin", size)]
    found = folder.client.stat_object(folder.bucket, folder.prefix + "up/a b.bin")
    assert found.content_type == "application/x-test"
    with fails("file_error", where=str(tmp_path / "none")) as caught:
        folder.upload("up/none", tmp_path / "none")
    assert folder.locate("up/none") in caught.value.message


def test_a_long_listing_loses_and_doubles_nothing(folder: S3Folder) -> None:
    keys = [f"l/{n:04}.jpg" for n in range(900)] + [f"l-x/{n:04}.jpg" for n in range(300)]
    fill(folder, keys)
    listed = [entry.key for entry in folder.entries()]
    assert len(listed) == len(keys) and set(listed) == set(keys)


@pytest.mark.parametrize("page", [1, 2, 3, 7])
def test_pages_of_any_size_give_the_same(
    folder: S3Folder, page: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # SeaweedFS lists "l-x" behind "l/…": a page may end on either side of the turn.
    keys = ["l-x/1", "l.1", "l/1", "l/2", "l/a/b", "l/a-b", "l0/ü", "z +%&#?.jpg", "é/1"]
    fill(folder, keys)
    monkeypatch.setattr(s3, "PAGE", page)
    monkeypatch.setattr(Minio, "_list_objects", partialmethod(Minio._list_objects, max_keys=page))
    listed = [entry.key for entry in folder.entries()]
    assert len(listed) == len(keys) and set(listed) == set(keys)


def test_a_prefix_is_the_beginning_of_a_key(folder: S3Folder) -> None:
    fill(folder, ["img/1.jpg", "img/2.jpg", "img-old/3.jpg", "image.jpg"])
    outside = open_folder(f"s3://{folder.bucket}")
    outside.write("in putter/4.jpg", b"beside, not below")
    assert {e.key for e in folder.entries("img/")} == {"img/1.jpg", "img/2.jpg"}
    assert {e.key for e in folder.entries("img")} == {"img/1.jpg", "img/2.jpg", "img-old/3.jpg"}
    assert {e.key for e in folder.child("img").entries()} == {"1.jpg", "2.jpg"}
    assert len(list(folder.entries())) == 4
    assert list(folder.entries("none/")) == []


@pytest.mark.parametrize(
    "key", ["with space.jpg", "ünï/日本.jpg", "a+b%20c&d=#?.jpg", "…/'\"<>.jpg", "~/.hid"]
)
def test_odd_keys(folder: S3Folder, key: str) -> None:
    folder.write(key, key.encode())
    (entry,) = folder.entries()
    assert entry.key == key
    assert folder.read(key, entry.version) == key.encode()


@pytest.mark.parametrize("key", ["../x", "a/../x", "./x"])
def test_keys_that_the_client_cannot_ask_for(folder: S3Folder, key: str) -> None:
    """minio-py refuses dot segments, and the error names the object as every other does."""
    with fails("object_name_unusable", where=folder.locate(key)):
        folder.read(key)


def test_doubled_slashes(folder: S3Folder) -> None:
    """SeaweedFS makes one slash of two in its listing and answers to both names; AWS keeps them apart."""
    folder.write("a//b", b"1")
    (entry,) = folder.entries()
    assert entry.key.replace("//", "/") == "a/b"
    assert folder.read(entry.key) == folder.read("a//b") == b"1"


def test_a_replaced_or_removed_object_is_noticed(folder: S3Folder) -> None:
    folder.write("x.jpg", b"old")
    (entry,) = folder.entries()
    folder.write("x.jpg", b"new")
    with fails("object_changed", where=folder.locate("x.jpg")):
        folder.read("x.jpg", entry.version)
    folder.client.remove_object(folder.bucket, folder.prefix + "x.jpg")
    with fails("object_missing", where=folder.locate("x.jpg")):
        folder.read("x.jpg", entry.version)


def test_the_size_limit(folder: S3Folder) -> None:
    folder.write("x", b"12345")
    assert folder.read("x", limit=5) == b"12345"
    with fails("object_too_large", where=folder.locate("x")):
        folder.read("x", limit=4)


def test_reads_share_connections(folder: S3Folder, s3_env: dict[str, str]) -> None:
    folder.write("x", b"12345")
    for _ in range(20):
        folder.read("x")
    pool = folder.client._http.connection_from_url(s3_env["S3_ENDPOINT"])
    assert pool.num_connections <= 2


def all_fail(code: str, folder: S3Folder, tmp_path: Path) -> list[ClipsegKfpError]:
    errors = []
    for call in (
        lambda: list(folder.entries()),
        lambda: folder.read("x"),
        lambda: folder.download("x", tmp_path / "x"),
        lambda: folder.write("x", b""),
    ):
        with fails(code) as caught:
            call()
        errors.append(caught.value)
    return errors


def test_wrong_bucket(tmp_path: Path) -> None:
    missing = open_folder("s3://no-such-bucket/a")
    assert isinstance(missing, S3Folder)
    for error in all_fail("bucket_missing", missing, tmp_path):
        assert error.where == "s3://no-such-bucket" and "127.0.0.1:" in error.message


def test_wrong_key(folder: S3Folder, tmp_path: Path) -> None:
    with fails("object_missing", where=f"s3://{folder.bucket}/in put/no.jpg") as caught:
        folder.read("no.jpg")
    assert isinstance(caught.value, ObjectChangedError)
    with fails("object_missing", where=folder.locate("no.jpg")):
        folder.download("no.jpg", tmp_path / "x")


@pytest.mark.parametrize("name", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
def test_wrong_credentials(
    bucket: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: EmbeddedStore
) -> None:
    monkeypatch.setenv(name, "wrong-0123456789")
    wrong = open_folder(f"s3://{bucket}")
    assert isinstance(wrong, S3Folder)
    for error in all_fail("credentials_rejected", wrong, tmp_path):
        assert error.where.startswith(f"s3://{bucket}")
        assert "AWS_ACCESS_KEY_ID" in error.remedy and "AWS_SECRET_ACCESS_KEY" in error.remedy
        assert "wrong-0123456789" not in str(error) and store.secret_key not in str(error)


def test_no_credentials(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    none = open_folder(f"s3://{bucket}")
    assert isinstance(none, S3Folder)
    began = time.monotonic()
    for error in all_fail("credentials_missing", none, tmp_path):
        assert "127.0.0.1:" in error.message and "AWS_ACCESS_KEY_ID" in error.remedy
    assert time.monotonic() - began < 2  # no metadata server is asked


def test_a_broken_credentials_file_is_not_quoted(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "credentials").write_text("aws_secret_access_key = 0123456789secret\n")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    with fails("credentials_file_broken") as caught:
        open_folder(f"s3://{bucket}").read("x")
    assert "0123456789" not in str(caught.value) and caught.value.__cause__ is None


def test_a_reader_may_not_write(
    store: EmbeddedStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.make_bucket("shared")
    store.make_bucket("private")
    open_folder("s3://shared").write("x", b"1")
    for name, value in store.environment(store.identities[0]).items():
        monkeypatch.setenv(name, value)
    connect.cache_clear()
    shared = open_folder("s3://shared")
    (entry,) = shared.entries()
    assert shared.read("x", entry.version) == b"1"
    with fails("access_denied", where="s3://shared/y"):
        shared.write("y", b"")
    private = open_folder("s3://private")
    assert isinstance(private, S3Folder)
    assert all(
        error.where.startswith("s3://private") for error in all_fail("access_denied", private, tmp_path)
    )


def test_a_refused_object_of_a_manifest_is_named_with_its_row(
    store: EmbeddedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("shared", "private"):
        store.make_bucket(name)
    open_folder("s3://shared").write("rows.csv", b"uri\nrows.csv\ns3://private/a.jpg\n")
    for name, value in store.environment(store.identities[0]).items():
        monkeypatch.setenv(name, value)
    connect.cache_clear()
    with fails("access_denied", where="s3://shared/rows.csv, row 2") as caught:
        list(list_sources("s3://shared/rows.csv", open_folder("s3://shared")))
    assert "s3://private/a.jpg" in caught.value.message


def test_unreachable_endpoint(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CLIPSEG_KFP_S3_BACKOFF", "0.02")
    with socket.socket() as bound:  # bound and not listening: connections are refused
        bound.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{bound.getsockname()[1]}"
        closed = open_folder("s3://bucket/a", f"http://{host}")
        assert isinstance(closed, S3Folder)
        began = time.monotonic()
        for error in all_fail("store_unreachable", closed, tmp_path):
            assert error.where.startswith("s3://bucket/a")
            assert host in error.message and " 5 " in error.message.replace("(", " ")
            assert "Connection refused" in error.message
        assert time.monotonic() - began < 5


def test_unknown_host_and_wrong_scheme(monkeypatch: pytest.MonkeyPatch, store: EmbeddedStore) -> None:
    monkeypatch.setenv("CLIPSEG_KFP_S3_BACKOFF", "0")
    with fails("store_unreachable", where="s3://bucket/x") as caught:
        open_folder("s3://bucket", "http://no-such-host.invalid").read("x")
    assert "no-such-host.invalid" in caught.value.message
    with fails("store_unreachable", where="s3://bucket/x"):
        open_folder("s3://bucket", store.endpoint.replace("http:", "https:")).read("x")


@pytest.mark.parametrize(
    "endpoint",
    ["http://", "ftp://host", "http://host:port", "http://host:99999", "http://host/path", "a b",
     "http://user:hunter2@host", "https://host?key=hunter2", "http://[::1"],
)  # fmt: skip
def test_malformed_endpoint(endpoint: str) -> None:
    with fails("endpoint_invalid") as caught:
        open_folder("s3://bucket", endpoint)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("uri", "code"),
    [
        ("gs://bucket/a", "uri_scheme_unknown"),
        ("s3://", "uri_bucket_missing"),
        ("s3:///key", "uri_bucket_missing"),
        ("s3://key:hunter2@bucket/a", "uri_has_login"),
        ("", "uri_empty"),
    ],
)
def test_malformed_uris(uri: str, code: str) -> None:
    for opened in (open_folder, open_object) if uri else (open_folder,):
        with fails(code) as caught:
            opened(uri)
        assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("uri", ["s3://bucket", "s3://bucket/", "s3://bucket/a/"])
def test_an_object_is_needed(uri: str) -> None:
    with fails("uri_names_no_object", where=uri):
        open_object(uri)


def test_invalid_bucket_name() -> None:
    with fails("bucket_name_invalid") as caught:
        open_folder("S3://b/x").read("y")
    assert "'b'" in caught.value.message


def test_a_full_disk_is_not_taken_for_the_network(folder: S3Folder, tmp_path: Path) -> None:
    folder.write("x", b"1")
    with fails("file_error", where=str(tmp_path / "none" / "x")) as caught:
        folder.download("x", tmp_path / "none" / "x")
    assert folder.locate("x") in caught.value.message
