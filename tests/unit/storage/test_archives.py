from __future__ import annotations

import gzip
import io
import json
import os
import struct
import subprocess
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO

import pytest

from clipseg_kfp.dataset.listing import Source, list_sources
from clipseg_kfp.storage import archives, open_folder, open_object
from tests.codes import fails

LONG = "x" * 200 + " end.jpg"
DEEP = "/".join(f"folder {i}" for i in range(60)) + "/ü.png"
FILES = {
    "images/a.jpg": b"a",
    "images/späße 画像 (1).png": b"odd",
    f"images/{LONG}": b"long",
    f"images/{DEEP}": b"deep",
    "images/~20.jpg": b"tilde",
    f"images/{'y' * 200}.txt": b"text",
    "masks/red thing/a.png": b"mask 1",
    "masks/red thing/späße 画像 (1).jpg": b"mask 2",
    f"masks/red/thing/{LONG}": b"no image of this path",
    f"masks/cat/{LONG}": b"mask 3",
    f"masks/cat/{DEEP}": b"mask 4",
}
NAMES = ["d.zip", "d.tar", "d.tar.gz", "d.tgz", "d.tar.bz2", "d.tar.xz"]


def pack(path: Path, files: dict[str, bytes]) -> Path:
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.mkdir("images")
            for name, data in files.items():
                archive.writestr(name, data)
    else:
        kind = {".tar": "", ".gz": "gz", ".tgz": "gz", ".bz2": "bz2", ".xz": "xz"}[path.suffix]
        with tarfile.open(path, f"w:{kind}") as archive:  # type: ignore[call-overload]
            folder = tarfile.TarInfo("./images")
            folder.type = tarfile.DIRTYPE
            archive.addfile(folder)
            for name, data in files.items():
                member = tarfile.TarInfo(f"./{name}")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    return path


@pytest.fixture
def staging(tmp_path: Path) -> Path:
    return tmp_path / "staging"


def listing(uri: Path | str, staging: Path | str) -> dict[str, Source]:
    return {source.key: source for source in list_sources(str(uri), open_folder(str(staging)))}


def content(uri: str) -> bytes:
    folder, key = open_object(uri)
    return folder.read(key)


def shape(found: dict[str, Source]) -> dict[str, tuple[bytes, list[tuple[str, bytes]]]]:
    return {
        key: (content(s.uri), sorted((t.prompt, content(t.uri)) for t in s.ground_truth))
        for key, s in found.items()
    }


def objects(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", NAMES)
def test_an_archive_is_like_its_folder(name: str, tmp_path: Path, staging: Path) -> None:
    folder = tmp_path / "folder"
    for key, data in FILES.items():
        open_folder(str(folder)).write(key, data)
    path = pack(tmp_path / name, FILES)
    found = listing(path, staging)
    expected = listing(folder, staging)
    assert shape(found) == shape(expected)
    assert {k: s.version for k, s in found.items()} == {k: s.version for k, s in expected.items()}
    assert found["images/späße 画像 (1).png"].source == f"{path}!/images/späße 画像 (1).png"
    again = listing(path, staging)
    assert again == found


def test_archive_in_the_store(s3_env: dict[str, str], bucket: str, tmp_path: Path) -> None:
    root = open_folder(f"s3://{bucket}")
    root.write("in/d.zip", pack(tmp_path / "d.zip", FILES).read_bytes())
    found = listing(f"s3://{bucket}/in/d.zip", f"s3://{bucket}/out/staging")
    folder = tmp_path / "folder"
    for key, data in FILES.items():
        open_folder(str(folder)).write(key, data)
    assert shape(found) == shape(listing(folder, tmp_path / "none"))


def test_unpacked_once(tmp_path: Path, staging: Path) -> None:
    path = pack(tmp_path / "d.zip", FILES)
    first = listing(path, staging)
    before = objects(staging)
    os.utime(path)
    assert listing(path, staging) == first
    assert objects(staging) == before


def test_changed_archive_is_unpacked_anew(tmp_path: Path, staging: Path) -> None:
    path = pack(tmp_path / "d.tar", {"a.jpg": b"old", "b.jpg": b"b"})
    listing(path, staging)
    pack(path, {"a.jpg": b"new"})
    assert shape(listing(path, staging)) == {"a.jpg": (b"new", [])}


def test_interrupted_staging_is_done_again(
    tmp_path: Path, staging: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = pack(tmp_path / "d.zip", {f"{i}.jpg": b"%d" % i for i in range(5)})
    folder = open_folder(str(staging))
    write = type(folder).write
    written: list[str] = []

    def stop_after_three(self: object, key: str, data: bytes, content_type: str = "") -> None:
        if len(written) == 3:
            raise KeyboardInterrupt
        written.append(key)
        write(self, key, data, content_type)  # type: ignore[arg-type]

    monkeypatch.setattr(type(folder), "write", stop_after_three)
    with pytest.raises(KeyboardInterrupt):
        listing(path, staging)
    monkeypatch.setattr(type(folder), "write", write)
    assert len(objects(staging)) == 3
    assert {k: v[0] for k, v in shape(listing(path, staging)).items()} == {
        f"{i}.jpg": b"%d" % i for i in range(5)
    }


def test_names_that_differ_in_case_stay_apart(tmp_path: Path, staging: Path) -> None:
    path = pack(tmp_path / "d.zip", {"A.jpg": b"1", "a.jpg": b"2", "A.JPG": b"3"})
    found = listing(path, staging)
    assert {key: content(s.uri) for key, s in found.items()} == {"A.jpg": b"1", "a.jpg": b"2", "A.JPG": b"3"}
    assert len({s.uri.lower() for s in found.values()}) == 3


def test_tar_name_that_is_no_unicode(tmp_path: Path, staging: Path) -> None:
    path = pack(tmp_path / "d.tar", {os.fsdecode(b"\xff.jpg"): b"x"})
    assert shape(listing(path, staging)) == {"\\udcff.jpg": (b"x", [])}


def test_backslashes_of_a_dos_packer_part_folders(tmp_path: Path, staging: Path) -> None:
    path = tmp_path / "d.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("images\\a.jpg", "masks\\cat\\a.png"):
            info = zipfile.ZipInfo("x")
            info.filename, info.create_system = name, 0
            archive.writestr(info, b"x")
    assert [t.prompt for t in listing(path, staging)["images/a.jpg"].ground_truth] == ["cat"]


def test_tar_that_ends_with_a_zip(tmp_path: Path, staging: Path) -> None:
    inner = pack(tmp_path / "inner.zip", {"x.jpg": b"x"}).read_bytes()
    path = pack(tmp_path / "d.tar", {"a.jpg": b"a", "inner.zip": inner})
    assert list(listing(path, staging)) == ["a.jpg"]


def refused(path: Path, staging: Path, code: str, member: str = "") -> str:
    """The archive is refused each time, by name, and nothing of it can be listed; returns the message."""
    for _ in range(2):
        with fails(code, where=f"{path}!/{member}" if member else None) as caught:
            listing(path, staging)
        assert caught.value.where.startswith(str(path))
        assert str(path) in caught.value.message and "\n" not in str(caught.value)
    assert not list(staging.rglob("index.json"))
    return caught.value.message


UNSAFE = [
    "/etc/passwd.jpg",
    "../up.jpg",
    "a/../../up.jpg",
    "a\\..\\..\\up.jpg",
    "\\root.jpg",
    "C:\\x.jpg",
    "c:x.jpg",
]


@pytest.mark.parametrize("name", UNSAFE)
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_unsafe_names(name: str, kind: str, tmp_path: Path, staging: Path) -> None:
    path = tmp_path / f"d.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("good.jpg", b"x")
            archive.writestr(name, b"x")
    else:
        with tarfile.open(path, "w") as tar:
            for member in ("good.jpg", name):
                tar.addfile(tarfile.TarInfo(member))
    refused(path, staging, "archive_member_unsafe", name)
    assert objects(staging) == {}


def test_harmless_names_that_look_odd(tmp_path: Path, staging: Path) -> None:
    names = {"a..b.jpg", "photos: 1/x.jpg", "...jpg", "~/x.jpg"}
    path = pack(tmp_path / "d.zip", dict.fromkeys(sorted(names), b"x"))
    assert set(listing(path, staging)) == names


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE]
)
def test_tar_links_and_devices(kind: bytes, tmp_path: Path, staging: Path) -> None:
    path = tmp_path / "d.tar"
    with tarfile.open(path, "w") as archive:
        archive.addfile(tarfile.TarInfo("good.jpg"))
        member = tarfile.TarInfo("odd.jpg")
        member.type, member.linkname = kind, "/etc/passwd"
        archive.addfile(member)
    refused(path, staging, "archive_member_not_a_file", "odd.jpg")
    assert objects(staging) == {}


@pytest.mark.parametrize("mode", [0o120777, 0o020666, 0o010666])
def test_zip_links_and_devices(mode: int, tmp_path: Path, staging: Path) -> None:
    path = tmp_path / "d.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("good.jpg", b"x")
        info = zipfile.ZipInfo("odd.jpg")
        info.external_attr = mode << 16
        archive.writestr(info, b"/etc/passwd")
    refused(path, staging, "archive_member_not_a_file", "odd.jpg")
    assert objects(staging) == {}


@pytest.mark.parametrize("name", ["d.zip", "d.tar", "d.tgz"])
def test_bombs(name: str, tmp_path: Path, staging: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = pack(tmp_path / name, {"small.jpg": b"x", "large.jpg": bytes(200_000), "z.jpg": b"x"})
    monkeypatch.setattr(archives, "MAX_MEMBER_BYTES", 100_000)
    refused(path, staging, "archive_member_too_large", "large.jpg")
    monkeypatch.setattr(archives, "MAX_MEMBER_BYTES", 1 << 20)
    monkeypatch.setattr(archives, "MAX_MEMBERS", 3)  # a folder and three files
    refused(path, staging, "archive_bomb")
    monkeypatch.setattr(archives, "MAX_MEMBERS", 4)
    monkeypatch.setattr(archives, "RATIO_FREE_BYTES", 1000)
    if name != "d.tar":  # which compresses nothing
        monkeypatch.setattr(archives, "MAX_RATIO", 10)
        assert "large.jpg" in refused(path, staging, "archive_bomb")
    assert objects(staging) == {}
    monkeypatch.setattr(archives, "MAX_RATIO", 10_000)
    assert len(listing(path, staging)) == 3


def test_encrypted_zip(tmp_path: Path, staging: Path) -> None:
    path = pack(tmp_path / "d.zip", {"open.jpg": b"x", "secret.jpg": b"y"})
    data = bytearray(path.read_bytes())
    local, central = data.rindex(b"secret.jpg", 0, data.index(b"PK\1\2")), data.rindex(b"secret.jpg")
    data[local - 30 + 6] |= 1
    data[central - 46 + 8] |= 1
    path.write_bytes(data)
    refused(path, staging, "archive_member_encrypted", "secret.jpg")
    assert objects(staging) == {}


def test_unknown_compression_of_a_zip(tmp_path: Path, staging: Path) -> None:
    path = pack(tmp_path / "d.zip", {"odd.jpg": b"x"})
    data = bytearray(path.read_bytes())
    struct.pack_into("<H", data, data.index(b"PK\3\4", 40) + 8 if b"PK\3\4" in data[40:] else 8, 97)
    struct.pack_into("<H", data, data.rindex(b"PK\1\2") + 10, 97)
    path.write_bytes(data)
    refused(path, staging, "archive_unsupported", "odd.jpg")


@pytest.mark.parametrize("name", NAMES)
def test_truncated_archives(name: str, tmp_path: Path, staging: Path) -> None:
    path = pack(tmp_path / name, {f"{i}.jpg": os.urandom(20_000) for i in range(3)})
    path.write_bytes(path.read_bytes()[:-25_000])
    refused(path, staging, "archive_damaged")


@pytest.mark.parametrize("name", ["d.zip", "d.tgz", "d.tar.bz2", "d.tar.xz"])
def test_damaged_content(name: str, tmp_path: Path, staging: Path) -> None:
    path = pack(tmp_path / name, {f"{i}.jpg": os.urandom(20_000) for i in range(3)})
    data = bytearray(path.read_bytes())
    for i in range(30_000, 30_050):
        data[i] ^= 0xFF
    path.write_bytes(data)
    refused(path, staging, "archive_damaged")


def test_damaged_member_of_a_zip_is_named(tmp_path: Path, staging: Path) -> None:
    path = pack(tmp_path / "d.zip", {"good.jpg": os.urandom(5000), "bad.jpg": os.urandom(5000)})
    data = bytearray(path.read_bytes())
    data[8000] ^= 0xFF
    path.write_bytes(data)
    refused(path, staging, "archive_damaged", "bad.jpg")


def test_broken_header_inside_a_tar(tmp_path: Path, staging: Path) -> None:
    """Taken for the end of the archive, it would lose the members behind it without a word."""
    path = pack(tmp_path / "d.tar", {f"{i}.jpg": b"x" for i in range(4)})
    data = bytearray(path.read_bytes())
    data[data.index(b"./2.jpg") + 150] ^= 0xFF  # in the checksum
    path.write_bytes(data)
    refused(path, staging, "archive_damaged")
    assert objects(staging) == {}


@pytest.mark.parametrize("name", NAMES)
def test_no_archive_at_all(name: str, tmp_path: Path, staging: Path) -> None:
    path = tmp_path / name
    path.write_bytes(b"<html>not found</html>")
    refused(path, staging, "archive_damaged")
    path.unlink()
    refused(path, staging, "object_missing")


def test_tar_of_the_system(tmp_path: Path, staging: Path) -> None:
    """GNU tar writes long names in its own way."""
    for key, data in FILES.items():
        open_folder(str(tmp_path / "folder")).write(key, data)
    path = tmp_path / "d.tar.gz"
    subprocess.run(["tar", "-czf", path, "-C", tmp_path / "folder", "."], check=True, timeout=20)
    assert shape(listing(path, staging)) == shape(listing(tmp_path / "folder", staging))


def header(kind: bytes, size: int, name: str = "x") -> bytes:
    member = tarfile.TarInfo(name)
    member.type, member.size = kind, size
    return member.tobuf(tarfile.GNU_FORMAT)


def zeros(stream: IO[bytes], count: int) -> None:
    for _ in range(count >> 20):
        stream.write(bytes(1 << 20))


def pax_of_a_gigabyte(path: Path) -> None:
    with gzip.open(path, "wb", compresslevel=1) as stream:
        stream.write(header(b"x", 1 << 30))
        zeros(stream, 1 << 30)
        stream.write(header(b"0", 0, "a.jpg") + bytes(1024))


def long_name_of_a_gigabyte(path: Path) -> None:
    with gzip.open(path, "wb", compresslevel=1) as stream:
        stream.write(header(b"L", 1 << 30))
        zeros(stream, 1 << 30)
        stream.write(header(b"0", 0, "a.jpg") + bytes(1024))


def global_headers(path: Path) -> None:
    """Each is small; tarfile keeps them all, and hands a copy to each member."""
    with gzip.open(path, "wb", compresslevel=1) as stream:
        for i in range(3000):
            record = f"{i:07d}=".encode() + b"x" * 900
            line = b"%d %s\n" % (len(record) + 5, record)
            stream.write(header(b"g", len(line)) + line.ljust(1024, b"\0") + header(b"0", 0, f"{i}.jpg"))
        stream.write(bytes(1024))


def chain_of_long_names(path: Path) -> None:
    with gzip.open(path, "wb") as stream:
        for _ in range(5000):
            stream.write(header(b"L", 2) + b"a".ljust(512, b"\0"))
        stream.write(header(b"0", 0, "a.jpg") + bytes(1024))


def folders_of_a_tar(path: Path) -> None:
    with gzip.open(path, "wb", compresslevel=1) as stream:
        block = b"".join(header(b"5", 0, f"d{i}") for i in range(2000))
        for _ in range(30):
            stream.write(block)
        stream.write(bytes(1024))


def negative_size(path: Path) -> None:
    block = bytearray(header(b"x", 0))
    block[124:136] = b"\xff" * 12  # -1 in base 256: read() would take all
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    with gzip.open(path, "wb", compresslevel=1) as stream:
        stream.write(block)
        zeros(stream, 1 << 30)


def zip_of(path: Path, entries: int, size: int, packed: bytes, method: int = 8) -> None:
    """A zip whose directory tells the same entry many times, with a size of its own."""
    local = struct.pack("<4s5H3I2H", b"PK\3\4", 20, 0, method, 0, 33, 0, len(packed), size, 5, 0) + b"a.jpg"
    with path.open("wb") as stream:
        stream.write(local + packed)
        start = stream.tell()
        for i in range(entries):
            name = b"a.jpg" if entries == 1 else b"d%07d/" % i
            fields = (b"PK\1\2", 20, 20, 0, method, 0, 33, 0, len(packed), size, len(name), 0, 0, 0, 0, 0, 0)
            stream.write(struct.pack("<4s6H3I5H2I", *fields) + name)
        length = stream.tell() - start
        stream.write(
            struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, entries & 0xFFFF, entries & 0xFFFF, length, start, 0)
        )


def folders_of_a_zip(path: Path) -> None:
    zip_of(path, 1_100_000, 0, b"", 0)


def lying_directory(path: Path) -> None:
    packer = zlib.compressobj(1, zlib.DEFLATED, -15)
    parts = [packer.compress(bytes(1 << 20)) for _ in range(1000)]
    zip_of(path, 1, 1000, b"".join([*parts, packer.flush()]))


CHILD = """
import resource, sys
from clipseg_kfp.dataset.listing import list_sources
from clipseg_kfp.storage import archives, open_folder
from clipseg_kfp.errors import ClipsegKfpError
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
archives.MAX_MEMBERS = int(sys.argv[3])
resource.setrlimit(resource.RLIMIT_AS, (used + (600 << 20),) * 2)
try:
    print(len(list(list_sources(sys.argv[1], open_folder(sys.argv[2])))))
except ClipsegKfpError as error:
    print(error.code)
"""


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (pax_of_a_gigabyte, "archive_header_too_large"),
        (long_name_of_a_gigabyte, "archive_header_too_large"),
        (global_headers, "archive_header_too_large"),
        (chain_of_long_names, "archive_header_too_large archive_damaged"),
        (negative_size, "archive_header_too_large archive_damaged"),
        (folders_of_a_tar, "archive_bomb"),
        (folders_of_a_zip, "archive_bomb"),
        (lying_directory, "archive_damaged"),
    ],
)
def test_bombs_are_refused_in_little_memory(
    make: Callable[[Path], None], code: str, tmp_path: Path, staging: Path
) -> None:
    path = tmp_path / ("d.zip" if make.__name__.endswith(("zip", "directory")) else "d.tgz")
    make(path)
    members = 50_000 if make is folders_of_a_tar else archives.MAX_MEMBERS  # a million take a minute to read
    command = [sys.executable, "-c", CHILD, str(path), str(staging), str(members)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() in code.split(), done.stdout + done.stderr[-2000:]
    assert not list(staging.rglob("index.json"))


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_names_that_are_too_long(kind: str, tmp_path: Path, staging: Path) -> None:
    path = pack(tmp_path / f"d.{kind}", {"x" * 5000 + ".jpg": b"x"})
    with fails("archive_member_name_too_long"):
        listing(path, staging)


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_a_member_that_is_there_twice(kind: str, tmp_path: Path, staging: Path) -> None:
    path = tmp_path / f"d.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a/b.jpg", b"1")
            archive.writestr("a//b.jpg", b"2")
    else:
        with tarfile.open(path, "w") as tar:
            for name in ("a/b.jpg", "./a/b.jpg"):
                tar.addfile(tarfile.TarInfo(name))
    with fails("archive_member_twice"):
        listing(path, staging)


def test_members_that_look_like_leftovers_are_kept(tmp_path: Path, staging: Path) -> None:
    path = pack(tmp_path / "d.zip", {".part-1.jpg": b"x", "a.jpg": b"y"})
    for _ in range(2):
        assert set(listing(path, staging)) == {"a.jpg"}  # the other one is hidden, and counted as such
        names = json.loads(next(staging.rglob("index.json")).read_text())["names"]
        assert list(names.values()) == [".part-1.jpg"]


def test_staging_whose_members_were_removed_is_done_again(tmp_path: Path, staging: Path) -> None:
    path = pack(tmp_path / "d.zip", {f"{i}.jpg": b"%d" % i for i in range(6)})
    first = listing(path, staging)
    for gone in sorted(staging.rglob("*.jpg"))[:3]:
        gone.unlink()
    assert listing(path, staging) == first
    next(staging.rglob("index.json")).write_text("{}")  # as older versions wrote it
    assert listing(path, staging) == first
