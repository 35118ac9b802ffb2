"""What committed runs have done, read from their manifests and tables.

The truth is each run's ``images.parquet``. As runs add up, publish_results gathers them into one table, a
**snapshot**, which names the manifests that it covers and the version of each. A reader lists the manifests, takes
the rows of the largest snapshot for runs that are unchanged, and reads the other runs one by one. Without a sound
snapshot it reads all runs: slower, with the same result.

In memory an image version is two digests of 16 bytes, the number of its run and two flags.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from operator import ge
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from clipseg_kfp import records
from clipseg_kfp.errors import ObjectChangedError, StorageError
from clipseg_kfp.naming import digest
from clipseg_kfp.records import parse_parquet
from clipseg_kfp.results.commit import READERS, Results, commit_order, facts_of, file_key
from clipseg_kfp.results.inventory import Named, files_of, local_copy
from clipseg_kfp.results.layout import IMAGES, LEDGER, QUARANTINE, image_id
from clipseg_kfp.runtime.concurrency import ordered_map
from clipseg_kfp.runtime.progress import say

STEP = "ledger"
#: A snapshot is due when more runs or images than these are in none.
UNCOVERED_RUNS, UNCOVERED_IMAGES = 32, 100_000
NEW, DONE, QUARANTINED = 0, 1, 2
#: Reasons of a quarantine that may pass: a store that refused, a busy machine, a pod short of memory.
UNSETTLED = ("unreadable", "changed", "timeout", "crashed")
_METADATA = b"clipseg-kfp"
_READERS_OF_TABLES = 4  # each may hold the table of a whole run

Ids = NDArray[np.bytes_]  # of ``image_id``
_ROW = np.dtype(
    [("image", "S16"), ("name", "S16"), ("run", np.int32), ("done", np.bool_), ("settled", np.bool_)]
)
_Rows = NDArray[np.void]  # of ``_ROW``; ``run`` is a place in the list of runs


@dataclass(frozen=True)
class Run:
    """A committed run.

    Attributes:
        manifest: key of its manifest.
        version: the manifest's, as the store tells it.
        run: the run's ID.
        created: when its first attempt began.
        source: what it listed, without a slash at the end.
        images: key of its table of images.
        bytes: that table's size.
        sha256: that table's.
        parts: keys of its parts.
        sequence: its number in the order of commits; 0 where an earlier version wrote it.
        reader: as ``reader_of``: what read its images.
    """

    manifest: str
    version: str
    run: str
    created: str
    source: str
    images: str
    bytes: int
    sha256: str
    parts: Sequence[str] = ()
    sequence: int = 0
    reader: Sequence[float] = ()

    @property
    def order(self) -> tuple[int, str, str]:
        """As ``commit_order``."""
        return commit_order(vars(self))


class Ledger:
    """What committed runs had done when it was read.

    Attributes:
        runs: committed runs.
        uncovered: runs that no snapshot covers.
        overdue: whether a new snapshot is due.
    """

    def __init__(self, results: Results, runs: list[Run], rows: _Rows, uncovered: int, loose: int) -> None:
        self.runs = runs
        self.uncovered = uncovered
        self.overdue = uncovered > UNCOVERED_RUNS or loose > UNCOVERED_IMAGES
        self._results, self._rows = results, rows

    @classmethod
    def read(cls, results: Results) -> Ledger:
        """Reads snapshot, manifests and tables.

        Raises:
            StorageError: a manifest or a table of a committed run cannot be read.
        """
        versions = dict(_versions(results))
        runs, rows = _snapshot(results, versions)
        covered = {run.manifest for run in runs}
        loose = [(key, version) for key, version in versions.items() if key not in covered]
        found = ordered_map(lambda item: _run(results, *item), loose, READERS)
        new = [run for run in found if run is not None]
        numbered = enumerate(new, start=len(runs))
        tables = ordered_map(lambda item: _table(results, *item), numbered, _READERS_OF_TABLES, 0)
        whole = np.concatenate([rows, *tables])
        return cls(results, runs + new, whole, len(new), len(whole) - len(rows))

    @cached_property
    def done(self) -> Ids:
        """Digests of the image versions that are done, sorted."""
        return np.sort(self._rows["image"][self._rows["done"]])

    @cached_property
    def quarantined(self) -> Ids:
        """Digests of the image versions that were set aside; some of them may be done since."""
        return np.sort(self._rows["image"][~self._rows["done"]])

    @cached_property
    def parts(self) -> frozenset[str]:
        """Keys of the parts that committed runs name."""
        return frozenset(part for run in self.runs for part in run.parts)

    @cached_property
    def _ranks(self) -> NDArray[np.intp]:
        """Each run's place among all, the earliest first."""
        places = sorted(range(len(self.runs)), key=lambda i: self.runs[i].order)
        return np.argsort(np.array(places, np.intp))

    @property
    def sequence(self) -> int:
        """The highest number in the order of commits; 0 without any."""
        return max((run.sequence for run in self.runs), default=0)

    @cached_property
    def _latest(self) -> tuple[Ids, NDArray[np.intp]]:
        """Digests of all image versions, sorted, and the rank of the latest run of each."""
        ranks, images = self._ranks[self._rows["run"]], self._rows["image"]
        order = np.lexsort((-ranks, images))
        known, first = np.unique(images[order], return_index=True)
        return known, ranks[order][first]

    def turns(self, images: Iterable[tuple[str, str]]) -> list[int]:
        """The turn of each (key, version): 0 where no run has seen it, else lower the longer ago that was."""
        ids, (known, ranks) = ids_of(image_id(*image) for image in images), self._latest
        if not len(known):
            return [0] * len(ids)
        places = np.minimum(np.searchsorted(known, ids), len(known) - 1)
        turns: list[int] = np.where(known[places] == ids, 1 + ranks[places], 0).tolist()
        return turns

    def states(self, images: Iterable[tuple[str, str]]) -> list[int]:
        """Tells ``NEW``, ``DONE`` or ``QUARANTINED`` of each (key, version)."""
        ids = ids_of(image_id(*image) for image in images)
        done, set_aside = among(ids, self.done), among(ids, self.quarantined)
        states: list[int] = np.where(done, DONE, np.where(set_aside, QUARANTINED, NEW)).tolist()
        return states

    def known_bad(self, reader: Sequence[float]) -> Ids:
        """Digests of the image versions that would be quarantined again, sorted.

        Args:
            reader: as ``reader_of``: what would read them. A newer one than before, or one that takes larger images,
                may succeed.
        """
        return np.unique(self._rows["image"][self._bad(reader)])

    def _bad(self, reader: Sequence[float]) -> NDArray[np.bool_]:
        able = [len(run.reader) and all(map(ge, run.reader, reader)) for run in self.runs]
        marked: NDArray[np.bool_] = self._rows["settled"] & ~self._rows["done"]
        marked &= np.array(able, np.bool_)[self._rows["run"]]
        return marked

    def first_reasons(self, images: Ids, reader: Sequence[float]) -> Iterator[dict[str, Any]]:
        """Finds why images were set aside first.

        Args:
            images: some of ``known_bad``, each once.
            reader: as there.

        Yields:
            A row of ``records.QUARANTINE`` for each.

        Raises:
            StorageError: a table cannot be read, or lacks a row.
        """
        rows = self._rows[self._bad(reader)]
        rows = rows[among(rows["image"], np.sort(images))]
        rows = rows[np.argsort(self._ranks[rows["run"]], kind="stable")]  # the first come first
        rows = rows[np.unique(rows["image"], return_index=True)[1]]
        names = records.QUARANTINE.names
        for number in np.unique(rows["run"]):
            run, wanted = self.runs[number], np.sort(rows["image"][rows["run"] == number])
            table, missing = _quarantine_of(self._results, run), len(wanted)
            for columns in columns_of(self._results, table, names):
                found = among(ids_of(map(image_id, columns[1], columns[2])), wanted)
                for i in np.flatnonzero(found):
                    missing -= 1
                    yield {name: column[i] for name, column in zip(names, columns, strict=True)}
            if missing:
                raise damaged(self._results, table, f"it lacks {missing:,} images")

    def gone(self, source_uri: str, listed: Ids, *, done: bool = True) -> Iterator[dict[str, Any]]:
        """Finds images that runs over the same source have done and that are no longer listed.

        Args:
            source_uri: what was listed now.
            listed: ``image_id`` of the keys that are there.
            done: false for those that were quarantined, and never done.

        Yields:
            A row of ``records.DELETED`` for each key, with its latest version.
        """
        same = np.array([run.source == source_uri.rstrip("/") for run in self.runs], np.bool_)
        rows = self._rows[same[self._rows["run"]]]
        if not done:
            rows = rows[~among(rows["name"], np.unique(rows["name"][rows["done"]]))]
        rows = rows[rows["done"] == done]
        rows = rows[~among(rows["name"], np.sort(listed))]
        rows = rows[np.argsort(self._ranks[rows["run"]], kind="stable")[::-1]]  # the latest first
        rows = rows[np.unique(rows["name"], return_index=True)[1]]
        for number in np.unique(rows["run"]):
            run, images = self.runs[number], np.sort(rows["image"][rows["run"] == number])
            for sources, keys, versions in columns_of(self._results, run, ["source", "key", "version"]):
                for i in np.flatnonzero(among(ids_of(map(image_id, keys, versions)), images)):
                    row = {"source": sources[i], "key": keys[i], "version": versions[i], "run": run.run}
                    yield {**row, "status": "done" if done else "quarantined"}

    def compact(self) -> str:
        """Writes a snapshot that covers all runs of this ledger; returns its key.

        It removes older snapshots, but not the largest: somebody may be reading that. Where deleting is not allowed,
        they stay.
        """
        places = sorted(range(len(self.runs)), key=lambda i: self.runs[i].manifest)  # equal in, equal out
        runs = [self.runs[i] for i in places]
        rows = self._rows.copy()
        rows["run"] = np.argsort(np.array(places, np.intp))[rows["run"]]
        rows = rows[np.lexsort((rows["run"], rows["image"]))]
        columns = [
            pa.FixedSizeBinaryArray.from_buffers(
                pa.binary(16), len(rows), [None, pa.py_buffer(ids.tobytes())]
            )
            for ids in (rows["image"], rows["name"])
        ]
        columns += (pa.array(np.ascontiguousarray(rows[name])) for name in ("run", "done", "settled"))
        metadata = {_METADATA: json.dumps({"runs": [vars(run) for run in runs]}).encode()}
        table = pa.table(columns, schema=records.LEDGER.with_metadata(metadata))
        folder = self._results.folder
        before = sorted(folder.names(LEDGER), key=lambda entry: entry.size, reverse=True)
        with tempfile.TemporaryDirectory() as work:
            path = Path(work, "ledger.parquet")
            pq.write_table(table, path, compression="none", use_dictionary=["run"])  # digests do not shrink
            key = f"{LEDGER}{digest(path.read_bytes(), 32)}.parquet"
            self._results.upload(key, path)
        for entry in before[1:]:
            try:
                if entry.key != key:
                    folder.delete(entry.key)
            except StorageError:
                break
        return key


def ids_of(values: Iterable[bytes]) -> Ids:
    """Puts ``image_id`` values into an array.

    NumPy ignores trailing zeros of this type. All values have 16 bytes, so comparing stays right.
    """
    return np.frombuffer(b"".join(values), "S16")


def among(ids: Ids, known: Ids) -> NDArray[np.bool_]:
    """Tells of each whether it is in a sorted array."""
    if not len(known):
        return np.zeros(len(ids), np.bool_)
    places = np.minimum(np.searchsorted(known, ids), len(known) - 1)
    found: NDArray[np.bool_] = known[places] == ids
    return found


def _versions(results: Results) -> Iterator[tuple[str, str]]:
    """Keys of the manifests with the versions that they have."""
    for entry in results.committed():
        version = entry.version
        if not version:  # listing folders does not read files; a manifest is small
            found = results.folder.stat(entry.key)
            if found is None:
                continue
            version = found.version
        yield entry.key, version


def _snapshot(results: Results, versions: dict[str, str]) -> tuple[list[Run], _Rows]:
    """The runs that the largest sound snapshot covers and that still exist, and their rows."""
    for entry in sorted(results.folder.names(LEDGER), key=lambda entry: entry.size, reverse=True):
        try:
            runs, rows = _read_snapshot(results.folder.read(entry.key), entry.key)
        except (StorageError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
            say(STEP, f"{results.folder.locate(entry.key)} cannot be used, so all runs are read: {error}")
            continue
        valid = np.array([versions.get(run.manifest) == run.version for run in runs], np.bool_)
        if not valid.all():
            rows = rows[valid[rows["run"]]]
            rows["run"] = (np.cumsum(valid) - 1)[rows["run"]]
        return [run for run, good in zip(runs, valid, strict=True) if good], rows
    return [], np.empty(0, _ROW)


def _read_snapshot(data: bytes, key: str) -> tuple[list[Run], _Rows]:
    if key != f"{LEDGER}{digest(data, 32)}.parquet":
        raise ValueError("its content does not fit its name")
    table = parse_parquet(data)
    if table.schema.names != records.LEDGER.names:
        raise ValueError("another version wrote it")
    runs = [Run(**run) for run in json.loads(table.schema.metadata[_METADATA])["runs"]]
    rows = np.empty(len(table), _ROW)
    for name in ("image", "name"):
        column = table[name].combine_chunks()
        rows[name] = np.frombuffer(column.buffers()[1], "S16", len(column), 16 * column.offset)
    for name in ("run", "done", "settled"):
        rows[name] = table[name].to_numpy()
    return runs, rows


def _run(results: Results, key: str, version: str) -> Run | None:
    try:
        manifest = results.read_manifest(key)
    except ObjectChangedError:  # removed since it was listed
        return None
    return run_of(manifest, key, version)


def run_of(manifest: dict[str, Any], key: str, version: str) -> Run:
    """What the ledger knows of a run.

    Args:
        manifest: the run's.
        key: the manifest's.
        version: the manifest's, as the store tells it.
    """
    images = file_key(manifest, IMAGES)
    facts = {named.key: named for named in files_of(manifest)}.get(images, Named(""))
    source = manifest.get("source_uri", "").rstrip("/")
    run, created = manifest["run"], manifest["created"]
    parts = manifest.get("parts", [])
    sequence, _, _ = commit_order(manifest)
    return Run(
        key,
        version,
        run,
        created,
        source,
        images,
        facts.bytes,
        facts.sha256,
        parts,
        sequence,
        reader_of(manifest.get("reader", {})),
    )


def reader_of(facts: dict[str, float]) -> list[float]:
    """Numbers that grow with what can be read, from a manifest's ``reader``; an earlier version has zeros."""
    return [facts.get(name, 0) for name in ("version", "max_megapixels", "max_megabytes")]


def _quarantine_of(results: Results, run: Run) -> Run:
    """The run with its table of quarantined images, which tells more, in place of that of all its images."""
    manifest = results.read_manifest(run.manifest)
    key = file_key(manifest, QUARANTINE)
    facts = {named.key: named for named in files_of(manifest)}.get(key, Named(""))
    return replace(run, images=key, bytes=facts.bytes, sha256=facts.sha256)


def _table(results: Results, number: int, run: Run) -> _Rows:
    """The rows of a run; none where its table is gone, so that its images are done again."""
    parts = [np.empty(0, _ROW)]
    for keys, versions, states, reasons in columns_of(results, run, ["key", "version", "status", "reason"]):
        rows = np.empty(len(keys), _ROW)
        rows["image"], rows["name"] = ids_of(map(image_id, keys, versions)), ids_of(map(image_id, keys))
        rows["run"], rows["done"] = number, [state == "done" for state in states]
        rows["settled"] = [reason not in UNSETTLED for reason in reasons]
        parts.append(rows)
    return np.concatenate(parts)


def columns_of(results: Results, run: Run, columns: list[str]) -> Iterator[list[list[str]]]:
    """Some columns of a run's table of images, batch by batch.

    Raises:
        StorageError: it is not the table that the manifest names.
    """
    try:
        with local_copy(results, run.images) as path:
            if facts_of(path) != {"bytes": run.bytes, "sha256": run.sha256}:
                raise damaged(results, run, "its content is not what the manifest names")
            with pq.ParquetFile(path) as table:
                for batch in table.iter_batches(batch_size=records.ROWS_AT_ONCE, columns=columns):
                    yield [batch.column(name).to_pylist() for name in columns]
    except ObjectChangedError:
        say(STEP, f"the run '{run.run}' has no table of images: its images count as not done")
    except (pa.ArrowException, KeyError) as error:
        raise damaged(results, run, str(error)) from error


def damaged(results: Results, run: Run, why: str) -> StorageError:
    """The error for a table that is not as its manifest says."""
    uri = results.folder.locate(run.images)
    return StorageError(
        f"{uri} is damaged: {why}.",
        "'clipseg-kfp results verify' lists all that is damaged. Restore the file from a copy, or remove the run's "
        f"manifest, {results.folder.locate(run.manifest)}: then the run does not exist, and its images are done again.",
        code="run_table_damaged",
        where=run.images,
    )
