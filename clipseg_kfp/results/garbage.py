"""Finds and removes objects that no committed run names: what killed and losing attempts left behind.

It is safe beside running pipelines. Objects younger than a given age stay, since a run in progress may be about to
name them. After the objects were listed, manifests that came meanwhile are read, too. And each object's age is looked
up once more right before it is deleted, since a run may just have written it again. Stores cannot delete on a
condition, so a short time is left between the two: the age has to be above that of the longest run, and a run that took
long looks up its objects before it commits. Nothing outside of the suite's own layout is touched.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
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
    """Lists objects that may be removed.

    Args:
        output: the output prefix.
        older_than: hours; younger objects are left out.
        configs: configurations to look at.
        staging: also list members of archives. A later run lays them out anew; no run may be reading them now.

    Raises:
        StorageError: a manifest or table of a committed run cannot be read.
    """
    before = time.time() - 3600 * older_than

    def old(entry: Entry) -> bool:
        return 0 < entry.modified < before

    for config in filter(is_configuration, configs):
        results = Results(output, config)
        seen: set[str] = set()
        named = _named(results, seen)
        unnamed: list[Entry] = []
        listing = (entry for entry in results.folder.names() if entry.key.startswith(FOLDERS) and old(entry))
        while batch := list(islice(listing, AT_ONCE)):
            unnamed += _without(batch, named)
        unnamed = _without(unnamed, _named(results, seen))  # by runs that were committed meanwhile
        snapshots = sorted((e for e in unnamed if e.key.startswith(LEDGER)), key=lambda e: -e.size)
        kept = {entry.key for entry in snapshots[:SNAPSHOTS_KEPT]}
        for entry in unnamed:
            if entry.key not in kept:
                yield Garbage(f"{config}/{entry.key}", entry.size, entry.modified)
    if staging:
        yield from _staged(output, old)


def _staged(output: Folder, old: Callable[[Entry], bool]) -> Iterator[Garbage]:
    """Archives as a whole: an index marks that all members are there, so it goes with them, and before them."""
    archives: dict[str, list[Entry]] = {}
    for entry in output.names(f"{STAGING}/"):
        archives.setdefault("/".join(entry.key.split("/")[:2]), []).append(entry)
    for entries in archives.values():
        if all(map(old, entries)):
            for entry in sorted(entries, key=lambda entry: not _is_mark(entry.key)):
                yield Garbage(entry.key, entry.size, entry.modified)


def _is_mark(key: str) -> bool:
    """Whether this object says that others are complete."""
    return key.startswith(f"{STAGING}/") and key.count("/") == 2


def _without(entries: list[Entry], named: Ids) -> list[Entry]:
    is_named = among(ids_of(image_id(entry.key) for entry in entries), named)
    return [entry for entry, yes in zip(entries, is_named.tolist(), strict=True) if not yes]


def _named(results: Results, seen: set[str]) -> Ids:
    """Sorted digests of all keys that committed runs name; skips the runs in ``seen`` and adds the others to it."""
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
                f"The objects of the run {results.folder.locate(key)} cannot be listed: {error}",
                "Nothing was removed. 'clipseg-kfp results verify' tells what is wrong with the run.",
                code="run_unreadable",
                where=key,
            ) from error

    return np.sort(np.concatenate([ids_of(()), *ordered_map(of, new, TABLES_AT_ONCE, 0)]))


def remove(output: Folder, garbage: list[Garbage]) -> int:
    """Removes objects, except those that were written again since they were listed; returns how many."""

    def delete(item: Garbage) -> bool:
        entry = output.stat(item.key)
        if entry is None or entry.modified > item.modified + 1:  # some stores round to whole seconds
            return False
        output.delete(item.key)
        return True

    marks = [item for item in garbage if _is_mark(item.key)]
    others = [item for item in garbage if not _is_mark(item.key)]
    return sum(sum(ordered_map(delete, items, READERS)) for items in (marks, others))
