"""Re-reads committed runs and compares every object with what manifest and tables say of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from clipseg_kfp.errors import ObjectChangedError, StorageError
from clipseg_kfp.naming import digest
from clipseg_kfp.results.commit import READERS, Results
from clipseg_kfp.results.inventory import Named, files_of, local_copy, objects_of
from clipseg_kfp.results.layout import run_key
from clipseg_kfp.results.parts import part_key
from clipseg_kfp.results.plan import is_progress
from clipseg_kfp.runtime.concurrency import ordered_map
from clipseg_kfp.runtime.progress import track

STEP = "verify"
MISSING, CHANGED, EXTRA = "missing", "changed", "extra"


@dataclass(frozen=True)
class Finding:
    """An object that is not as a run says.

    Attributes:
        uri: where it lies.
        problem: ``missing`` or ``changed``; or ``extra``, which harms nobody: no reader of manifests ever
            sees it.
        run: the run that names it.
    """

    uri: str
    problem: str
    run: str


@dataclass(frozen=True)
class Verified:
    """What came out.

    Attributes:
        objects: how many were read.
        bytes: theirs.
        findings: what is wrong.
    """

    objects: int
    bytes: int
    findings: tuple[Finding, ...]

    @property
    def sound(self) -> bool:
        """Whether everything that a run names is there, with the bytes that it had."""
        return all(finding.problem == EXTRA for finding in self.findings)


def verify_run(results: Results, manifest: dict[str, Any], *, quiet: bool = False) -> Verified:
    """Reads a run's files, parts, and every object that its tables name.

    Memory holds one object a thread; tables are read from a local copy as a stream.

    Args:
        results: of the run's configuration.
        manifest: the run's.
        quiet: show no progress.

    Raises:
        StorageError: the store as a whole cannot be read.
    """
    run, folder = manifest["run"], results.folder
    findings: list[Finding] = []
    objects = size = 0

    def note(key: str, problem: str) -> None:
        findings.append(Finding(folder.locate(key), problem, run))

    def check(named: Named) -> tuple[Named, str, int]:
        return named, *_compare(results, named)

    files = list(files_of(manifest))
    for named in files:
        problem, found = _compare_file(results, named)
        objects, size = objects + 1, size + found
        if problem:
            note(named.key, problem)
    if not any(finding.problem != EXTRA for finding in findings):
        # Only sound tables are followed: what a damaged one names means nothing.
        try:
            checked = ordered_map(check, _once(objects_of(results, manifest)), READERS)
            shown = checked if quiet else track(STEP, checked, _expected(manifest), unit="objects")
            for named, problem, found in shown:
                objects, size = objects + 1, size + found
                if problem:
                    note(named.key, problem)
        except (pa.ArrowException, KeyError) as error:
            raise StorageError(
                f"The tables of the run '{run}' under {folder.uri} cannot be read: {error}.",
                "They are as they were written: read them with the version of clipseg-kfp that wrote them.",
            ) from error
    for part in manifest["parts"]:
        objects += 1
        if problem := _part_problem(results, part):
            note(part, problem)
    known = {named.key for named in files}
    for entry in folder.names(run_key(run, "")):
        if entry.key not in known and not is_progress(run, entry.key):
            note(entry.key, EXTRA)
    return Verified(objects, size, tuple(findings))


def _expected(manifest: dict[str, Any]) -> int:
    """How many objects the tables will name: masks, a label map and an overlay an image, at most."""
    return int(manifest["counts"]["masks"]) + 2 * int(manifest["counts"]["done"])


def _once(objects: Iterator[Named]) -> Iterator[Named]:
    last = ""
    for named in objects:
        if named.key != last:
            yield named
        last = named.key


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
        with local_copy(results, named.key) as path, path.open("rb") as stream:
            if not named.sha256:
                return _json_problem(stream.read()), path.stat().st_size
            same = hashlib.file_digest(stream, "sha256").hexdigest() == named.sha256
            return "" if same else CHANGED, path.stat().st_size
    except ObjectChangedError:
        return MISSING, 0


def _json_problem(data: bytes) -> str:
    try:
        json.loads(data)
    except ValueError:
        return CHANGED
    return ""


def _part_problem(results: Results, part: str) -> str:
    """A part's name is the digest of its bytes."""
    try:
        with local_copy(results, part) as path:
            return "" if part_key(path) == part else CHANGED
    except ObjectChangedError:
        return MISSING
    except pa.ArrowException:
        return CHANGED
