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
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pyarrow.parquet as pq

from clipseg_kfp.errors import StorageError
from clipseg_kfp.naming import digest, safe_segment
from clipseg_kfp.storage import Folder

#: Raised whenever the same inputs would give other pixels, so that old results are not taken for new ones.
ALGORITHM = 1
MANIFEST = "manifest.json"

CONTENT_TYPES = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".json": "application/json",
    ".html": "text/html; charset=utf-8",
    ".parquet": "application/vnd.apache.parquet",
}


def configuration_digest(
    *, model: str, prompts: list[dict[str, Any]], embeddings: bytes, settings: dict[str, Any]
) -> str:
    """Names everything that decides a pixel of a mask.

    Args:
        model: digest of the checkpoint.
        prompts: name and threshold of each prompt, in order.
        embeddings: the float32 embedding table's bytes.
        settings: parameters of preprocessing and post-processing.

    Returns:
        16 hex digits.
    """
    return digest(
        {
            "algorithm": ALGORITHM,
            "model": model,
            "prompts": prompts,
            "embeddings": digest(embeddings, 32),
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
        suffix = key[key.rfind(".") :]
        self.folder.write(key, data, CONTENT_TYPES.get(suffix, "application/octet-stream"))

    def add_to_run(self, run: str, name: str, data: bytes) -> None:
        """Writes a file of a run and remembers it for the manifest."""
        self.write(f"runs/{safe_segment(run)}/{name}", data)
        self._files[name] = {"name": name, "bytes": len(data), "sha256": digest(data, 64)}

    def created(self, run: str) -> str:
        """When the run was committed, or the time now: a repeated attempt writes what is there already."""
        key = f"runs/{safe_segment(run)}/{MANIFEST}"
        if self._created is None:
            there = self.folder.stat(key)
            self._created = str(json.loads(self.folder.read(key))["created"]) if there else now()
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
        key = f"runs/{safe_segment(run)}/{MANIFEST}"
        self.write(key, json_bytes(manifest))
        self.write("latest.json", json_bytes({"run": run, "manifest": key}))
        return self.folder.locate(key)

    def manifests(self) -> Iterator[dict[str, Any]]:
        """Reads the manifests of all committed runs."""
        for entry in self.folder.entries("runs/"):
            if entry.key.endswith(f"/{MANIFEST}"):
                yield json.loads(self.folder.read(entry.key))

    def finished(self) -> set[tuple[str, str]]:
        """Returns (key, version) of every image that a committed run has done."""
        parts = {part for manifest in self.manifests() for part in manifest.get("parts", [])}
        done: set[tuple[str, str]] = set()
        for part in sorted(parts):
            table = pq.read_table(io.BytesIO(self.folder.read(part)), columns=["key", "version"])
            # a row a (image, prompt): group before it becomes Python objects
            for row in table.group_by(["key", "version"]).aggregate([]).to_pylist():
                done.add((row["key"], row["version"]))
        return done


def json_bytes(value: Any) -> bytes:
    """Readable JSON with a newline at its end."""
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()


def now() -> str:
    """The time in UTC, ISO 8601, to the second."""
    return dt.datetime.now(dt.UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
