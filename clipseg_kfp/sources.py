"""From a data-set URI to the images it names: prefixes, folders, manifest files, archives."""

from __future__ import annotations

import io
import posixpath
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import PurePosixPath

import pandas as pd

from clipseg_kfp import archives
from clipseg_kfp.concurrency import ordered_map
from clipseg_kfp.errors import ParameterError, StorageError
from clipseg_kfp.images import IMAGE_SUFFIXES
from clipseg_kfp.storage import Entry, Folder, open_folder, open_object

MANIFEST_SUFFIXES = (".csv", ".jsonl", ".ndjson", ".parquet")
MAX_MANIFEST_BYTES = 2 << 30
STAT_THREADS = 16


@dataclass(frozen=True)
class GroundTruth:
    """A mask image that says where the prompt of that name really is."""

    prompt: str
    uri: str


@dataclass(frozen=True)
class Source:
    """One image to segment; the columns of ``records.SOURCES``."""

    source: str
    key: str
    uri: str
    version: str
    size: int
    ground_truth: tuple[GroundTruth, ...] = field(default=())

    def row(self) -> dict[str, object]:
        """The row of the table."""
        truth = [vars(item) for item in self.ground_truth]
        return {**vars(self), "ground_truth": truth}


def list_sources(uri: str, staging: Folder, endpoint: str = "") -> Iterator[Source]:
    """Streams the images of a data set.

    Args:
        uri: ``s3://bucket/prefix``, a folder, a manifest file (CSV, JSONL, Parquet) or a zip or tar archive.
        staging: where the members of an archive are laid out.
        endpoint: S3 endpoint URL, as for ``open_folder``.

    Raises:
        ParameterError: a manifest without the needed columns, or an unsafe archive.
        StorageError: nothing there, or not readable.
    """
    if not uri:
        raise ParameterError(
            "source_uri is empty.", "Give s3://bucket/prefix, a folder, a manifest or archive."
        )
    lower = uri.lower()
    if lower.endswith(MANIFEST_SUFFIXES):
        yield from _from_manifest(uri, endpoint)
    elif lower.endswith(archives.SUFFIXES):
        unpacked = archives.stage(uri, staging, endpoint)
        yield from _from_folder(unpacked, shown=f"{uri}!")
    elif PurePosixPath(lower).suffix in IMAGE_SUFFIXES:
        yield from _single(uri, endpoint)
    else:
        yield from _from_folder(open_folder(uri, endpoint))


def _is_image(key: str) -> bool:
    """Objects with another kind of suffix (``.txt``, ``.json``) are not images that failed: they are left out."""
    suffix = PurePosixPath(key).suffix.lower()
    return not suffix or suffix in IMAGE_SUFFIXES


def _from_folder(folder: Folder, shown: str = "") -> Iterator[Source]:
    """All images below a folder.

    Where it has both ``images/`` and ``masks/<prompt>/``, the pictures below the latter are ground truth for
    the image of the same relative path (whatever the suffix of either).
    """
    masks = _masks_by_image(folder)
    prefix = "images/" if masks else ""
    for entry in folder.entries(prefix):
        if not _is_image(entry.key):
            continue
        stem = posixpath.splitext(entry.key.removeprefix("images/"))[0]
        yield Source(
            source=f"{shown}/{entry.key}" if shown else folder.locate(entry.key),
            key=entry.key,
            uri=folder.locate(entry.key),
            version=entry.version,
            size=entry.size,
            ground_truth=tuple(masks.get(stem, ())),
        )


def _masks_by_image(folder: Folder) -> dict[str, list[GroundTruth]]:
    if next(iter(folder.entries("images/")), None) is None:
        return {}
    found: dict[str, list[GroundTruth]] = {}
    for entry in folder.entries("masks/"):
        prompt, slash, rest = entry.key.removeprefix("masks/").partition("/")
        if slash and _is_image(entry.key):
            stem = posixpath.splitext(rest)[0]
            found.setdefault(stem, []).append(GroundTruth(prompt, folder.locate(entry.key)))
    return found


def _single(uri: str, endpoint: str) -> Iterator[Source]:
    folder, key = open_object(uri, endpoint)
    entry = folder.stat(key)
    if entry is None:
        raise StorageError(f"{uri} does not exist.", "Check the URI.")
    yield Source(uri, posixpath.basename(key), uri, entry.version, entry.size)


def _from_manifest(uri: str, endpoint: str) -> Iterator[Source]:
    table = _read_manifest(uri, endpoint)
    base = uri.rpartition("/")[0]

    def absolute(value: str) -> str:
        if "://" in value or value.startswith("/"):
            return value
        return f"{base}/{value}" if base else value

    groups = table.groupby("uri", sort=False)
    wanted: Iterable[tuple[str, tuple[GroundTruth, ...]]] = (
        (
            str(value),
            tuple(
                GroundTruth(str(row.prompt), absolute(str(row.mask_uri)))
                for row in group.itertuples()
                if row.mask_uri and row.prompt
            ),
        )
        for value, group in groups
    )

    def look(item: tuple[str, tuple[GroundTruth, ...]]) -> Source:
        value, truth = item
        place = absolute(value)
        folder, key = open_object(place, endpoint)
        # A missing object stays in the listing: reading it puts it into quarantine, by name.
        entry = folder.stat(key) or Entry(key, 0, "")
        name = value if "://" not in value else value.partition("://")[2]
        return Source(place, name.lstrip("/"), place, entry.version, entry.size, truth)

    yield from ordered_map(look, wanted, STAT_THREADS)


def _read_manifest(uri: str, endpoint: str) -> pd.DataFrame:
    folder, key = open_object(uri, endpoint)
    data = io.BytesIO(folder.read(key, limit=MAX_MANIFEST_BYTES))
    lower = uri.lower()
    try:
        if lower.endswith(".csv"):
            table = pd.read_csv(data, dtype=str, keep_default_na=False, encoding="utf-8-sig")
        elif lower.endswith(".parquet"):
            table = pd.read_parquet(data)
        else:
            table = pd.read_json(data, lines=True, dtype=False, convert_dates=False)
    except (ValueError, OSError, pd.errors.ParserError) as error:  # arrow's errors are ValueErrors
        raise ParameterError(f"The manifest {uri} cannot be read: {error}") from error
    if table.empty:
        return pd.DataFrame(columns=["uri", "mask_uri", "prompt"])
    if "uri" not in table.columns:
        columns = ", ".join(map(str, table.columns))
        raise ParameterError(f"The manifest {uri} has no column 'uri' (it has: {columns}).")
    for column in ("mask_uri", "prompt"):
        if column not in table.columns:
            table[column] = ""
    table = table[["uri", "mask_uri", "prompt"]].fillna("").astype(str)
    empty = table.index[table["uri"].str.strip() == ""]
    if len(empty):
        raise ParameterError(f"The manifest {uri} has no uri in row {int(empty[0]) + 1}.")
    alone = table.index[(table["mask_uri"] != "") & (table["prompt"] == "")]
    if len(alone):
        raise ParameterError(
            f"The manifest {uri} has a mask_uri without a prompt in row {int(alone[0]) + 1}.",
            "Name the prompt that the mask belongs to.",
        )
    return table
