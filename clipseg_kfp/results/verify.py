"""Reads committed runs again and compares every object with its size and sha256 in the manifest and tables."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from typing import Any

import pyarrow as pa

from clipseg_kfp.errors import ObjectChangedError, StorageError
from clipseg_kfp.naming import digest
from clipseg_kfp.results.commit import READERS, Results, facts_of
from clipseg_kfp.results.current import fold
from clipseg_kfp.results.inventory import Named, files_of, local_copy, objects_of
from clipseg_kfp.results.layout import run_key
from clipseg_kfp.results.plan import is_progress
from clipseg_kfp.results.shard_tables import part_key
from clipseg_kfp.runtime.concurrency import ordered_map
from clipseg_kfp.runtime.progress import track

STEP = "verify"
MISSING, CHANGED, EXTRA = "missing", "changed", "extra"


@dataclass(frozen=True)
class Finding:
    """An object that is not as its run says.

    Attributes:
        uri: of the object.
        problem: ``missing``, ``changed`` or ``extra``. An extra file is harmless: no reader of manifests sees it.
        run: the run that names it.
    """

    uri: str
    problem: str
    run: str


@dataclass(frozen=True)
class Verified:
    """The outcome.

    Attributes:
        objects: how many were read.
        bytes: their size.
        findings: what is wrong.
    """

    objects: int
    bytes: int
    findings: tuple[Finding, ...]

    @property
    def sound(self) -> bool:
        """Whether everything that the run names is there, unchanged."""
        return all(finding.problem == EXTRA for finding in self.findings)


def runs_of_state(results: Results, manifests: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The runs that the current state of a configuration is made of, and the latest; all where it cannot be told.

    Args:
        results: of the configuration.
        manifests: of its runs, at least one, the latest first.
    """
    try:
        wanted = {share.manifest["run"] for share in fold(results, manifests).shares}
    except (StorageError, pa.ArrowException, KeyError):  # what is damaged is told by reading them all
        return list(manifests)
    return [manifests[0], *(manifest for manifest in manifests[1:] if manifest["run"] in wanted)]


def verify_run(results: Results, manifest: dict[str, Any], *, quiet: bool = False) -> Verified:
    """Reads a run's files, parts, and every object that its tables name.

    Memory holds one object per thread; tables are read from a local copy as a stream.

    Args:
        results: of the run's configuration.
        manifest: the run's.
        quiet: show no progress.

    Raises:
        StorageError: the store or the run's tables cannot be read.
    """
    run, folder = manifest["run"], results.folder
    findings: list[Finding] = []
    objects = size = 0

    def note(key: str, problem: str) -> None:
        findings.append(Finding(folder.locate(key), problem, run))

    files = list(files_of(manifest))
    for named in files:
        problem, read = _compare_file(results, named)
        objects, size = objects + 1, size + read
        if problem:
            note(named.key, problem)
    if not any(finding.problem != EXTRA for finding in findings):
        # Only sound tables are followed: what a damaged one names means nothing.
        try:
            unique = (next(group) for _, group in groupby(objects_of(results, manifest), attrgetter("key")))
            checked = ordered_map(lambda named: (named.key, *_compare(results, named)), unique, READERS)
            at_most = manifest["counts"]["masks"] + 2 * manifest["counts"]["done"]  # label map and overlay
            for key, problem, read in checked if quiet else track(STEP, checked, at_most, unit="objects"):
                objects, size = objects + 1, size + read
                if problem:
                    note(key, problem)
        except (pa.ArrowException, KeyError) as error:
            raise StorageError(
                f"The tables of the run '{run}' under {folder.uri} cannot be read: {error}.",
                "They are unchanged: read them with the version of clipseg-kfp that wrote them.",
                code="run_tables_unreadable",
                where=run_key(run, ""),
            ) from error
    for part in manifest["parts"]:
        objects += 1
        if problem := _compare_part(results, part):
            note(part, problem)
    known = {named.key for named in files}
    for entry in folder.names(run_key(run, "")):
        if entry.key not in known and not is_progress(run, entry.key):
            note(entry.key, EXTRA)
    return Verified(objects, size, tuple(findings))


def _compare(results: Results, named: Named) -> tuple[str, int]:
    """What is wrong with a small object, and its size."""
    try:
        data = results.folder.read(named.key)
    except ObjectChangedError:
        return MISSING, 0
    same = len(data) == named.bytes and digest(data, 64) == named.sha256
    return "" if same else CHANGED, len(data)


def _compare_file(results: Results, named: Named) -> tuple[str, int]:
    """The same for a run's file, which may be larger than memory; a manifest must be JSON."""
    try:
        with local_copy(results, named.key) as path:
            same = facts_of(path)["sha256"] == named.sha256 if named.sha256 else _is_json(path.read_bytes())
            return "" if same else CHANGED, path.stat().st_size
    except ObjectChangedError:
        return MISSING, 0


def _is_json(data: bytes) -> bool:
    try:
        json.loads(data)
    except ValueError:
        return False
    return True


def _compare_part(results: Results, part: str) -> str:
    """What is wrong with a part; its name is the digest of its bytes."""
    try:
        with local_copy(results, part) as path:
            return "" if part_key(path) == part else CHANGED
    except ObjectChangedError:
        return MISSING
    except pa.ArrowException:
        return CHANGED
