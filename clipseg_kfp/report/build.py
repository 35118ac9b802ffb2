"""Gathers what the report shows from a run's tables, as streams: memory does not grow with the run."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from clipseg_kfp import records
from clipseg_kfp.masks import palette
from clipseg_kfp.report.render import GalleryItem, PromptRow, QuarantineRow, Report, Tile
from clipseg_kfp.results import Counts

GALLERY_ITEMS = 24
QUARANTINE_ROWS = 200


@dataclass
class _Sum:
    images: int = 0
    found: int = 0
    coverage: float = 0.0
    score: float = 0.0

    def add(self, row: dict[str, Any]) -> None:
        self.images += 1
        self.coverage += row["coverage"]
        if row["area"]:
            self.found += 1
            self.score += row["score"]


def build_report(
    run: str,
    config: str,
    counts: Counts,
    metrics: dict[str, Any],
    body: dict[str, Any],
    masks: Path,
    quarantine: list[dict[str, Any]],
    gallery: Iterable[dict[str, Any]],
    created: str,
    quarantine_total: int | None = None,
) -> Report:
    """Puts a report together.

    Args:
        run: the run's ID.
        config: the configuration's digest.
        counts: what became of the images.
        metrics: content of ``metrics.json``.
        body: the manifest's own fields (source, model, prompts).
        masks: the run's ``masks.parquet``.
        quarantine: rows of ``records.QUARANTINE``; the first are shown.
        gallery: rows of ``records.GALLERY``; the first are taken.
        created: when the run was committed, ISO 8601.
        quarantine_total: how many rows there are, where ``quarantine`` holds the first of them only.
    """
    pictures = {(row["key"], row["version"]): row for row in islice(gallery, GALLERY_ITEMS)}
    sums: dict[str, _Sum] = {prompt["name"]: _Sum() for prompt in body["prompts"]}
    tiles: dict[tuple[str, str], list[Tile]] = {}
    shown: dict[tuple[str, str], dict[str, Any]] = {}
    for row in records.read_parquet(masks):
        sums[row["prompt"]].add(row)
        name = (row["key"], row["version"])
        if name in pictures:
            shown[name] = row
            tiles.setdefault(name, []).append(Tile(row["prompt"], row["coverage"], row["score"], None))
    return Report(
        title=body["source_uri"],
        run=run,
        created=created,
        facts=_facts(config, body),
        counts=dict(vars(counts)),
        mean_iou=metrics["mean_iou"],
        prompts=_prompts(body["prompts"], sums, metrics["per_prompt"]),
        quarantine=tuple(
            QuarantineRow(row["key"], row["reason"], row["detail"]) for row in quarantine[:QUARANTINE_ROWS]
        ),
        quarantine_total=len(quarantine) if quarantine_total is None else quarantine_total,
        gallery=tuple(
            GalleryItem(
                key=row["key"],
                source=row["source"],
                width=row["width"],
                height=row["height"],
                preview=pictures[name]["preview"],
                overlay=pictures[name]["overlay"],
                tiles=tuple(tiles[name]),
            )
            for name, row in shown.items()
        ),
        notes=tuple(
            f"Ground truth for '{name}' was left out: no prompt has that name."
            for name in metrics["unmatched_ground_truth"]
        ),
    )


def _facts(config: str, body: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    model = body["model"]
    return (
        ("Images", body["source_uri"]),
        ("Model", model["uri"]),
        ("Model digest", model["digest"]),
        ("Input size", f"{model['image_size']} px"),
        ("Configuration", config),
        ("Software", f"clipseg-kfp {body['software']['clipseg-kfp']}"),
    )


def _prompts(
    prompts: list[dict[str, Any]], sums: dict[str, _Sum], measured: dict[str, Any]
) -> tuple[PromptRow, ...]:
    colors = palette(max(prompt["id"] for prompt in prompts)).tolist()
    rows = []
    for prompt in prompts:
        red, green, blue = colors[prompt["id"] - 1]
        total = sums[prompt["name"]]
        rows.append(
            PromptRow(
                name=prompt["name"],
                texts=tuple(prompt["texts"]) or (prompt["description"],),
                color=f"#{red:02x}{green:02x}{blue:02x}",
                threshold=prompt["threshold"],
                images=total.found,
                mean_coverage=total.coverage / total.images if total.images else 0.0,
                mean_score=total.score / total.found if total.found else 0.0,
                iou=measured.get(prompt["name"], {}).get("iou"),
            )
        )
    return tuple(rows)
