"""What committed runs have done, read from their manifests and tables.

The truth is each run's ``images.parquet``. As runs add up, publish_results gathers them into one table, a
**snapshot**, which names the manifests that it covers and what version each had. A reader lists the
manifests, takes the rows of the largest snapshot for runs that are still there as they were, and reads the
rest from the runs. Without a snapshot, or with a damaged one, it reads all runs: slower, and just as right.

In memory an image is 16 bytes of digest in a sorted array.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
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
from clipseg_kfp.results.commit import READERS, Results, facts_of, file_key
from clipseg_kfp.results.inventory import Named, files_of, local_copy
from clipseg_kfp.results.layout import IMAGES, LEDGER, image_id
from clipseg_kfp.runtime.concurrency import ordered_map
from clipseg_kfp.runtime.progress import say

STEP = "ledger"
#: A snapshot is due when more than so many runs, or images, are in none.
UNCOVERED_RUNS, UNCOVERED_IMAGES = 32, 100_000
NEW, DONE, QUARANTINED = 0, 1, 2
_METADATA = b"clipseg-kfp"
_READERS_OF_TABLES = 4  # each may hold a table of a whole run

Ids = NDArray[np.bytes_]


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


@dataclass(frozen=True)
class _Rows:
    """Images of runs; ``run`` is a row in the list of runs."""

    image: Ids
    name: Ids
    run: NDArray[np.int32]
    done: NDArray[np.bool_]

    def of(self, run: int) -> _Rows:
        return _Rows(self.image, self.name, np.full(len(self.image), run, np.int32), self.done)

    def __getitem__(self, chosen: Any) -> _Rows:
        return _Rows(self.image[chosen], self.name[chosen], self.run[chosen], self.done[chosen])

    @classmethod
    def joined(cls, parts: Sequence[_Rows]) -> _Rows:
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in _COLUMNS))


_COLUMNS = ("image", "name", "run", "done")
_EMPTY = _Rows(np.empty(0, "S16"), np.empty(0, "S16"), np.empty(0, np.int32), np.empty(0, np.bool_))


class Ledger:
    """What was known when it was read.

    Attributes:
        runs: committed runs.
        uncovered: runs that no snapshot covers.
        overdue: whether a snapshot would spare later readers much.
    """

    def __init__(self, results: Results, runs: list[Run], rows: _Rows, uncovered: int, loose: int) -> None:
        self.runs = runs
        self.uncovered = uncovered
        self.overdue = uncovered > UNCOVERED_RUNS or loose > UNCOVERED_IMAGES
        self._results, self._rows = results, rows

    @classmethod
    def empty(cls, results: Results) -> Ledger:
        """One that knows nothing."""
        return cls(results, [], _EMPTY, 0, 0)

    @classmethod
    def read(cls, results: Results) -> Ledger:
        """Reads what committed runs say.

        Raises:
            StorageError: a manifest or a table of a committed run cannot be read.
        """
        versions = dict(_versions(results))
        runs, rows = _snapshot(results, versions)
        covered = {run.manifest for run in runs}
        loose = [(key, version) for key, version in versions.items() if key not in covered]
        found = ordered_map(lambda item: _run(results, *item), loose, READERS)
        new = [run for run in found if run is not None]
        parts = [rows]
        tables = ordered_map(lambda run: _table(results, run), new, _READERS_OF_TABLES, 0)
        parts += (part.of(len(runs) + i) for i, part in enumerate(tables))
        whole = _Rows.joined(parts)
        return cls(results, runs + new, whole, len(new), len(whole.image) - len(rows.image))

    @cached_property
    def done(self) -> Ids:
        """Digests of the image versions that are done, sorted."""
        return np.sort(self._rows.image[self._rows.done])

    @cached_property
    def quarantined(self) -> Ids:
        """Digests of the image versions that were set aside; some of them may be done since."""
        return np.sort(self._rows.image[~self._rows.done])

    @cached_property
    def parts(self) -> frozenset[str]:
        """Keys of the parts that committed runs name."""
        return frozenset(part for run in self.runs for part in run.parts)

    @cached_property
    def _ranks(self) -> NDArray[np.intp]:
        """Each run's place among all, the earliest first."""
        return np.argsort([f"{run.created} {run.run}" for run in self.runs]).argsort()

    @cached_property
    def _latest(self) -> tuple[Ids, NDArray[np.intp]]:
        """Digests of the image versions that a run has seen, sorted, and the rank of the latest run of each."""
        if not len(self._rows.image):
            return self._rows.image, np.empty(0, np.intp)
        ranks = self._ranks[self._rows.run]
        order = np.lexsort((-ranks, self._rows.image))
        images, first = np.unique(self._rows.image[order], return_index=True)
        return images, ranks[order][first]

    def turns(self, images: Iterable[tuple[str, str]]) -> list[int]:
        """Orders images for another look: 0 for those that no run has seen, then those that were seen longest ago."""
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

    def gone(self, source_uri: str, listed: Ids) -> Iterator[dict[str, Any]]:
        """Finds images that runs over the same source have done and that are no longer listed.

        Args:
            source_uri: what was listed now.
            listed: ``image_id`` of the keys that are there.

        Yields:
            A row of ``records.DELETED`` for each key, with its latest version.
        """
        same = np.array([run.source == source_uri.rstrip("/") for run in self.runs], np.bool_)
        mine = np.flatnonzero(self._rows.done & same[self._rows.run]) if len(self.runs) else np.empty(0, int)
        missing = mine[~among(self._rows.name[mine], np.sort(listed))]
        ranks = self._ranks[self._rows.run[missing]] if len(missing) else np.empty(0, int)
        missing = missing[np.argsort(ranks, kind="stable")[::-1]]  # the latest first
        _, first = np.unique(self._rows.name[missing], return_index=True)
        latest = missing[first]
        for index in np.unique(self._rows.run[latest]):
            run = self.runs[index]
            wanted = _bytes(self._rows.image[latest[self._rows.run[latest] == index]])
            for columns in _columns_of(self._results, run, ["source", "key", "version"]):
                for source, key, version in zip(*columns, strict=True):
                    if image_id(key, version) in wanted:
                        yield {"source": source, "key": key, "version": version, "run": run.run}

    def compact(self) -> str:
        """Writes a snapshot that covers all runs of this ledger; returns its key.

        Snapshots that it makes needless go, but for the largest: somebody may be reading that. Where this
        identity may not delete, they stay.
        """
        places = sorted(range(len(self.runs)), key=lambda i: self.runs[i].manifest)  # equal in, equal out
        runs = [self.runs[i] for i in places]
        rank = np.argsort(places).astype(np.int32) if runs else np.empty(0, np.int32)
        rows = _Rows(self._rows.image, self._rows.name, rank[self._rows.run], self._rows.done)
        rows = rows[np.lexsort((rows.run, rows.image))]
        columns = [
            pa.FixedSizeBinaryArray.from_buffers(pa.binary(16), len(ids), [None, pa.py_buffer(ids.tobytes())])
            for ids in (rows.image, rows.name)
        ]
        metadata = {_METADATA: json.dumps({"runs": [vars(run) for run in runs]}).encode()}
        table = pa.table([*columns, rows.run, rows.done], schema=records.LEDGER.with_metadata(metadata))
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

    NumPy takes trailing zeros of its text type for padding. All values have 16 bytes, so equal means equal.
    """
    return np.frombuffer(b"".join(values), "S16")


def _bytes(ids: Ids) -> set[bytes]:
    data = ids.tobytes()
    return {data[i : i + 16] for i in range(0, len(data), 16)}


def among(ids: Ids, known: Ids) -> NDArray[np.bool_]:
    """Whether each one is in a sorted array."""
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
    """The runs that the largest sound snapshot covers, as far as they are still there, and their rows."""
    for entry in sorted(results.folder.names(LEDGER), key=lambda entry: entry.size, reverse=True):
        try:
            runs, rows = _read_snapshot(results.folder.read(entry.key), entry.key)
        except (StorageError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
            say(STEP, f"{results.folder.locate(entry.key)} is left out, and runs are read instead: {error}")
            continue
        valid = np.array([versions.get(run.manifest) == run.version for run in runs], np.bool_)
        number = np.cumsum(valid, dtype=np.int32) - np.int32(1)
        rows = rows if valid.all() else rows[valid[rows.run]]
        return [run for run, good in zip(runs, valid, strict=True) if good], _Rows(
            rows.image, rows.name, number[rows.run], rows.done
        )
    return [], _EMPTY


def _read_snapshot(data: bytes, key: str) -> tuple[list[Run], _Rows]:
    if key != f"{LEDGER}{digest(data, 32)}.parquet":
        raise ValueError("its content is not what its name says")
    table = parse_parquet(data)
    if table.schema.names != records.LEDGER.names:
        raise ValueError("it is of another version")
    runs = [Run(**run) for run in json.loads(table.schema.metadata[_METADATA])["runs"]]
    image, name = (_fixed(table[column].combine_chunks()) for column in ("image", "name"))
    return runs, _Rows(image, name, table["run"].to_numpy(), table["done"].to_numpy())


def _fixed(column: pa.FixedSizeBinaryArray) -> Ids:
    values = np.frombuffer(column.buffers()[1], "S16", len(column), 16 * column.offset)
    return values.copy()  # or the whole file stays in memory


def _run(results: Results, key: str, version: str) -> Run | None:
    try:
        manifest = results.read_manifest(key)
    except ObjectChangedError:  # tidied up since it was listed
        return None
    images = file_key(manifest, IMAGES)
    facts = {named.key: named for named in files_of(manifest)}.get(images, Named(""))
    source = manifest.get("source_uri", "").rstrip("/")
    run, created = manifest["run"], manifest["created"]
    parts = manifest.get("parts", [])
    return Run(key, version, run, created, source, images, facts.bytes, facts.sha256, parts)


def _table(results: Results, run: Run) -> _Rows:
    """The digests of a run's images; nothing where its table is gone, so that they are done again."""
    images: list[bytes] = []
    names: list[bytes] = []
    done: list[bool] = []
    for keys, versions, states in _columns_of(results, run, ["key", "version", "status"]):
        images += map(image_id, keys, versions)
        names += map(image_id, keys)
        done += [state == "done" for state in states]
    return _Rows(ids_of(images), ids_of(names), np.zeros(len(done), np.int32), np.array(done, np.bool_))


def _columns_of(results: Results, run: Run, columns: list[str]) -> Iterator[list[list[str]]]:
    """Some columns of a run's table of images, a batch at a time.

    Raises:
        StorageError: it is not the table that the manifest tells of.
    """
    try:
        with local_copy(results, run.images) as path:
            if facts_of(path) != {"bytes": run.bytes, "sha256": run.sha256}:
                raise _damaged(results, run, "its bytes are not those that the manifest tells of")
            with pq.ParquetFile(path) as table:
                for batch in table.iter_batches(batch_size=records.ROWS_AT_ONCE, columns=columns):
                    yield [batch.column(name).to_pylist() for name in columns]
    except ObjectChangedError:
        say(STEP, f"the run '{run.run}' has no table of images: what it did counts as not done")
    except (pa.ArrowException, KeyError) as error:
        raise _damaged(results, run, str(error)) from error


def _damaged(results: Results, run: Run, why: str) -> StorageError:
    return StorageError(
        f"{results.folder.locate(run.images)} is damaged: {why}.",
        "'clipseg-kfp results verify' says what else is. Bring it back from a copy, or remove the run's "
        f"manifest, {results.folder.locate(run.manifest)}: the run does not exist then, and its images are done again.",
    )
