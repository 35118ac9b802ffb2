"""Plain folders."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from clipseg_kfp.errors import ObjectUnreadableError
from clipseg_kfp.storage import open_folder, open_object, split_object_uri
from clipseg_kfp.storage.files import FileFolder
from tests.codes import fails


@pytest.fixture
def folder(tmp_path: Path) -> FileFolder:
    return FileFolder(tmp_path)


@contextmanager
def file_error(number: int, path: Path) -> Iterator[None]:
    """Passes if the block fails at this path with the system's error of this number."""
    with fails("file_error", where=str(path)) as caught:
        yield
    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.__cause__.errno == number


def test_round_trip(folder: FileFolder, tmp_path: Path) -> None:
    folder.write("a/b c#ü?.bin", b"12345", "application/x-test")
    (entry,) = folder.entries()
    assert (entry.key, entry.size) == ("a/b c#ü?.bin", 5)
    assert entry == folder.stat(entry.key)
    assert folder.read(entry.key, entry.version, limit=5) == b"12345"
    assert folder.child("a").read("b c#ü?.bin") == b"12345"
    folder.download(entry.key, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == b"12345"
    assert folder.stat("a") is None
    assert folder.stat("none/none") is None
    assert (tmp_path / "a/b c#ü?.bin").stat().st_mode & 0o777 == 0o644
    other, key = open_object(folder.locate(entry.key))
    assert (other.read(key), key) == (b"12345", "b c#ü?.bin")
    folder.write("empty", b"")
    assert folder.read("empty", limit=0) == b""


def test_the_listing_is_ordered_and_has_only_files(folder: FileFolder, tmp_path: Path) -> None:
    for key in ("b/2", "b/1", "a/z/1", "c", "a-b", ".part-half"):
        folder.write(key, b"")
    (tmp_path / "empty").mkdir()
    os.mkfifo(tmp_path / "pipe")  # reading it would wait for ever
    (tmp_path / "broken").symlink_to(tmp_path / "none")
    (tmp_path / "linked").symlink_to(tmp_path / "c")
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    assert [e.key for e in folder.entries()] == ["a-b", "c", "linked", "a/z/1", "b/1", "b/2"]


def test_a_prefix_is_the_beginning_of_a_key(folder: FileFolder) -> None:
    for key in ("img/1.jpg", "img/sub/2.jpg", "img-old/3.jpg", "image.jpg", "other/img/4.jpg"):
        folder.write(key, b"")
    assert [e.key for e in folder.entries("img/")] == ["img/1.jpg", "img/sub/2.jpg"]
    assert {e.key for e in folder.entries("img")} == {"img/1.jpg", "img/sub/2.jpg", "img-old/3.jpg"}
    assert [e.key for e in folder.entries("img/s")] == ["img/sub/2.jpg"]
    assert list(folder.entries("none/")) == list(folder.entries("image.jpg/")) == []


def test_missing_folder_and_file_in_its_place(folder: FileFolder, tmp_path: Path) -> None:
    with fails("folder_missing", where=f"{tmp_path}/none"):
        list(folder.child("none").entries())
    folder.write("file", b"")
    with fails("folder_is_file", where=f"{tmp_path}/file"):
        list(folder.child("file").entries())
    with file_error(errno.ENOTDIR, tmp_path / "file/below"):
        folder.read("file/below")
    with file_error(errno.ENOTDIR, tmp_path / "file/below/x"):
        folder.write("file/below/x", b"")
    with file_error(errno.EISDIR, tmp_path):
        folder.read("")
    entry = folder.stat("x" * 300)  # reading it tells what is wrong
    assert entry is not None and entry.version == ""


def test_a_folder_without_permission(folder: FileFolder, tmp_path: Path) -> None:
    folder.write("locked/x", b"")
    (tmp_path / "locked").chmod(0)
    ordinary = 65534
    if os.geteuid() == 0:  # root may read and write everywhere: look with the eyes of an ordinary user
        for parent in tmp_path.parents[:2]:  # pytest keeps these to their owner
            parent.chmod(0o711)
        tmp_path.chmod(0o711)
        os.seteuid(ordinary)
    try:
        with file_error(errno.EACCES, tmp_path / "locked"):
            list(folder.entries("locked/"))
        with file_error(errno.EACCES, tmp_path / "locked/y"):
            folder.write("locked/y", b"")
    finally:
        if os.getuid() == 0:
            os.seteuid(0)
        (tmp_path / "locked").chmod(0o700)


def test_an_unreadable_folder_is_not_passed_over(folder: FileFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.write("locked/x", b"")

    def refuse(path: str) -> None:
        raise PermissionError(13, "Permission denied", os.fspath(path))

    monkeypatch.setattr(os, "scandir", refuse)
    with file_error(errno.EACCES, folder.root):
        list(folder.entries())


def test_what_cannot_be_read_does_not_end_the_listing(
    folder: FileFolder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for key in ("a.jpg", "b.jpg", "locked/x.jpg", "z/c.jpg"):
        folder.write(key, b"1")
    scan, open_ = os.scandir, Path.open

    def scandir(path: str) -> Any:
        if Path(path).name == "locked":
            raise PermissionError(errno.EACCES, "Permission denied", os.fspath(path))
        return scan(path)

    def opened(path: Path, *args: Any, **options: Any) -> Any:
        if path.name == "b.jpg":
            raise PermissionError(errno.EACCES, "Permission denied", os.fspath(path))
        return open_(path, *args, **options)

    monkeypatch.setattr(os, "scandir", scandir)
    monkeypatch.setattr(Path, "open", opened)
    entries = {entry.key: entry for entry in folder.entries()}
    assert set(entries) == {"a.jpg", "b.jpg", "z/c.jpg"}
    assert (entries["b.jpg"].version, entries["b.jpg"].size) == ("", 1)
    with pytest.raises(ObjectUnreadableError):
        folder.read("b.jpg", "")
    assert str(folder.root / "locked") in capsys.readouterr().out
    with file_error(
        errno.EACCES, folder.root / "locked"
    ):  # whoever deletes what nothing names needs all names
        list(folder.names())


@pytest.mark.parametrize("key", ["../x", "a/../../x", "/etc/passwd", "a\0b", "a/.."])
def test_keys_that_leave_the_folder_are_refused(folder: FileFolder, key: str, tmp_path: Path) -> None:
    for call in (
        lambda: folder.read(key),
        lambda: folder.write(key, b""),
        lambda: folder.stat(key),
        lambda: folder.child(key),
        lambda: folder.download(key, tmp_path / "copy"),
        lambda: list(folder.entries(key + "/")),
    ):
        with fails("key_outside_folder") as caught:
            call()
        assert caught.value.where in (key, key + "/")


def test_a_change_between_listing_and_reading_is_noticed(folder: FileFolder) -> None:
    folder.write("x", b"old")
    (entry,) = folder.entries()
    folder.write("x", b"new")
    with fails("object_changed", where=str(folder.root / "x")):
        folder.read("x", entry.version)
    (folder.root / "x").unlink()
    with fails("object_missing", where=str(folder.root / "x")):
        folder.read("x", entry.version)


def test_a_file_removed_during_the_listing_is_not_listed(folder: FileFolder) -> None:
    for name in "abc":
        folder.write(name, b"")
    listing = folder.entries()
    assert next(listing).key == "a"
    (folder.root / "b").unlink()
    assert [e.key for e in listing] == ["c"]


def test_the_size_limit(folder: FileFolder) -> None:
    folder.write("x", b"12345")
    with fails("object_too_large", where=str(folder.root / "x")):
        folder.read("x", limit=4)


def test_a_reader_never_sees_half_a_file(folder: FileFolder) -> None:
    """The file and the listing show one whole content or the other while a writer replaces it."""
    contents = [b"a" * 300_000, b"b" * 300_000]
    folder.write("x", contents[0])
    done = threading.Event()

    def replace() -> None:
        for turn in range(60):
            folder.write("x", contents[turn % 2])
        done.set()

    writer = threading.Thread(target=replace)
    writer.start()
    while not done.is_set():
        assert folder.read("x") in contents
        assert [e.key for e in folder.entries()] == ["x"]
    writer.join()


def test_a_failed_write_leaves_the_old_file(folder: FileFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.write("x", b"old")

    def full(self: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with file_error(errno.ENOSPC, folder.root / "x"):
        folder.write("x", b"new")
    assert [path.name for path in folder.root.iterdir()] == ["x"]
    assert folder.read("x") == b"old"


def test_uploads(folder: FileFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"x" * 3_000_000)
    folder.upload("up/a b.bin", source, "application/x-test")
    assert folder.read("up/a b.bin") == source.read_bytes()
    assert (tmp_path / "up/a b.bin").stat().st_mode & 0o777 == 0o644
    with fails("object_missing", where=str(tmp_path / "none")):
        folder.upload("up/none", tmp_path / "none")
    with fails("key_outside_folder", where="../x"):
        folder.upload("../x", source)

    def full(self: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with file_error(errno.ENOSPC, folder.root / "up/y"):
        folder.upload("up/y", source)
    assert [path.name for path in (tmp_path / "up").iterdir()] == ["a b.bin"]


def test_uris(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    odd = tmp_path / "a b#1?ü%41"
    odd.mkdir()
    (odd / "x.txt").write_bytes(b"1")
    assert open_folder(odd.as_uri()).uri == open_folder(str(odd)).uri == odd.as_uri()
    assert open_folder(f"file://{tmp_path}/a b#1?ü%2541").uri == odd.as_uri()
    for uri in (f"{odd}/x.txt", "a b#1?ü%41/x.txt", f"{odd.as_uri()}/x.txt"):
        folder, name = open_object(uri)
        assert folder.read(name) == b"1"
    assert open_folder("file:///").uri == "file:///"
    with fails("uri_has_host", where="file://data/images") as caught:
        open_folder("file://data/images")
    assert "file:///data/" in caught.value.remedy


def test_splitting() -> None:
    assert split_object_uri("s3://bucket/a/b.jpg") == ("s3://bucket/a", "b.jpg")
    assert split_object_uri("s3://bucket/b.jpg") == ("s3://bucket", "b.jpg")
    assert split_object_uri("file:///b.jpg") == ("file:///", "b.jpg")
    assert split_object_uri("/b.jpg") == ("/", "b.jpg")
    assert split_object_uri("b.jpg") == (".", "b.jpg")
    for uri in ("s3://bucket", "s3://bucket/", "a/", "", "file:///"):
        with fails("uri_names_no_object", where=uri):
            split_object_uri(uri)
