"""The page of the current state of a configuration, rebuilt from the tables and overlays of its runs.

Plain pictures, heat maps and pictures of ground truth are only in the runs' own pages.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from heapq import nlargest, nsmallest
from itertools import groupby, islice
from operator import itemgetter
from pathlib import Path
from typing import Any

import pyarrow as pa

from clipseg_kfp import records
from clipseg_kfp.errors import ObjectChangedError
from clipseg_kfp.report.build import PRINTED, QUARANTINE_ROWS, Tables, build_report
from clipseg_kfp.report.render import render_report
from clipseg_kfp.report.selection import GALLERY_ITEMS, Name, choose, lot, margin
from clipseg_kfp.results import MASKS
from clipseg_kfp.results.commit import READERS
from clipseg_kfp.results.current import Current
from clipseg_kfp.results.figures import PER_IMAGE, measure
from clipseg_kfp.runtime.concurrency import ordered_map

_version = itemgetter("key", "version")


def render_current(current: Current) -> str:
    """Rebuilds the page; tables pass through a temporary folder, so memory does not grow with the images.

    Args:
        current: the state.

    Raises:
        StorageError: a table cannot be read.
    """
    with tempfile.TemporaryDirectory(prefix="clipseg-kfp-") as work:
        masks, per_image, gallery = (Path(work, name) for name in (MASKS, PER_IMAGE, "gallery.arrow"))
        schema = pa.schema([records.MASKS.field(name) for name in PRINTED])
        records.write_parquet(masks, schema, current.masks(PRINTED))
        figures = measure(current, per_image)
        _gallery(current, _choice(masks, per_image), gallery)
        reasons: Counter[str] = Counter()
        first: list[dict[str, Any]] = []
        for row in current.quarantine():
            reasons[row["reason"]] += 1
            first += [row] if len(first) < QUARANTINE_ROWS else []
        latest, runs = current.latest, [share.manifest for share in current.shares]
        ways = [way for manifest in runs for way in manifest.get("inference", [])]
        body = {
            **latest,
            "source_uri": ", ".join(current.sources[:3]) + (", …" if len(current.sources) > 3 else ""),
            "inference": [way for number, way in enumerate(ways) if way not in ways[:number]],
            "deleted": current.gone,
        }
        report = build_report(
            latest["run"],
            latest["config"],
            current.counts,
            figures.metrics,
            figures.curves,
            body,
            Tables([masks], [gallery], per_image),
            first,
            dict(reasons),
            latest["created"],
        )
        return render_report(replace(report, runs=len(current.manifests)))


def _choice(masks: Path, per_image: Path) -> list[Name]:
    """As many images as a gallery shows, of all of the state; memory holds a few times as many."""

    def margins() -> Any:
        rows = records.read_parquet(masks, ["key", "version", "threshold", "max_probability"])
        for name, group in groupby(rows, _version):
            yield min(map(margin, group)), name

    def ious() -> Any:
        rows = records.read_parquet(per_image, ["key", "version", "iou", "tp", "fp", "fn"], 128)
        for name, group in groupby(rows, _version):
            values = [row["iou"] for row in group if row["tp"] + row["fp"] + row["fn"]]
            if values:
                yield sum(values) / len(values), name

    few = nsmallest(GALLERY_ITEMS, margins())
    few += nsmallest(GALLERY_ITEMS, margins(), key=lambda item: lot(item[1]))
    measured = {
        name: iou for iou, name in (*nsmallest(GALLERY_ITEMS, ious()), *nlargest(GALLERY_ITEMS, ious()))
    }
    few += ((unclear, name) for unclear, name in margins() if name in measured)
    known = {name: unclear for unclear, name in few}
    measured |= {name: iou for iou, name in ious() if name in known}
    return list(choose(known, measured))


def _gallery(current: Current, names: list[Name], path: Path) -> None:
    """Writes the overlays of these images as a gallery; one that is gone is left out."""
    wanted = set(names)
    columns = ["key", "version", "overlay"]
    found = (row for row in current.images(columns) if row["overlay"] and _version(row) in wanted)

    def read(row: dict[str, Any]) -> dict[str, Any] | None:
        with suppress(ObjectChangedError):
            data = current.results.folder.read(row["overlay"])
            return {
                "key": row["key"],
                "version": row["version"],
                "preview": b"",
                "overlay": data,
                "heats": [],
            }
        return None

    with records.ArrowWriter(path, records.GALLERY) as gallery:
        for row in ordered_map(read, islice(found, len(wanted)), READERS):
            if row:
                gallery.append(row)
