"""Writes committed runs in other formats, from the bucket's tables as streams."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any
from urllib.parse import quote

from clipseg_kfp import records
from clipseg_kfp.errors import ParameterError
from clipseg_kfp.results.commit import Results, file_key
from clipseg_kfp.results.formats import NAMES as FORMATS
from clipseg_kfp.results.formats import TOLERANCE, export_named
from clipseg_kfp.results.inventory import local_copy
from clipseg_kfp.results.layout import IMAGES, MASKS, image_id


@dataclass(frozen=True)
class _Part:
    """A run, and which of its done images are exported, in the table's order."""

    manifest: dict[str, Any]
    taken: bytearray


def export_runs(
    results: Results,
    manifests: Sequence[dict[str, Any]],
    format_name: str,
    target: Path,
    *,
    tolerance: float | None = None,
    image_url_prefix: str = "",
) -> tuple[int, int]:
    """Writes runs of one configuration together.

    An image of several runs is written once: in the version of the latest run. The tables of one run are on disk at
    a time, the masks of one image in memory; names take about 100 bytes per image.

    Args:
        results: where the runs are.
        manifests: of the runs, the latest first.
        format_name: one of ``FORMATS``.
        target: the file to write; of YOLO a folder, or a file ``*.zip``.
        tolerance: how far polygons may deviate, in pixels; ``None`` is ``TOLERANCE``.
        image_url_prefix: of Label Studio's images, before their keys; empty takes the images' URIs.

    Returns:
        The number of images written, and of older versions left out.

    Raises:
        ParameterError: the format is unknown or does not take an option, or the target is unusable.
        StorageError: a table cannot be read.
    """
    _check(format_name, target, tolerance, image_url_prefix)
    parts, older = _take(results, manifests)
    images, masks = _images(results, parts), _masks(results, parts)
    prompts = {prompt["id"]: prompt for manifest in manifests for prompt in manifest["prompts"]}
    categories = [(number, prompt["name"]) for number, prompt in sorted(prompts.items())]
    instances = {number for number, prompt in prompts.items() if prompt.get("instances")}

    def url(row: dict[str, Any]) -> str:
        return image_url_prefix + quote(row["key"]) if image_url_prefix else str(row["source"])

    reach = TOLERANCE if tolerance is None else tolerance
    export_named(
        format_name, target, images, masks, categories, instances=instances, tolerance=reach, url=url
    )
    return sum(sum(part.taken) for part in parts), older


def _check(format_name: str, target: Path, tolerance: float | None, image_url_prefix: str) -> None:
    if format_name not in FORMATS:
        raise ParameterError(
            f"There is no format '{format_name}'.",
            f"Take one of {', '.join(FORMATS)}.",
            code="format_unknown",
            where="format",
        )
    unused = ""
    if tolerance is not None and not format_name.endswith("-polygons"):
        unused = "tolerance"
    elif image_url_prefix and not format_name.startswith("labelstudio"):
        unused = "image_url_prefix"
    if unused:
        raise ParameterError(
            f"The format '{format_name}' does not take {unused}.",
            "Leave it out.",
            code="format_option",
            where=unused,
        )
    if tolerance is not None and not 0 <= tolerance < math.inf:
        raise ParameterError(
            f"The tolerance is {tolerance}.",
            "Give pixels, 0 or more; 0 is exact.",
            code="tolerance_out_of_range",
            where="tolerance",
        )
    if target.is_dir() and format_name != "yolo":
        raise ParameterError(
            f"{target} is a folder.",
            "Name a file: --out masks.json.",
            code="export_target_folder",
            where=str(target),
        )


def _take(results: Results, manifests: Sequence[dict[str, Any]]) -> tuple[list[_Part], int]:
    parts, older = [], 0
    seen: set[bytes] = set()
    for manifest in manifests:
        taken = bytearray()
        for row in _rows(results, manifest, IMAGES, ["key", "status"]):
            if row["status"] != "done":
                continue
            name = image_id(row["key"])
            taken.append(name not in seen)
            older += name in seen
            seen.add(name)
        parts.append(_Part(manifest, taken))
    return parts, older


def _images(results: Results, parts: Sequence[_Part]) -> Iterator[dict[str, Any]]:
    for part in parts:
        rows = (row for row in _rows(results, part.manifest, IMAGES) if row["status"] == "done")
        for row, taken in zip(rows, part.taken, strict=True):
            if taken:
                yield row


def _masks(results: Results, parts: Sequence[_Part]) -> Iterator[dict[str, Any]]:
    """Rows of masks; every done image has some, in the order of images."""
    for part in parts:
        groups = groupby(_rows(results, part.manifest, MASKS), lambda row: (row["key"], row["version"]))
        for (_, group), taken in zip(groups, part.taken, strict=True):
            if taken:
                yield from group


def _rows(
    results: Results, manifest: dict[str, Any], name: str, columns: list[str] | None = None
) -> Iterator[dict[str, Any]]:
    with local_copy(results, file_key(manifest, name)) as path:
        yield from records.read_parquet(path, columns)
