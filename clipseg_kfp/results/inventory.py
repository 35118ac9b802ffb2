"""What a committed run consists of: the objects that its manifest and tables name."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from clipseg_kfp import records
from clipseg_kfp.errors import StorageError
from clipseg_kfp.results.commit import READERS, Results, file_key
from clipseg_kfp.results.layout import IMAGES, MANIFEST, MASKS, run_key
from clipseg_kfp.runtime.concurrency import ordered_map


@dataclass(frozen=True)
class Named:
    """An object that a run names.

    Attributes:
        key: below the configuration's folder.
        sha256: of its bytes; empty where that is not known.
        bytes: its size.
    """

    key: str
    sha256: str = ""
    bytes: int = 0


_OBJECTS = {IMAGES: ("label_map", "overlay"), MASKS: ("mask", "probability")}


def files_of(manifest: dict[str, Any]) -> Iterator[Named]:
    """The run's own files, the manifest last."""
    for file in manifest["files"]:
        yield Named(run_key(manifest["run"], file["name"]), file["sha256"], file["bytes"])
    yield Named(run_key(manifest["run"], MANIFEST))


def objects_of(results: Results, manifest: dict[str, Any]) -> Iterator[Named]:
    """Masks, label maps, overlays and probability maps, as the run's tables name them.

    Raises:
        StorageError: a table is missing or cannot be read.
        KeyError: a table has other columns.
        pyarrow.ArrowException: a table is damaged.
    """
    for table in _OBJECTS:
        if key := file_key(manifest, table):
            with local_copy(results, key) as path:
                yield from _named_by(path, table)


def _named_by(path: Path, table: str) -> Iterator[Named]:
    columns = _OBJECTS[table]
    wanted = [column + end for column in columns for end in ("", "_sha256", "_bytes")]
    if missing := set(wanted) - set(pq.read_schema(path).names):  # readers would pass over them
        raise KeyError(f"{table} has no column {min(missing)}")
    for row in records.read_parquet(path, columns=wanted):
        for column in columns:
            if row[column]:
                yield Named(row[column], row[f"{column}_sha256"], row[f"{column}_bytes"])


def check_present(results: Results, shards: Sequence[Path]) -> None:
    """Raises ``StorageError`` where an object is gone that a run is about to name; arguments as ``missing``."""
    if key := missing(results, shards):
        raise gone(results, key)


def missing(results: Results, shards: Sequence[Path]) -> str:
    """The key of an object that tables name and that does not exist; empty where all do.

    Args:
        results: of the configuration.
        shards: folders with tables of images and masks.
    """
    keys = (named.key for shard in shards for table in _OBJECTS for named in _named_by(shard / table, table))

    def look(key: str) -> tuple[str, bool]:
        return key, results.folder.stat(key) is not None

    return next((key for key, there in ordered_map(look, keys, READERS) if not there), "")


def gone(results: Results, key: str) -> StorageError:
    """The error for an object that a run is about to name and that does not exist any more."""
    return StorageError(
        f"{results.folder.locate(key)} is gone: somebody emptied the output, or 'results gc' removed the object.",
        "Nothing was committed. Run again. Give 'results gc' an age above that of your longest run.",
        code="result_gone",
        where=key,
    )


@contextmanager
def local_copy(results: Results, key: str) -> Iterator[Path]:
    """Downloads a file, which may be larger than memory, for as long as the context is open."""
    with tempfile.TemporaryDirectory(prefix="clipseg-kfp-") as folder:
        path = Path(folder, "object")
        results.folder.download(key, path)
        yield path
