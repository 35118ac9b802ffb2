"""Committed runs without inference: real objects, tables and manifests, written as the steps write them."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clipseg_kfp import records
from clipseg_kfp.naming import digest, image_folder
from clipseg_kfp.results import IMAGES, MASKS, Attempt, Counts, Results
from clipseg_kfp.results.layout import content_key
from clipseg_kfp.results.shard_tables import part_key

Image = tuple[str, str, str]  # key, version, status


def _object(results: Results, column: str, stem: str, data: bytes, write: bool) -> dict[str, Any]:
    key = content_key(stem, data, ".png")
    if write:
        results.write(key, data)
    return {column: key, f"{column}_sha256": digest(data, 64), f"{column}_bytes": len(data)}


def write_run(
    results: Results,
    run: str,
    images: Sequence[Image],
    source: str = "s3://in",
    *,
    commit: bool = True,
    objects: bool = True,
    skipped: int = 0,
) -> Attempt:
    """Writes a run's objects, part, tables and, last, its manifest; ``objects=False`` writes tables only."""
    results.describe({"configuration": results.config})
    done = [image for image in images if image[2] == "done"]
    rows, masks = [], []
    for key, version, status in images:
        empty = dict.fromkeys(records.RUN_IMAGES.names)
        row = {**empty, "source": f"{source}/{key}", "key": key, "version": version, "status": status}
        if status == "done":
            place = image_folder(key, version)
            pixels = f"{key} {version}".encode()
            row |= _object(results, "label_map", f"labels/{place}", b"labels of " + pixels, objects)
            mask = _object(results, "mask", f"masks/{place}/cat", b"mask of " + pixels, objects)
            masks.append({**dict.fromkeys(records.MASKS.names), "key": key, "version": version,
                          "prompt": "cat", "probability": "", **mask})  # fmt: skip
        rows.append(row)
    with tempfile.TemporaryDirectory() as folder:
        tables = {IMAGES: (records.RUN_IMAGES, rows), MASKS: (records.MASKS, masks)}
        for name, (schema, content) in tables.items():
            records.write_parquet(Path(folder, name), schema, content)
        part = part_key(Path(folder, MASKS)) if objects else ""
        if part:
            results.upload(part, Path(folder, MASKS))
        attempt = results.begin(run, [part, images])
        for name in tables:
            attempt.add(name, Path(folder, name))
    if commit:
        counts = Counts(len(images) + skipped, len(done), skipped, len(images) - len(done), len(masks))
        parts = [part] if part else []
        body = {"source_uri": source, "dataset_digest": digest(images), "parts": parts, "prompts": []}
        attempt.commit(counts, body)
        results.point_to(run)
    return attempt
