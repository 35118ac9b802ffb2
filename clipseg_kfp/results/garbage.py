"""Finds and removes objects that no committed run names: what killed and losing attempts left behind.

It is safe beside running pipelines. What is younger than a given age is left alone, since a run in progress
may be about to name it. After the objects were listed, manifests that came meanwhile are read, too. And each
object's age is looked up once more right before it goes, since a run may just have written it again. Stores delete
on no condition, so an instant is left between the two; an age above the longest run's is what makes it safe, and a run
that took long looks for its objects before it commits. Nothing outside of the suite's own layout is ever touched.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, islice

import numpy as np
import pyarrow as pa

from clipseg_kfp.errors import StorageError
from clipseg_kfp.results.commit import READERS, Results
from clipseg_kfp.results.inventory import files_of, objects_of
from clipseg_kfp.results.layout import FOLDERS, LEDGER, STAGING, image_id, is_configuration
from clipseg_kfp.results.ledger import Ids, among, ids_of
from clipseg_kfp.runtime.concurrency import ordered_map
from clipseg_kfp.storage import Entry, Folder

AT_ONCE = 1000  # objects looked up together
TABLES_AT_ONCE = 4
SNAPSHOTS_KEPT = 2  # the one in use, and the one before, which somebody may be reading


@dataclass(frozen=True)
class Garbage:
    """An object that nothing names.

    Attributes:
        key: below the output.
        bytes: its size.
        modified: when it was written, in seconds since 1970.
    """

    key: str
    bytes: int
    modified: float


def find_garbage(
    output: Folder, *, older_than: float, configs: list[str], staging: bool = False
) -> Iterator[Garbage]:
    """Lists what may go.

    Args:
        output: the output prefix.
        older_than: hours; what was written since is left alone.
        configs: configurations to look at.
        staging: take members of archives as well. A run that lists such an archive lays them out anew; one
            that is reading them must not be under way.

    Raises:
        StorageError: a manifest or table of a committed run cannot be read. Nothing is known to be garbage
            then, and nothing is told.
    """
    before = time.time() - 3600 * older_than

    def old(entry: Entry) -> bool:
        return 0 < entry.modified < before

    for config in filter(is_configuration, configs):
        results = Results(output, config)
        seen: set[str] = set()
        named = _named(results, seen)
        found: list[Entry] = []
        listing = (entry for entry in results.folder.names() if entry.key.startswith(FOLDERS) and old(entry))
        while batch := list(islice(listing, AT_ONCE)):
            found += _without(batch, named)
        found = _without(found, _named(results, seen))  # runs that were committed while objects were listed
        snapshots = sorted((e for e in found if e.key.startswith(LEDGER)), key=lambda e: -e.size)
        kept = {entry.key for entry in snapshots[:SNAPSHOTS_KEPT]}
        for entry in found:
            if entry.key not in kept:
                yield Garbage(f"{config}/{entry.key}", entry.size, entry.modified)
    if staging:
        for entry in output.names(f"{STAGING}/"):
            if old(entry):
                yield Garbage(entry.key, entry.size, entry.modified)


def _without(entries: list[Entry], named: Ids) -> list[Entry]:
    is_named = among(ids_of(image_id(entry.key) for entry in entries), named)
    return [entry for entry, yes in zip(entries, is_named.tolist(), strict=True) if not yes]


def _named(results: Results, seen: set[str]) -> Ids:
    """Digests of all keys that committed runs name, sorted; runs that were seen before are left out."""
    new = [entry.key for entry in results.committed() if entry.key not in seen]
    seen.update(new)

    def of(key: str) -> Ids:
        try:
            manifest = json.loads(results.folder.read(key))
            names = chain(files_of(manifest), objects_of(results, manifest))
            keys = chain((named.key for named in names), manifest["parts"])
            return ids_of(image_id(key) for key in keys)
        except (StorageError, pa.ArrowException, ValueError, KeyError) as error:
            raise StorageError(
                f"What the run of {results.folder.locate(key)} names cannot be told: {error}",
                "Nothing was removed. 'clipseg-kfp results verify' says what is wrong with the run.",
            ) from error

    return np.sort(np.concatenate([ids_of(()), *ordered_map(of, new, TABLES_AT_ONCE, 0)]))


def remove(output: Folder, garbage: list[Garbage]) -> int:
    """Removes objects, several at once; returns how many.

    One that was written again since it was listed stays.
    """

    def one(item: Garbage) -> bool:
        entry = output.stat(item.key)
        if entry is None or entry.modified > item.modified + 1:  # some stores tell whole seconds in places
            return False
        output.delete(item.key)
        return True

    return sum(ordered_map(one, garbage, READERS))
