"""Zip and tar archives as data sets: members are laid out as objects once, then listed like any prefix."""

from __future__ import annotations

import posixpath
import stat
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from clipseg_kfp.errors import ParameterError, StorageError
from clipseg_kfp.naming import digest, safe_key
from clipseg_kfp.storage import Folder, open_object

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
MAX_MEMBER_BYTES = 256 << 20
MAX_MEMBERS = 1_000_000
MAX_RATIO = 200  # of all members' bytes to the archive's; images hardly compress
RATIO_FREE_BYTES = 64 << 20  # below this, no ratio is suspicious
_COMPLETE = "complete.json"


def stage(uri: str, staging: Folder, endpoint: str = "") -> Folder:
    """Lays out an archive's files below ``staging`` and returns the folder that holds them.

    The folder's name derives from the archive's version: an unchanged archive is unpacked once, a changed one
    anew. A marker is written last, so an interrupted attempt is not taken for a whole one.

    Raises:
        ParameterError: a member with an absolute or ``..`` name, a link or a device, or a bomb; nothing of the
            archive is used then.
        StorageError: the archive is missing or damaged.
    """
    source, key = open_object(uri, endpoint)
    entry = source.stat(key)
    if entry is None:
        raise StorageError(f"The archive {uri} does not exist.", "Check the URI.")
    place = staging.child(digest([uri, entry.version]))
    files = place.child("files")
    if place.stat(_COMPLETE):
        return files
    with tempfile.TemporaryDirectory() as folder:
        local = Path(folder, "archive")
        source.download(key, local)
        try:
            for name, content in _members(local, uri):
                files.write(safe_key(name), content)
        except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, NotImplementedError) as error:
            raise StorageError(f"The archive {uri} is damaged: {error}", "Pack it again.") from error
        except RuntimeError as error:  # zipfile's way of asking for a password
            raise ParameterError(f"The archive {uri} cannot be opened: {error}") from error
    place.write(_COMPLETE, b"{}\n", "application/json")
    return files


def _members(path: Path, uri: str) -> Iterator[tuple[str, bytes]]:
    budget = max(RATIO_FREE_BYTES, MAX_RATIO * path.stat().st_size)
    count = total = 0
    for name, stream in _open_zip(path, uri) if zipfile.is_zipfile(path) else _open_tar(path, uri):
        content = stream.read(MAX_MEMBER_BYTES + 1)
        count, total = count + 1, total + len(content)
        if len(content) > MAX_MEMBER_BYTES:
            raise ParameterError(f"{uri}: the member '{name}' is larger than {MAX_MEMBER_BYTES:,} bytes.")
        if total > budget or count > MAX_MEMBERS:
            raise ParameterError(
                f"{uri} unpacks to more than {MAX_RATIO} times its size or {MAX_MEMBERS:,} members.",
                "It looks like a decompression bomb; upload the images themselves.",
            )
        yield name, content


def _open_zip(path: Path, uri: str) -> Iterator[tuple[str, IO[bytes]]]:
    with zipfile.ZipFile(path) as archive:
        infos = [info for info in archive.infolist() if not info.is_dir()]
        for info in infos:  # all names first: an unsafe archive leaves nothing behind
            _check_name(info.filename, uri)
            if stat.S_ISLNK(info.external_attr >> 16):
                raise ParameterError(f"{uri}: the member '{info.filename}' is a link.")
        for info in infos:
            with archive.open(info) as stream:
                yield info.filename, stream


def _open_tar(path: Path, uri: str) -> Iterator[tuple[str, IO[bytes]]]:
    with tarfile.open(path) as archive:
        for member in archive:
            _check_name(member.name, uri)
            if member.isdir():
                continue
            if not member.isfile():
                raise ParameterError(f"{uri}: the member '{member.name}' is a link or a device.")
    with tarfile.open(path) as archive:
        for member in archive:
            stream = archive.extractfile(member)
            if stream is not None:
                yield posixpath.normpath(member.name), stream


def _check_name(name: str, uri: str) -> None:
    parts = name.replace("\\", "/").split("/")
    if name.startswith(("/", "\\")) or ".." in parts or "\0" in name or parts[0].endswith(":"):
        raise ParameterError(
            f"{uri}: the member '{name}' has an unsafe name.", "Pack it with relative names."
        )
