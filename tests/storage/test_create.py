"""Creating, deleting and naming objects, in folders and in the real store."""

from __future__ import annotations

import errno
import fcntl
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from clipseg_kfp.naming import digest
from clipseg_kfp.storage import Folder, files, open_folder
from clipseg_kfp.storage.s3 import connect
from tests.codes import fails


@pytest.fixture(params=["folder", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    if request.param == "folder":
        (tmp_path / "root").mkdir()
        return open_folder(str(tmp_path / "root"))
    request.getfixturevalue("s3_env")
    return open_folder(f"s3://{request.getfixturevalue('bucket')}/root")


def test_of_many_at_once_one_creates(folder: Folder) -> None:
    won: list[int] = []
    gate = threading.Barrier(12)

    def create(number: int) -> None:
        gate.wait()
        if folder.create("a b/ü +.json", b"%d" % number, "application/json"):
            won.append(number)

    threads = [threading.Thread(target=create, args=(i,)) for i in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (winner,) = won
    assert folder.read("a b/ü +.json") == b"%d" % winner
    assert [entry.key for entry in folder.names()] == ["a b/ü +.json"], "nothing is left behind"
    assert not folder.create("a b/ü +.json", b"later")
    folder.delete("a b/ü +.json")
    assert folder.create("a b/ü +.json", b"")
    assert folder.read("a b/ü +.json") == b""


def test_folders_names_and_times(folder: Folder) -> None:
    begun = time.time()
    assert folder.folders() == []
    for key in ("b/x", "a/y/z", "file"):
        folder.write(key, b"12")
    assert folder.folders() == ["a", "b"]
    names = {entry.key: entry for entry in folder.names()}
    assert set(names) == {"b/x", "a/y/z", "file"}
    assert all(entry.size == 2 and begun - 2 < entry.modified < time.time() + 2 for entry in names.values())
    assert {entry.key: entry for entry in folder.entries()}.keys() == names.keys()
    found = folder.stat("b/x")
    assert found is not None and abs(found.modified - names["b/x"].modified) <= 1
    folder.delete("b/x")
    folder.delete("b/x")  # gone already
    assert [entry.key for entry in folder.names("b/")] == []


def test_wrong_credentials_are_told(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    if not folder.uri.startswith("s3"):
        pytest.skip("folders have none")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-secret-0123456789")
    connect.cache_clear()
    with fails("credentials_rejected", where=folder.locate("x")) as caught:
        open_folder(folder.uri).create("x", b"")
    assert "wrong-secret" not in str(caught.value) and "Signature=" not in str(caught.value)


def test_a_missing_bucket_is_told(s3_env: dict[str, str]) -> None:
    with fails("bucket_missing", where="s3://not-there"):
        open_folder("s3://not-there/x").create("x", b"")


def test_a_file_system_without_hard_links_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    with fails("condition_unsupported", where=str(tmp_path / "x")):
        open_folder(str(tmp_path)).create("x", b"1")
    assert list(tmp_path.iterdir()) == []


def test_what_is_created_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    flush, link = os.fsync, Path.hardlink_to

    def flushed(handle: int) -> None:
        place = Path(f"/proc/self/fd/{handle}").readlink()
        order.append("folder" if place.is_dir() else f"{place.stat().st_size} bytes")
        flush(handle)

    def linked(path: Path, target: Path) -> None:
        order.append("name")
        link(path, target)

    monkeypatch.setattr(os, "fsync", flushed)
    monkeypatch.setattr(Path, "hardlink_to", linked)
    assert open_folder(str(tmp_path)).create("x", b"12345")
    assert order == ["5 bytes", "name", "folder"]


def test_settling(folder: Folder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder.write("x", b"1")
    folder.settle()
    flushed: list[Path] = []
    monkeypatch.setattr(files, "_flush_all", flushed.append)
    folder.settle()
    assert flushed == ([tmp_path / "root"] if folder.uri.startswith("file") else [])


@pytest.mark.parametrize("kind", ["nfs", "refused"])
def test_a_leftover_where_locks_want_a_file_that_may_be_written(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NFS gives exclusive locks for such files only, and an old one for none."""
    lock = fcntl.flock

    def like_nfs(handle: int, how: int) -> None:
        if kind == "refused" or fcntl.fcntl(handle, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, "Bad file descriptor")
        lock(handle, how)

    folder = open_folder(str(tmp_path))
    left = tmp_path / f".part-{digest('x')}"
    left.write_bytes(b"half")
    monkeypatch.setattr(fcntl, "flock", like_nfs)
    folder.write("x", b"whole")
    assert folder.read("x") == b"whole"
    assert left.exists() == (kind == "refused")
