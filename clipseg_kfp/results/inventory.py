"""What a committed run consists of: the objects that its manifest and tables name."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from clipseg_kfp import records
from clipseg_kfp.results.commit import Results, file_key
from clipseg_kfp.results.layout import IMAGES, MANIFEST, MASKS, run_key


@dataclass(frozen=True)
class Named:
    """An object that a run names.

    Attributes:
        key: below the configuration's folder.
        sha256: of its bytes; empty where only its name is told.
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
    for table, columns in _OBJECTS.items():
        key = file_key(manifest, table)
        if not key:
            continue
        wanted = [column + end for column in columns for end in ("", "_sha256", "_bytes")]
        with local_copy(results, key) as path:
            if missing := set(wanted) - set(pq.read_schema(path).names):  # readers would pass over them
                raise KeyError(f"{table} has no column {min(missing)}")
            for row in records.read_parquet(path, columns=wanted):
                for column in columns:
                    if row[column]:
                        yield Named(row[column], row[f"{column}_sha256"], row[f"{column}_bytes"])


@contextmanager
def local_copy(results: Results, key: str) -> Iterator[Path]:
    """A table on the local disk: a run's may be larger than memory."""
    with tempfile.TemporaryDirectory(prefix="clipseg-kfp-") as folder:
        path = Path(folder, "object")
        results.folder.download(key, path)
        yield path
