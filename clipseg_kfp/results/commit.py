"""The one way a run becomes visible.

All files of a run are written first, under names of their own; the manifest, with the sha256 of every file, comes
last, and only where there is none. This holds whoever else writes, and whenever a writer dies:

- The report tells when the run was made, so two attempts of one run would write other bytes under the same names.
  The first attempt claims the run's folder (``attempt.json``) with a digest of what it will write, and fixes the
  times. An attempt with the same content takes these times and writes the same bytes. An attempt with other content
  (after a killed one, for example) writes to a folder of its own inside the run's.
- Claim and manifest are created on the condition that there is no such object. Whether the store supports that is
  tried first: it is asked to create the configuration's description, which exists, with the same bytes. A store that
  supports conditions refuses, and others change nothing. This needs no right to delete.
- Where conditions are ignored, every attempt takes a folder of its own, and looks for a manifest right before it
  writes one. Of two manifests at the same time the last one stays, and both are true.
- An attempt that finds another's manifest with the same data takes it as its own.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from clipseg_kfp.errors import ObjectChangedError, ParameterError, StorageError
from clipseg_kfp.naming import digest
from clipseg_kfp.results.layout import (
    CLAIM,
    CONFIGURATION,
    LATEST,
    MANIFEST,
    RUNS,
    Counts,
    content_type,
    is_configuration,
    json_bytes,
    now,
    run_key,
)
from clipseg_kfp.runtime.concurrency import ordered_map
from clipseg_kfp.storage import ConditionUnsupportedError, Entry, Folder

READERS = 16  # small objects read at once
_FIRST = (0, "", "")  # in the order of commits, before all runs


@dataclass
class Results:
    """The results of one configuration.

    Args:
        output: the output prefix that the user named.
        config: the configuration's digest.
    """

    output: Folder
    config: str

    @property
    def folder(self) -> Folder:
        """The configuration's own folder; mask keys in the tables are relative to it."""
        return self.output.child(self.config)

    def write(self, key: str, data: bytes) -> None:
        """Writes an object below the configuration's folder, with the content type of its suffix."""
        self.folder.write(key, data, content_type(key))

    def upload(self, key: str, path: Path) -> None:
        """Copies a local file below the configuration's folder, as a stream."""
        self.folder.upload(key, path, content_type(key))

    def describe(self, value: dict[str, Any]) -> None:
        """Writes what the configuration's digest stands for, or the description that exists once more.

        So an output that cannot be written fails before any work.
        """
        try:
            data = self.folder.read(CONFIGURATION)
        except ObjectChangedError:
            data = json_bytes(value)
        self.write(CONFIGURATION, data)

    @cached_property
    def fenced(self) -> bool:
        """Whether the store can create an object on the condition that there is none, found out by trying.

        Raises:
            StorageError: the configuration's description is gone.
        """
        try:
            data = self.folder.read(CONFIGURATION)
        except ObjectChangedError as error:
            raise StorageError(
                f"{self.folder.locate(CONFIGURATION)} is gone: the output was emptied since the run began.",
                "Nothing was committed. Run again.",
                code="output_emptied",
                where=CONFIGURATION,
            ) from error
        try:
            return not self.folder.create(CONFIGURATION, data, content_type(CONFIGURATION))
        except ConditionUnsupportedError:
            return False

    def begin(self, run: str, content: Any, seconds: dict[str, float] | None = None) -> Attempt:
        """Claims a place for a run's files.

        Args:
            run: the run's ID.
            content: JSON value that differs where any of the files will differ, apart from times.
            seconds: that each step took; the claim fixes them.
        """
        mark, took = digest(content), {"seconds": seconds} if seconds else {}
        if not self.fenced:
            created = now()
            return Attempt(self, run, created, f"{digest([mark, created])}/", seconds=seconds or {})
        for place in ("", f"{mark}/"):
            key = run_key(run, place + CLAIM)
            claim = json_bytes({"attempt": mark, "created": now(), **took})
            mine = self.folder.create(key, claim, content_type(key))
            if not mine:
                claim = self.folder.read(key)
            claimed = json.loads(claim)
            if claimed["attempt"] == mark:
                if not mine:  # makes it young again: gc removes an old claim that no manifest names yet
                    self.write(key, claim)
                attempt = Attempt(self, run, claimed["created"], place, seconds=claimed.get("seconds", {}))
                attempt.remember(CLAIM, claim)
                return attempt
        raise AssertionError(f"{run_key(run, mark)} is claimed by another content")

    def manifest(self, run: str) -> dict[str, Any] | None:
        """Reads the manifest of a committed run; ``None`` where there is no such run."""
        key = run_key(run, MANIFEST)
        if self.folder.stat(key) is None:
            return None
        return self.read_manifest(key)

    def read_manifest(self, key: str) -> dict[str, Any]:
        """Reads a manifest by its key.

        Raises:
            ObjectChangedError: there is none (any more).
            StorageError: it is not a manifest of a run.
        """
        try:
            manifest = json.loads(self.folder.read(key))
            if {"run", "created", "counts", "files"} <= set(manifest):
                return dict(manifest)
        except (ValueError, TypeError):
            pass
        raise StorageError(
            f"{self.folder.locate(key)} is not a manifest of a run, or it is damaged.",
            "Restore it from a copy, or remove it: then the run does not exist, and its images are done again.",
            code="manifest_damaged",
            where=key,
        )

    def settle(self, run: str) -> None:
        """Creates a committed manifest once more: the store refuses, and removes what a killed attempt left of it."""
        key = run_key(run, MANIFEST)
        with suppress(ConditionUnsupportedError):
            if self.fenced:
                self.folder.create(key, self.folder.read(key), content_type(key))

    def name_taken(self, run: str) -> ParameterError:
        """The error for a run whose name another committed run has."""
        return ParameterError(
            f"There is already a run '{run}' under {self.folder.uri}.",
            "Give another outputs.run_id, or leave it empty.",
            code="run_exists",
            where="outputs.run_id",
        )

    def point_to(self, run: str) -> str:
        """Names a committed run in ``latest.json``, unless a later one is there; returns its manifest's URI."""
        key = run_key(run, MANIFEST)
        if self._turn(self._latest()) <= self._turn(key):  # an old run may be tried again
            self.write(LATEST, json_bytes({"run": run, "manifest": key}))
        return self.folder.locate(key)

    def _latest(self) -> str:
        """The key of the manifest that ``latest.json`` names; empty where that is missing or damaged."""
        with suppress(ObjectChangedError, ValueError, KeyError, TypeError):
            return str(json.loads(self.folder.read(LATEST))["manifest"])
        return ""

    def _turn(self, key: str) -> tuple[int, str, str]:
        """The place of a run in the order of commits; the first of all where its manifest is missing or damaged."""
        with suppress(ParameterError, StorageError):
            return commit_order(self.read_manifest(key)) if key else _FIRST
        return _FIRST

    def next_sequence(self, after: int = 0) -> int:
        """The place in the order of commits, of all configurations of the output, for the run that is committed now.

        Args:
            after: the highest place that the caller knows, as of the ledger.
        """
        latest = self._turn(self._latest())
        if latest == _FIRST and not after:  # without latest.json all manifests have to be read
            latest = max(map(commit_order, self.manifests()), default=_FIRST)
        others = (Results(self.output, config) for config in configurations(self.output))
        turns = ordered_map(lambda other: other._turn(other._latest()), others, READERS)
        return 1 + max(after, latest[0], *(turn[0] for turn in turns))

    def committed(self) -> Iterator[Entry]:
        """Lists the manifests without reading them; S3 lists a hundred runs and more per request."""
        for entry in self.folder.names(RUNS):
            if entry.key.count("/") == 2 and entry.key.endswith(f"/{MANIFEST}"):
                yield entry

    def manifests(self) -> Iterator[dict[str, Any]]:
        """Reads the manifests of all committed runs, several at once."""

        def read(key: str) -> dict[str, Any] | None:
            with suppress(ObjectChangedError):  # removed since it was listed
                return self.read_manifest(key)
            return None

        keys = (entry.key for entry in self.committed())
        yield from filter(None, ordered_map(read, keys, READERS))


@dataclass
class Attempt:
    """One try at writing a run.

    Attributes:
        results: where the run belongs.
        run: its ID.
        created: when its first attempt began.
        place: folder of its files inside the run's, with a slash; empty for the first attempt's.
        files: name, bytes and sha256 of what has been written.
        seconds: that each step took in the first attempt.
    """

    results: Results
    run: str
    created: str
    place: str = ""
    files: list[dict[str, Any]] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    def add(self, name: str, path: Path) -> None:
        """Copies a local file to the run, as a stream."""
        self.results.upload(run_key(self.run, self.place + name), path)
        self.files.append({"name": self.place + name, **facts_of(path)})

    def remember(self, name: str, data: bytes) -> None:
        """Lists a file in the manifest that is already written."""
        self.files.append({"name": self.place + name, "bytes": len(data), "sha256": digest(data, 64)})

    def commit(self, counts: Counts, body: dict[str, Any], after: int = 0) -> dict[str, Any]:
        """Writes the manifest: with it the run exists.

        Args:
            counts: must add up.
            body: further values of the manifest.
            after: see ``Results.next_sequence``.

        Returns:
            The manifest: this attempt's, or that of a faster one with the same data.

        Raises:
            ParameterError: another run of this name was committed meanwhile.
            StorageError: the counts do not add up, or the store refused.
        """
        counts.check()
        folder, key = self.results.folder, run_key(self.run, MANIFEST)
        manifest = {
            "format": "clipseg-kfp/run",
            "version": 1,
            "run": self.run,
            "config": self.results.config,
            "created": self.created,
            "sequence": self.results.next_sequence(after),
            "counts": vars(counts),
            **({"seconds": self.seconds} if self.seconds else {}),
            **body,
            "files": sorted(self.files, key=lambda entry: str(entry["name"])),
        }
        data = json_bytes(manifest)
        folder.settle()  # or the manifest might survive a power cut, and masks that it names might not
        if self.results.fenced:
            folder.create(key, data, content_type(key))
        elif folder.stat(key) is None:
            self.results.write(key, data)
            folder.settle()  # which ``create`` does by itself
        # An answer may be lost and the request repeated: only what is there counts.
        written = folder.read(key)
        if written == data:
            return manifest
        winner: dict[str, Any] = json.loads(written)
        if not same_data(winner, manifest):
            raise self.results.name_taken(self.run)
        return winner


def commit_order(manifest: dict[str, Any]) -> tuple[int, str, str]:
    """Sorts runs in the order of their commits, the earliest first.

    A clock may have been ahead, so each run is numbered after those that were committed when it was. Runs of versions
    that did not number them come first, by their time. Runs at once may have one number, and are sorted by time.
    """
    sequence = manifest.get("sequence", 0)
    return sequence if isinstance(sequence, int) else 0, str(manifest["created"]), str(manifest["run"])


def same_data(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Says whether two manifests name the same images with the same masks."""
    return all(one.get(name) == other.get(name) for name in ("dataset_digest", "parts"))


def file_name(manifest: dict[str, Any], name: str) -> str:
    """The path of a file of a committed run in the run's folder; empty if the run has no such file."""
    paths = (str(file["name"]) for file in manifest["files"])
    return next((path for path in paths if path.rpartition("/")[2] == name), "")


def file_key(manifest: dict[str, Any], name: str) -> str:
    """The same below the configuration's folder."""
    path = file_name(manifest, name)
    return run_key(manifest["run"], path) if path else ""


def facts_of(path: Path) -> dict[str, Any]:
    """Bytes and sha256 of a local file."""
    with path.open("rb") as stream:
        sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
        return {"bytes": stream.tell(), "sha256": sha256}


def configurations(output: Folder) -> list[str]:
    """Digests of the configurations that have results in an output."""
    return [name for name in output.folders() if is_configuration(name)]
