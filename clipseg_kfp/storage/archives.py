"""Zip and tar archives as data sets: members are unpacked as objects once, then listed like any prefix."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import posixpath
import re
import stat
import struct
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from clipseg_kfp.errors import ParameterError, StorageError
from clipseg_kfp.naming import digest, safe_key
from clipseg_kfp.storage.base import Folder, missing, open_object, replaced

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
MAX_MEMBER_BYTES = 256 << 20
MAX_MEMBERS = 1_000_000  # with folders
MAX_HEADER_BYTES = 1 << 20  # of one member in a tar, with its long names and extended headers
MAX_DIRECTORY_BYTES = 128 << 20  # of a zip; all of it is read at once
MAX_NAME_BYTES = 4096
MAX_NAMES_BYTES = 128 << 20  # of all members together
MAX_XZ_BYTES = 128 << 20  # that its decompressor needs; 65 MiB at the highest level of xz
MAX_RATIO = 200  # of unpacked to packed bytes; images hardly compress
RATIO_FREE_BYTES = 64 << 20  # below this, no ratio is suspicious

_INDEX = "index.json"  # written last: without it, an attempt was interrupted
_INDEX_LIMIT = 2 << 30
_CHUNK = 1 << 20
_ZIP_ENTRY = b"PK\1\2"  # begins each entry of a zip's directory
_TEMPORARY = ".part-"  # how files in the making are called in folders; listings leave them out
_DRIVE = re.compile("[A-Za-z]:")
_MADE_ON_DOS = 0  # ZipInfo.create_system of programs that may write backslashes between folders
_ENCRYPTED = 1  # bit of ZipInfo.flag_bits


@dataclass(frozen=True)
class UnpackedArchive:
    """An archive whose members lie in a store as objects.

    Attributes:
        folder: holds the objects.
        names: member names by object key, where the two differ.
    """

    folder: Folder
    names: dict[str, str]

    def name(self, key: str) -> str:
        """The name in the archive of an object's member."""
        return self.names.get(key, key)


def unpack(uri: str, staging: Folder, endpoint: str = "") -> UnpackedArchive:
    """Unpacks an archive's files below ``staging``.

    The folder's name derives from the archive's version: an unchanged archive is unpacked once, a changed one
    again. All headers are checked before anything is unpacked.

    Raises:
        ParameterError: a member with an unsafe name, a link or a device, an encrypted member, or a
            decompression bomb.
        StorageError: the archive is missing or damaged.
    """
    source, key = open_object(uri, endpoint)
    entry = source.stat(key)
    if entry is None:
        raise missing(uri)
    place = staging.child(digest([uri, entry.version]))
    files = place.child("files")
    if (names := _complete(place, files)) is not None:
        return UnpackedArchive(files, names)
    if (
        place.stat(_INDEX) is not None
    ):  # it marks what is no longer there; to delete it takes a right of its own
        place.write(_INDEX, b"{}", "application/json")
    with tempfile.TemporaryDirectory() as folder:
        local = Path(folder, "archive")
        source.download(key, local)
        now = source.stat(key)
        if now is None or now.version != entry.version:
            raise replaced(uri)
        index = _write_members(local, uri, files)
    place.write(_INDEX, json.dumps(vars(index)).encode(), "application/json")
    return UnpackedArchive(files, index.names)


@dataclass
class _Index:
    """What an unpacked archive has; written last.

    Attributes:
        members: how many objects.
        bytes: of all objects together.
        names: member names by object key, where the two differ.
    """

    members: int
    bytes: int
    names: dict[str, str]


def _complete(place: Folder, files: Folder) -> dict[str, str] | None:
    """The index's names if all that it speaks of is there; somebody may have removed members since."""
    if place.stat(_INDEX) is None:
        return None
    try:
        index = _Index(**json.loads(place.read(_INDEX, limit=_INDEX_LIMIT)))
    except (ValueError, TypeError):  # damaged, or of an older version
        return None
    if not index.members:
        return index.names
    there = [entry.size for entry in files.names() if not _is_temporary(entry.key)]
    return index.names if (len(there), sum(there)) == (index.members, index.bytes) else None


def _is_temporary(key: str) -> bool:
    return posixpath.basename(key).startswith(_TEMPORARY)


def _write_members(local: Path, uri: str, files: Folder) -> _Index:
    """Writes every member as an object."""
    index = _Index(0, 0, {})
    owners: dict[str, str] = {}
    for name, content in _members(local, uri):
        key = safe_key(name)
        # the store's file system may ignore case
        if owners.setdefault(key.lower(), name) != name or _is_temporary(key):
            key = f"~~{digest(name, 32)}"  # no safe key begins like this
        files.write(key, content)
        index.members += 1
        index.bytes += len(content)
        if key != name:
            index.names[key] = name
    return index


def _members(local: Path, uri: str) -> Iterator[tuple[str, bytes]]:
    with local.open("rb") as stream:
        is_zip = stream.read(2) == b"PK"  # the head decides: a tar may end with a zip
    yield from _zip_members(local, uri) if is_zip else _tar_members(local, uri)


def _zip_members(local: Path, uri: str) -> Iterator[tuple[str, bytes]]:
    checks = _Checks(uri, local.stat().st_size)
    with _reported(uri), local.open("rb") as raw, zipfile.ZipFile(_ZipReader(raw, checks)) as archive:
        infos = []
        for info in archive.infolist():
            checks.name(_zip_name(info))
            if info.is_dir():
                continue
            if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG):
                raise checks.not_a_file(info.filename)
            if info.flag_bits & _ENCRYPTED:
                raise checks.refusal(
                    "encrypted", info.filename, "is encrypted", "Pack it without a password."
                )
            checks.file(_zip_name(info), info.file_size)
            infos.append(info)
        for info in infos:
            with _reported(uri, info.filename), archive.open(info) as stream:
                # zipfile bounds what it unpacks at once with deflate only.
                step = _CHUNK if info.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) else 4096
                content = b"".join(iter(lambda: stream.read(step), b""))  # noqa: B023
            yield posixpath.normpath(_zip_name(info)), content


def _zip_name(info: zipfile.ZipInfo) -> str:
    return info.filename.replace("\\", "/") if info.create_system == _MADE_ON_DOS else info.filename


def _tar_members(local: Path, uri: str) -> Iterator[tuple[str, bytes]]:
    checks = _Checks(uri, local.stat().st_size)
    with _reported(uri), _opened_tar(local, checks) as (archive, reader, stream):
        for member in _headers(archive, reader, checks):
            checks.name(member.name)
            if member.isdir():
                continue
            if not member.isfile():
                raise checks.not_a_file(member.name)
            checks.file(member.name, member.size)
        # tarfile takes a broken header for the end
        reader.allow()
        reader.seek(archive.offset)
        if any(reader.read(tarfile.BLOCKSIZE)):
            raise tarfile.ReadError(f"the header at byte {archive.offset:,} is broken")
        while block := stream.read(_CHUNK):  # compressed streams end with a checksum
            checks.add(len(block), "the padding at its end")
    with _reported(uri), _opened_tar(local, checks) as (archive, reader, stream):
        for member in _headers(archive, reader, checks):
            with _reported(uri, member.name):
                opened = archive.extractfile(member)
                if opened is None:
                    continue
                reader.allow(member.size + MAX_HEADER_BYTES)
                content = opened.read(member.size)
                if len(content) < member.size:
                    raise EOFError(f"{len(content):,} of {member.size:,} bytes")
            yield posixpath.normpath(member.name), content


@contextmanager
def _opened_tar(local: Path, checks: _Checks) -> Iterator[tuple[tarfile.TarFile, _TarReader, IO[bytes]]]:
    with (
        _unpacked(local) as stream,
        _TarReader(stream, checks) as reader,
        tarfile.open(fileobj=reader, mode="r:") as archive,
    ):
        yield archive, reader, stream


def _headers(archive: tarfile.TarFile, reader: _TarReader, checks: _Checks) -> Iterator[tarfile.TarInfo]:
    """The members one by one; tarfile itself would keep all of them, with all their headers."""
    while True:
        reader.allow()
        member = archive.next()
        if member is None:
            return
        if sum(len(name) + len(value) for name, value in archive.pax_headers.items()) > MAX_HEADER_BYTES:
            raise checks.header()
        archive.members.clear()  # type: ignore[attr-defined]
        yield member


@contextmanager
def _unpacked(local: Path) -> Iterator[IO[bytes]]:
    """The archive as a stream without compression, whatever its name says."""
    with local.open("rb") as raw:
        head = raw.read(6)
        raw.seek(0)
        if head.startswith(b"\x1f\x8b"):
            with gzip.GzipFile(fileobj=raw) as unzipped:
                yield cast(IO[bytes], unzipped)
        elif head.startswith(b"BZh"):
            with bz2.BZ2File(raw) as unzipped_bz2:
                yield unzipped_bz2
        elif head.startswith((b"\xfd7zXZ", b"]\0\0")):
            # Fails where the first block needs too much memory; LZMAFile takes no such limit.
            lzma.LZMADecompressor(memlimit=MAX_XZ_BYTES).decompress(raw.read(4096), 1)
            raw.seek(0)
            with lzma.LZMAFile(raw) as unzipped_xz:
                yield unzipped_xz
        else:
            yield raw


class _TarReader(io.RawIOBase):
    """Refuses what tarfile would read at once because a header says so: it reads extended headers whole."""

    def __init__(self, stream: IO[bytes], checks: _Checks) -> None:
        self._stream = stream
        self._checks = checks
        self.allow()

    def allow(self, count: int | None = None) -> None:
        """Sets how many bytes may be read from here on."""
        self._left = MAX_HEADER_BYTES if count is None else count

    def read(self, size: int = -1) -> bytes:
        if size < 0 or size > self._left:
            raise self._checks.header()
        data = self._stream.read(size)
        self._left -= len(data)
        return data

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        return self._stream.tell()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True


class _ZipReader(io.RawIOBase):
    """Refuses a directory of too many bytes or entries before zipfile makes objects of them."""

    def __init__(self, stream: IO[bytes], checks: _Checks) -> None:
        self._stream = stream
        self._checks = checks

    def read(self, size: int = -1) -> bytes:
        if size > MAX_DIRECTORY_BYTES:
            raise self._checks.header()
        data = self._stream.read(MAX_DIRECTORY_BYTES + 1 if size < 0 else size)
        if size < 0 and len(data) > MAX_DIRECTORY_BYTES:
            raise self._checks.header()
        if data.startswith(_ZIP_ENTRY) and data.count(_ZIP_ENTRY) > MAX_MEMBERS:
            raise self._checks.bomb("its directory")
        return data

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        return self._stream.tell()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True


class _Checks:
    """What an archive's headers must comply with; checked before anything is unpacked."""

    def __init__(self, uri: str, archive_bytes: int) -> None:
        self._uri = uri
        self._budget = max(RATIO_FREE_BYTES, MAX_RATIO * archive_bytes)
        self._count = self._total = self._names = 0
        self._seen: dict[str, str] = {}

    def refusal(self, code: str, member: str, what: str, remedy: str) -> ParameterError:
        shown = member if len(member) <= 300 else f"{member[:300]}…"
        message = f"{self._uri}: the member '{shown}' {what}."
        return ParameterError(
            message, remedy, code=f"archive_member_{code}", where=f"{self._uri}!/{shown.removeprefix('./')}"
        )

    def not_a_file(self, member: str) -> ParameterError:
        return self.refusal("not_a_file", member, "is a link or a device", "Pack plain files only.")

    def header(self) -> ParameterError:
        return ParameterError(
            f"{self._uri} has a header that is larger than any real one.",
            "It looks like a decompression bomb; upload the images themselves.",
            code="archive_header_too_large",
            where=self._uri,
        )

    def name(self, name: str) -> None:
        """Checks and counts any entry, also that of a folder."""
        self._count += 1
        length = len(name.encode("utf-8", "surrogateescape"))
        self._names += length
        if length > MAX_NAME_BYTES:
            what = f"has a name of more than {MAX_NAME_BYTES:,} bytes"
            raise self.refusal("name_too_long", name, what, "Pack it with a shorter name.")
        parts = name.replace("\\", "/").split("/")
        if name.startswith(("/", "\\")) or ".." in parts or "\0" in name or _DRIVE.match(name):
            raise self.refusal("unsafe", name, "has an unsafe name", "Pack it with relative names.")
        if self._count > MAX_MEMBERS or self._names > MAX_NAMES_BYTES:
            raise self.bomb(f"the member '{name}'")

    def file(self, name: str, size: int) -> None:
        other = self._seen.get(posixpath.normpath(name))
        if other is not None:
            what = "is there twice" if other == name else f"has the same place as '{other}'"
            raise self.refusal("twice", name, what, "Pack each file once, under a name of its own.")
        self._seen[posixpath.normpath(name)] = name
        if size > MAX_MEMBER_BYTES:
            what = f"is larger than {MAX_MEMBER_BYTES:,} bytes"
            raise self.refusal("too_large", name, what, "Leave it out of the archive.")
        self.add(size, f"the member '{name}'")

    def add(self, size: int, what: str) -> None:
        self._total += size
        if self._total > self._budget:
            raise self.bomb(what)

    def bomb(self, what: str) -> ParameterError:
        return ParameterError(
            f"{self._uri} unpacks to more than {MAX_RATIO} times its size or {MAX_MEMBERS:,} members, "
            f"as of {what}.",
            "It looks like a decompression bomb; upload the images themselves.",
            code="archive_bomb",
            where=self._uri,
        )


@contextmanager
def _reported(uri: str, member: str = "") -> Iterator[None]:
    """Turns what zipfile, tarfile and the decompressors raise into errors that name archive and member."""
    name = f"The member '{member}' of the archive {uri}" if member else f"The archive {uri}"
    where = f"{uri}!/{member}" if member else uri
    try:
        yield
    except NotImplementedError as error:
        message = f"{name} cannot be unpacked: {error}."
        raise StorageError(
            message, "Pack it with deflate.", code="archive_unsupported", where=where
        ) from error
    except (
        zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, OSError, RecursionError, ValueError,
        struct.error,
    ) as error:  # fmt: skip
        if isinstance(error, OSError) and error.errno is not None:  # the disk; gzip and bz2 give no number
            raise
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        message = f"{name} is damaged: {reason}."
        raise StorageError(message, "Pack it again.", code="archive_damaged", where=where) from error
