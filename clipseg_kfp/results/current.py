"""The current state of a configuration: all its committed runs, folded.

A run's tables hold what that run did; after a night with nothing new they are empty. The state has each image once, in
the version that was committed last, and leaves out what is **gone**: of each source, the latest run names the images
that it no longer lists. An image whose newest version was quarantined counts as quarantined, whatever was done before.

An image is known by its URI, so two sources may have images of one key. The same version of the same key under two
URIs (a bucket that moved) is one image. Of each row the memory holds about 60 bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipseg_kfp import records
from clipseg_kfp.errors import ParameterError
from clipseg_kfp.results.commit import Results, commit_order, file_key
from clipseg_kfp.results.inventory import local_copy
from clipseg_kfp.results.layout import DELETED, IMAGES, MANIFEST, MASKS, QUARANTINE, Counts, image_id, run_key
from clipseg_kfp.results.ledger import Ids, among, columns_of, ids_of, run_of
from clipseg_kfp.runtime.concurrency import ordered_map

_TABLES_AT_ONCE = 4  # each may be that of a whole run
_ROW = np.dtype([("uri", "S16"), ("image", "S16"), ("key", "S16"), ("run", np.int32), ("done", np.bool_)])
_Rows = NDArray[np.void]  # of ``_ROW``, the latest run first; ``run`` is a place in the list of runs
_Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Share:
    """What one run adds to the state.

    Attributes:
        manifest: the run's.
        taken: of its done images, in the order of its tables: which are in the state.
        images: ``image_id`` of those, sorted.
        quarantined: ``image_id`` of its quarantined images that are in the state, sorted.
    """

    manifest: dict[str, Any]
    taken: list[bool]
    images: Ids
    quarantined: Ids

    @property
    def done(self) -> int:
        """How many of its done images are in the state."""
        return len(self.images)


@dataclass(frozen=True)
class Current:
    """The state of a configuration.

    Attributes:
        results: of the configuration.
        manifests: of all runs that were folded, the latest first; there is at least one.
        shares: of the runs that have something of the state, the latest first.
        gone: images that are no longer at their source, and left out.
        older: done images left out, since there is a newer version.
        ambiguous: ``image_id`` of keys that several images of the state have.
    """

    results: Results
    manifests: Sequence[dict[str, Any]]
    shares: Sequence[Share]
    gone: int
    older: int
    ambiguous: Ids

    @property
    def latest(self) -> dict[str, Any]:
        """The manifest of the latest run."""
        return self.manifests[0]

    @property
    def sources(self) -> list[str]:
        """What the runs listed, each once, the latest first."""
        return list(dict.fromkeys(manifest.get("source_uri", "") for manifest in self.manifests))

    @property
    def counts(self) -> Counts:
        """Images by outcome; nothing is skipped."""
        done = sum(share.done for share in self.shares)
        quarantined = sum(len(share.quarantined) for share in self.shares)
        left = self.latest["counts"].get("left", 0)
        masks = sum(share.done * _masks_of(share.manifest) for share in self.shares)
        return Counts(done + quarantined, done, 0, quarantined, masks, left)

    def images(self, columns: list[str] | None = None) -> Iterator[dict[str, Any]]:
        """Rows of ``records.RUN_IMAGES`` of the done images, run by run."""
        needed = None if columns is None else list({*columns, "status"})
        for share in self._with_images():
            rows = (row for row in self._rows(share, IMAGES, needed) if row["status"] == "done")
            for row, taken in zip(rows, share.taken, strict=True):
                if taken:
                    yield row

    def masks(self, columns: list[str] | None = None) -> Iterator[dict[str, Any]]:
        """Rows of ``records.MASKS`` in the order of ``images``; every done image has some."""
        needed = None if columns is None else list({*columns, "key", "version"})
        for share in self._with_images():
            groups = groupby(self._rows(share, MASKS, needed), lambda row: (row["key"], row["version"]))
            for (_, group), taken in zip(groups, share.taken, strict=True):
                if taken:
                    yield from group

    def quarantine(self) -> Iterator[dict[str, Any]]:
        """Rows of ``records.QUARANTINE``, as the run tells that set the image aside."""
        for share in self.shares:
            if not len(share.quarantined):
                continue
            name = QUARANTINE if file_key(share.manifest, QUARANTINE) else IMAGES
            for row in self._rows(share, name):
                if row.get("status", "quarantined") == "quarantined" and _is_in(row, share.quarantined):
                    yield {column: row.get(column) or "" for column in records.QUARANTINE.names} | {
                        "size": row["size"]
                    }

    def measured(self, name: str, columns: list[str] | None = None) -> Iterator[tuple[Share, dict[str, Any]]]:
        """Rows of a table of images that only some runs have, with their runs; those of images of the state."""
        for share in self._with_images():
            if file_key(share.manifest, name):
                for row in self._rows(share, name, columns, batch=128):
                    if _is_in(row, share.images):
                        yield share, row

    def check_keys(self) -> None:
        """Raises ``ParameterError`` where two images of the state have one key: a format could not tell them apart."""
        if not len(self.ambiguous):
            return
        found: dict[str, str] = {}
        for row in self.images(["key", "source"]):
            if among(ids_of([image_id(row["key"])]), self.ambiguous)[0]:
                key, uri = row["key"], row["source"]
                if found.setdefault(key, uri) != uri:
                    raise ParameterError(
                        f"Two images have the name '{key}': {found[key]} and {uri}. "
                        f"{len(self.ambiguous):,} names are such.",
                        "Choose one source with --source, or one run with --run: "
                        f"{', '.join(filter(None, self.sources))}.",
                        code="export_names_collide",
                        where=key,
                    )

    def _with_images(self) -> Iterator[Share]:
        return (share for share in self.shares if share.done)

    def _rows(
        self, share: Share, name: str, columns: list[str] | None = None, batch: int = records.ROWS_AT_ONCE
    ) -> Iterator[dict[str, Any]]:
        with local_copy(self.results, file_key(share.manifest, name)) as path:
            yield from records.read_parquet(path, columns, batch)


def fold(results: Results, manifests: Sequence[dict[str, Any]], *, keep_gone: bool = False) -> Current:
    """Folds runs of one configuration.

    Args:
        results: of the configuration.
        manifests: of the runs, in any order; at least one.
        keep_gone: take images as well that are no longer at their source.

    Raises:
        StorageError: a table cannot be read, or is not the one that its manifest names.
    """
    ordered = sorted(manifests, key=commit_order, reverse=True)
    tables = ordered_map(lambda item: _table(results, *item), enumerate(ordered), _TABLES_AT_ONCE, 0)
    rows = np.concatenate([np.empty(0, _ROW), *tables])
    newest = _first_of(rows["uri"], np.ones(len(rows), np.bool_))
    left_out = newest & _gone(results, ordered, rows) & (not keep_gone)
    there = _first_of(rows["image"], newest & ~left_out)
    done = there & rows["done"]
    keys, times = np.unique(rows["key"][done], return_counts=True)
    shares = []
    for number in np.unique(rows["run"][there]):
        own = rows["run"] == number
        images = np.sort(rows["image"][own & done])
        quarantined = np.sort(rows["image"][own & there & ~rows["done"]])
        taken = done[own & rows["done"]].tolist()
        shares.append(Share(ordered[number], taken, images, quarantined))
    gone = int(left_out.sum())
    older = int((rows["done"] & ~done).sum() - (left_out & rows["done"]).sum())
    return Current(results, ordered, shares, gone, older, keys[times > 1])


def _first_of(ids: Ids, among_them: _Flags) -> _Flags:
    """Marks the first row of each value, of the rows that are marked already."""
    places = np.flatnonzero(among_them)
    marked = np.zeros(len(ids), np.bool_)
    marked[places[np.unique(ids[places], return_index=True)[1]]] = True
    return marked


def _gone(results: Results, manifests: Sequence[dict[str, Any]], rows: _Rows) -> _Flags:
    """Marks rows of images that a later run, the latest over its source, did not find there."""
    latest: dict[str, int] = {}
    for number, manifest in enumerate(manifests):
        latest.setdefault(manifest.get("source_uri", "").rstrip("/"), number)

    def missing(number: int) -> tuple[int, Ids]:
        key = file_key(manifests[number], DELETED)
        if not key:
            return number, ids_of(())
        with local_copy(results, key) as path:
            uris = (row["source"] for row in records.read_parquet(path, ["source"]))
            return number, np.sort(ids_of(image_id(uri) for uri in uris))

    marked = np.zeros(len(rows), np.bool_)
    for number, uris in ordered_map(missing, latest.values(), _TABLES_AT_ONCE, 0):
        if len(uris):
            marked |= among(rows["uri"], uris) & (rows["run"] > number)
    return marked


def _table(results: Results, number: int, manifest: dict[str, Any]) -> _Rows:
    """The images of a run, of those that did any."""
    parts = [np.empty(0, _ROW)]
    counts = manifest["counts"]
    tried = counts["done"] + counts["quarantined"] - manifest.get("quarantined_before", 0)
    if tried:
        run = run_of(manifest, run_key(manifest["run"], MANIFEST), "")
        columns = ["source", "key", "version", "status"]
        for uris, keys, versions, states in columns_of(results, run, columns):
            rows = np.empty(len(keys), _ROW)
            rows["uri"], rows["key"] = ids_of(map(image_id, uris)), ids_of(map(image_id, keys))
            rows["image"] = ids_of(map(image_id, keys, versions))
            rows["run"], rows["done"] = number, [state == "done" for state in states]
            parts.append(rows)
    return np.concatenate(parts)


def _masks_of(manifest: dict[str, Any]) -> int:
    """How many masks each done image of a run has."""
    counts = manifest["counts"]
    return int(counts["masks"] // counts["done"]) if counts["done"] else 0


def _is_in(row: dict[str, Any], images: Ids) -> bool:
    return bool(among(ids_of([image_id(row["key"], row["version"])]), images)[0])
