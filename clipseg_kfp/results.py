"""The layout of results in the bucket, and the one way a run becomes visible.

    <output>/<config>/masks/<source key>/<version>/<prompt>.png
    <output>/<config>/labels/<source key>/<version>.png
    <output>/<config>/overlays/<source key>/<version>.jpg
    <output>/<config>/parts/<part>.parquet          rows of one shard, written after its masks
    <output>/<config>/runs/<run>/…                  tables, report
    <output>/<config>/runs/<run>/manifest.json      written last: the run exists when, and only when, it does

Names derive from content, so nothing is ever overwritten with other bytes. A run's tables cover the images
that the run did; images that an earlier committed run had done are counted as skipped.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import io
import json
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from clipseg_kfp.errors import ObjectChangedError, ParameterError, StorageError
from clipseg_kfp.naming import digest, safe_segment
from clipseg_kfp.storage import Folder

#: Raised whenever the same inputs would give other pixels, so that old results are not taken for new ones.
ALGORITHM = 3
MANIFEST = "manifest.json"
QUARANTINE = "quarantine.parquet"

CONTENT_TYPES = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".json": "application/json",
    ".html": "text/html; charset=utf-8",
    ".parquet": "application/vnd.apache.parquet",
}


def configuration_digest(*, model: str, prompts: list[dict[str, Any]], settings: dict[str, Any]) -> str:
    """Names everything that decides a pixel of a mask.

    Embeddings are left out: their last bits differ from one kind of CPU to another, and with them every
    result would get a new name. Model and texts decide them.

    Args:
        model: digest of the checkpoint, tokenizer included.
        prompts: name, texts and threshold of each prompt, in order.
        settings: parameters of preprocessing and post-processing.

    Returns:
        16 hex digits.
    """
    return digest(
        {
            "algorithm": ALGORITHM,
            "model": model,
            "prompts": prompts,
            "settings": settings,
        }
    )


@dataclass(frozen=True)
class Counts:
    """What became of the images of a run; the first three add up to ``listed``."""

    listed: int = 0
    done: int = 0
    skipped: int = 0
    quarantined: int = 0
    masks: int = 0

    def check(self) -> None:
        """Raises ``StorageError`` unless every listed image is accounted for."""
        if self.listed != self.done + self.skipped + self.quarantined:
            raise StorageError(
                f"The counts do not add up: {self.listed} listed, but {self.done} done, "
                f"{self.skipped} skipped and {self.quarantined} quarantined.",
                "Nothing was committed. Run again; if it stays, a shard's output is missing.",
            )


@dataclass
class Results:
    """The results of one configuration.

    Args:
        output: the output prefix that the user named.
        config: the configuration's digest.
    """

    output: Folder
    config: str
    _files: dict[str, dict[str, Any]] = field(default_factory=dict)
    _created: str | None = None

    @property
    def folder(self) -> Folder:
        """The configuration's own folder; mask keys in the tables are relative to it."""
        return self.output.child(self.config)

    def write(self, key: str, data: bytes) -> None:
        """Writes an object below the configuration's folder, with the content type of its suffix."""
        self.folder.write(key, data, _content_type(key))

    def upload(self, key: str, path: Path) -> None:
        """Copies a local file below the configuration's folder, as a stream."""
        self.folder.upload(key, path, _content_type(key))

    def add_to_run(self, run: str, name: str, data: bytes) -> None:
        """Writes a file of a run and remembers it for the manifest."""
        self.write(_run_key(run, name), data)
        self._files[name] = {"name": name, "bytes": len(data), "sha256": digest(data, 64)}

    def add_file_to_run(self, run: str, name: str, path: Path) -> None:
        """Copies a local file to a run, as a stream, and remembers it for the manifest."""
        with path.open("rb") as stream:
            sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
            size = stream.tell()
        self.upload(_run_key(run, name), path)
        self._files[name] = {"name": name, "bytes": size, "sha256": sha256}

    def manifest(self, run: str) -> dict[str, Any] | None:
        """Reads the manifest of a committed run; ``None`` where there is no such run."""
        key = _run_key(run, MANIFEST)
        if self.folder.stat(key) is None:
            return None
        manifest: dict[str, Any] = json.loads(self.folder.read(key))
        return manifest

    def name_taken(self, run: str) -> ParameterError:
        """The error for a run whose name another committed run has."""
        return ParameterError(
            f"The run '{run}' exists already under {self.folder.uri}.",
            "Name another run_id, or leave it empty.",
        )

    def created(self, run: str) -> str:
        """When the run was committed, or the time now: a repeated attempt writes what is there already."""
        if self._created is None:
            there = self.manifest(run)
            self._created = str(there["created"]) if there else now()
        return self._created

    def commit(self, run: str, counts: Counts, body: dict[str, Any]) -> str:
        """Writes the manifest, and with it makes the run exist.

        Args:
            run: the run's ID.
            counts: must add up.
            body: what else the manifest says.

        Returns:
            The manifest's URI.

        Raises:
            StorageError: the counts do not add up, or the store refused.
        """
        counts.check()
        manifest = {
            "format": "clipseg-kfp/run",
            "version": 1,
            "run": run,
            "config": self.config,
            "created": self.created(run),
            "counts": vars(counts),
            **body,
            "files": sorted(self._files.values(), key=lambda entry: str(entry["name"])),
        }
        self.write(_run_key(run, MANIFEST), json_bytes(manifest))
        return self.point_to(run)

    def point_to(self, run: str) -> str:
        """Names a committed run in ``latest.json``; returns its manifest's URI."""
        key = _run_key(run, MANIFEST)
        self.write("latest.json", json_bytes({"run": run, "manifest": key}))
        return self.folder.locate(key)

    def manifests(self) -> Iterator[dict[str, Any]]:
        """Reads the manifests of all committed runs."""
        for entry in self.folder.entries("runs/"):
            if entry.key.endswith(f"/{MANIFEST}"):
                yield json.loads(self.folder.read(entry.key))

    def finished(self) -> set[tuple[str, str]]:
        """Returns (key, version) of every image that a committed run has done."""
        return self.history()[0]

    def history(self) -> tuple[set[tuple[str, str]], set[tuple[str, str]]]:
        """Returns (key, version) of the images that committed runs have done, and that they quarantined."""
        done: set[str] = set()
        quarantined: set[str] = set()
        for manifest in self.manifests():
            done.update(manifest.get("parts", []))
            if manifest["counts"]["quarantined"] and any(
                file["name"] == QUARANTINE for file in manifest["files"]
            ):
                quarantined.add(_run_key(manifest["run"], QUARANTINE))
        finished = {image for name in sorted(done) for image in self._images(name)}
        failed: set[tuple[str, str]] = set()
        for name in sorted(quarantined):
            with suppress(ObjectChangedError):  # tidied up: it decides nothing but an order
                failed |= self._images(name)
        return finished, failed - finished

    def _images(self, name: str) -> set[tuple[str, str]]:
        table = pq.read_table(io.BytesIO(self.folder.read(name)), columns=["key", "version"])
        # some have a row a (image, prompt): group before it becomes Python objects
        rows = table.group_by(["key", "version"]).aggregate([]).to_pylist()
        return {(row["key"], row["version"]) for row in rows}


def _run_key(run: str, name: str) -> str:
    return f"runs/{safe_segment(run)}/{name}"


def _content_type(key: str) -> str:
    return CONTENT_TYPES.get(key[key.rfind(".") :], "application/octet-stream")


def json_bytes(value: Any) -> bytes:
    """Readable JSON with a newline at its end."""
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()


def now() -> str:
    """The time in UTC, ISO 8601, to the second; that of SOURCE_DATE_EPOCH where it is set."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    moment = dt.datetime.fromtimestamp(int(epoch), dt.UTC) if epoch else dt.datetime.now(dt.UTC)
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")
