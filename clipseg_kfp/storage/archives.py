"""Zip and tar archives as data sets: members are unpacked as objects once, then listed like any prefix."""

from __future__ import annotations

import json
import lzma
import posixpath
import re
import stat
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from clipseg_kfp.errors import ParameterError, StorageError
from clipseg_kfp.naming import digest, safe_key
from clipseg_kfp.storage.base import Folder, missing, open_object, replaced

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
MAX_MEMBER_BYTES = 256 << 20
MAX_MEMBERS = 1_000_000
MAX_RATIO = 200  # of unpacked to packed bytes; images hardly compress
RATIO_FREE_BYTES = 64 << 20  # below this, no ratio is suspicious

_INDEX = "index.json"  # written last: without it, an attempt was interrupted
_INDEX_LIMIT = 2 << 30
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
    if place.stat(_INDEX):
        return UnpackedArchive(files, json.loads(place.read(_INDEX, limit=_INDEX_LIMIT)))
    with tempfile.TemporaryDirectory() as folder:
        local = Path(folder, "archive")
        source.download(key, local)
        now = source.stat(key)
        if now is None or now.version != entry.version:
            raise replaced(uri)
        names = _write_members(local, uri, files)
    place.write(_INDEX, json.dumps(names).encode(), "application/json")
    return UnpackedArchive(files, names)


def _write_members(local: Path, uri: str, files: Folder) -> dict[str, str]:
    """Writes every member as an object. Returns the names of members whose objects are called otherwise."""
    names: dict[str, str] = {}
    owners: dict[str, str] = {}
    for name, content in _members(local, uri):
        key = safe_key(name)
        if owners.setdefault(key.lower(), name) != name:  # the store's file system may ignore case
            key = f"~~{digest(name, 32)}"  # no safe key begins like this
        files.write(key, content)
        if key != name:
            names[key] = name
    return names


def _members(local: Path, uri: str) -> Iterator[tuple[str, bytes]]:
    with local.open("rb") as stream:
        is_zip = stream.read(2) == b"PK"  # the head decides: a tar may end with a zip
    yield from _zip_members(local, uri) if is_zip else _tar_members(local, uri)


def _zip_members(local: Path, uri: str) -> Iterator[tuple[str, bytes]]:
    with _reported(uri), zipfile.ZipFile(local) as archive:
        checks = _Checks(uri, local.stat().st_size)
        infos = [info for info in archive.infolist() if not info.is_dir()]
        for info in infos:
            checks.name(_zip_name(info))
            checks.unique(_zip_name(info))
            if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG):
                raise checks.not_a_file(info.filename)
            if info.flag_bits & _ENCRYPTED:
                raise checks.refusal(
                    "encrypted", info.filename, "is encrypted", "Pack it without a password."
                )
            checks.size(info.filename, info.file_size)
        for info in infos:
            with _reported(uri, info.filename):
                content = archive.read(info)
            yield posixpath.normpath(_zip_name(info)), content


def _zip_name(info: zipfile.ZipInfo) -> str:
    return info.filename.replace("\\", "/") if info.create_system == _MADE_ON_DOS else info.filename


def _tar_members(local: Path, uri: str) -> Iterator[tuple[str, bytes]]:
    checks = _Checks(uri, local.stat().st_size)
    with _reported(uri), tarfile.open(local) as archive:
        for member in archive:
            checks.name(member.name)
            if member.isdir():
                continue
            if not member.isfile():
                raise checks.not_a_file(member.name)
            checks.unique(member.name)
            checks.size(member.name, member.size)
        if archive.fileobj is not None:  # tarfile takes a broken header for the end
            archive.fileobj.seek(archive.offset)
            if any(archive.fileobj.read(tarfile.BLOCKSIZE)):
                raise tarfile.ReadError(f"the header at byte {archive.offset:,} is broken")
            while block := archive.fileobj.read(1 << 20):  # compressed streams end with a checksum
                checks.add(len(block), "the padding at its end")
    with _reported(uri), tarfile.open(local) as archive:
        for member in archive:
            with _reported(uri, member.name):
                stream = archive.extractfile(member)
                content = stream.read() if stream is not None else None
            if content is not None:
                yield posixpath.normpath(member.name), content


class _Checks:
    """What an archive's headers must comply with; checked before anything is unpacked."""

    def __init__(self, uri: str, archive_bytes: int) -> None:
        self._uri = uri
        self._budget = max(RATIO_FREE_BYTES, MAX_RATIO * archive_bytes)
        self._count = self._total = 0
        self._names: dict[str, str] = {}
        self._files = 0

    def refusal(self, code: str, member: str, what: str, remedy: str) -> ParameterError:
        message = f"{self._uri}: the member '{member}' {what}."
        return ParameterError(
            message, remedy, code=f"archive_member_{code}", where=f"{self._uri}!/{member.removeprefix('./')}"
        )

    def not_a_file(self, member: str) -> ParameterError:
        return self.refusal("not_a_file", member, "is a link or a device", "Pack plain files only.")

    def name(self, name: str) -> None:
        parts = name.replace("\\", "/").split("/")
        if name.startswith(("/", "\\")) or ".." in parts or "\0" in name or _DRIVE.match(name):
            raise self.refusal("unsafe", name, "has an unsafe name", "Pack it with relative names.")

    def unique(self, name: str) -> None:
        """Refuses files of which one would take the other's place: of one name, or of names such as a/b and a//b."""
        other = self._names.setdefault(posixpath.normpath(name), name)
        if len(self._names) <= self._files:
            what = "is there twice" if other == name else f"has the same place as '{other}'"
            raise self.refusal("twice", name, what, "Pack each file once, under a name of its own.")
        self._files += 1

    def size(self, name: str, size: int) -> None:
        self._count += 1
        if size > MAX_MEMBER_BYTES:
            what = f"is larger than {MAX_MEMBER_BYTES:,} bytes"
            raise self.refusal("too_large", name, what, "Leave it out of the archive.")
        self.add(size, f"the member '{name}'")

    def add(self, size: int, what: str) -> None:
        self._total += size
        if self._total > self._budget or self._count > MAX_MEMBERS:
            raise ParameterError(
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
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # the disk; gzip and bz2 give no number
            raise
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        message = f"{name} is damaged: {reason}."
        raise StorageError(message, "Pack it again.", code="archive_damaged", where=where) from error
