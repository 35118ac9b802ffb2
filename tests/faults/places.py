"""Where results go in the matrices, a folder or a bucket of the real store, and what a look at it tells."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import pyarrow.parquet as pq
from minio import Minio

Objects = dict[str, bytes]  # by name below the output


class Place(Protocol):
    """An output of a run.

    Attributes:
        uri: as the suite takes it.
        environment: how the suite finds the store.
        roots: local folders that belong to it, by a short name.
        remote: beginning of its objects in a store, ``bucket/prefix/``; empty for a folder.
    """

    uri: str
    environment: dict[str, str]
    roots: dict[str, Path]
    remote: str

    def read(self) -> Objects:
        """All that lies there, temporary files included."""

    def fill(self, objects: Objects) -> None:
        """Puts objects there."""

    def beside(self, name: str) -> Place:
        """Another place of this kind."""

    def clear(self) -> None:
        """Removes all that lies there."""


class FolderPlace:
    """A folder."""

    remote = ""

    def __init__(self, folder: Path) -> None:
        self.folder, self.uri = folder, str(folder)
        self.roots, self.environment = {"out": folder}, dict[str, str]()

    def read(self) -> Objects:
        """All files, hidden ones included."""
        return {
            path.relative_to(self.folder).as_posix(): path.read_bytes()
            for path in self.folder.rglob("*")
            if path.is_file()
        }

    def fill(self, objects: Objects) -> None:
        """Writes files."""
        for key, data in objects.items():
            path = self.folder / key
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)

    def beside(self, name: str) -> FolderPlace:
        """A folder beside this one."""
        return FolderPlace(self.folder.with_name(name))

    def clear(self) -> None:
        """Removes the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)


@dataclass
class BucketPlace:
    """A prefix of a bucket."""

    environment: dict[str, str]
    bucket: str
    prefix: str
    roots: dict[str, Path] = field(default_factory=dict)

    @property
    def uri(self) -> str:
        """The prefix, as the suite takes it."""
        return f"s3://{self.bucket}/{self.prefix}"

    @property
    def remote(self) -> str:
        """The beginning of the objects' paths."""
        return f"{self.bucket}/{self.prefix}/"

    def _client(self) -> Minio:
        return Minio(
            self.environment["S3_ENDPOINT"].removeprefix("http://"),
            access_key=self.environment["AWS_ACCESS_KEY_ID"],
            secret_key=self.environment["AWS_SECRET_ACCESS_KEY"],
            secure=False,
            region=self.environment["AWS_REGION"],
        )

    def read(self) -> Objects:
        """All objects."""
        client, found = self._client(), {}
        for item in client.list_objects(self.bucket, f"{self.prefix}/", recursive=True):
            assert item.object_name
            response = client.get_object(self.bucket, item.object_name)
            found[item.object_name.removeprefix(f"{self.prefix}/")] = response.read()
            response.release_conn()
        return found

    def fill(self, objects: Objects) -> None:
        """Writes objects."""
        client = self._client()
        for key, data in objects.items():
            client.put_object(self.bucket, f"{self.prefix}/{key}", io.BytesIO(data), len(data))

    def beside(self, name: str) -> BucketPlace:
        """Another prefix of the bucket."""
        return BucketPlace(self.environment, self.bucket, name)

    def clear(self) -> None:
        """Leaves the objects: a bucket is for one test."""


@dataclass(frozen=True)
class Difference:
    """How two states of a place differ.

    Attributes:
        lost: names that are missing, or have other bytes.
        duplicated: names that should not be there.
    """

    lost: list[str]
    duplicated: list[str]


def compare(expected: Objects, found: Objects) -> Difference:
    """Compares names and bytes."""
    lost = [key for key, data in expected.items() if found.get(key) != data]
    return Difference(sorted(lost), sorted(found.keys() - expected.keys()))


def committed(objects: Objects) -> dict[str, dict[str, Any]]:
    """The manifests that a reader finds, by the run's name.

    Raises:
        AssertionError: something that a manifest names is missing or has other bytes, its counts do not add
            up, or ``latest.json`` names a run that is not there.
    """
    found: dict[str, dict[str, Any]] = {}
    for key, data in objects.items():
        config, _, rest = key.partition("/")
        if key.endswith("/latest.json"):
            assert f"{config}/{json.loads(data)['manifest']}" in objects, f"{key} names no run"
        if not (rest.startswith("runs/") and key.endswith("/manifest.json")):
            continue
        manifest = json.loads(data)
        found[manifest["run"]] = manifest
        _check_files(objects, config, key.rpartition("/")[0], manifest)
    return found


def _check_files(objects: Objects, config: str, place: str, manifest: dict[str, Any]) -> None:
    for file in manifest["files"]:
        content = objects.get(f"{place}/{file['name']}")
        assert content is not None, f"{place}/{file['name']} is missing"
        assert len(content) == file["bytes"] and sha256(content) == file["sha256"], file
    for part in manifest.get("parts", []):
        assert f"{config}/{part}" in objects, f"{part} is missing"
    counts = manifest["counts"]
    assert counts["listed"] == counts["done"] + counts["skipped"] + counts["quarantined"], counts
    rows = masks_of(objects, config, manifest)
    assert len(rows) == counts["masks"]
    for row in rows:
        assert sha256(objects[f"{config}/{row['mask']}"]) == row["mask_sha256"], row["mask"]
        assert not row["probability"] or f"{config}/{row['probability']}" in objects, row["probability"]


def masks_of(objects: Objects, config: str, manifest: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows of a committed run's masks."""
    (name,) = (file["name"] for file in manifest["files"] if file["name"].endswith("masks.parquet"))
    table = objects[f"{config}/runs/{manifest['run']}/{name}"]
    return pq.read_table(io.BytesIO(table)).to_pylist()


def done_twice(objects: Objects) -> int:
    """How many (image, prompt) were done by more committed runs than one."""
    times = Counter(
        (manifest["config"], row["key"], row["version"], row["prompt"])
        for manifest in committed(objects).values()
        for row in masks_of(objects, manifest["config"], manifest)
    )
    return sum(count - 1 for count in times.values())


def sha256(data: bytes) -> str:
    """The digest as manifests write it."""
    return hashlib.sha256(data).hexdigest()
