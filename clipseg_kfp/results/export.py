"""Writes committed runs in other formats, from the bucket's tables as streams."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from clipseg_kfp.errors import ParameterError
from clipseg_kfp.results.commit import Results
from clipseg_kfp.results.current import fold
from clipseg_kfp.results.formats import NAMES as FORMATS
from clipseg_kfp.results.formats import TOLERANCE, export_named


def export_runs(
    results: Results,
    manifests: Sequence[dict[str, Any]],
    format_name: str,
    target: Path,
    *,
    keep_gone: bool = True,
    tolerance: float | None = None,
    image_url_prefix: str = "",
) -> tuple[int, int]:
    """Writes runs of one configuration together.

    An image of several runs is written once: in the version of the latest run. The tables of one run are on disk at
    a time, the masks of one image in memory; names take about 60 bytes per image.

    Args:
        results: where the runs are.
        manifests: of the runs.
        format_name: one of ``FORMATS``.
        target: the file to write; of YOLO a folder, or a file ``*.zip``.
        keep_gone: whether to write images as well that are no longer at their source.
        tolerance: how far polygons may deviate, in pixels; ``None`` is ``TOLERANCE``.
        image_url_prefix: of Label Studio's images, before their keys; empty takes the images' URIs.

    Returns:
        The number of images written, and of older versions left out.

    Raises:
        ParameterError: the format is unknown or does not take an option, the target is unusable, or two images have
            the same key.
        StorageError: a table cannot be read.
    """
    _check(format_name, target, tolerance, image_url_prefix)
    current = fold(results, manifests, keep_gone=keep_gone)
    current.check_keys()
    prompts = {prompt["id"]: prompt for manifest in manifests for prompt in manifest["prompts"]}
    categories = [(number, prompt["name"]) for number, prompt in sorted(prompts.items())]
    instances = {number for number, prompt in prompts.items() if prompt.get("instances")}

    def url(row: dict[str, Any]) -> str:
        return image_url_prefix + quote(row["key"]) if image_url_prefix else str(row["source"])

    export_named(
        format_name,
        target,
        current.images(),
        current.masks(),
        categories,
        instances=instances,
        tolerance=TOLERANCE if tolerance is None else tolerance,
        url=url,
    )
    return current.counts.done, current.older


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
