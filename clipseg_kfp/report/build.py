"""Builds the report from a run's tables, as streams: memory does not grow with the run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clipseg_kfp import records
from clipseg_kfp.masks.raster import palette
from clipseg_kfp.report.content import (
    BINS,
    Agreement,
    GalleryItem,
    Heat,
    PromptRow,
    QuarantineRow,
    Report,
    Tile,
)
from clipseg_kfp.report.facts import facts_of
from clipseg_kfp.report.selection import Name, choice_of, first_heat, margin
from clipseg_kfp.results import Counts

QUARANTINE_ROWS = 200
REASONS = 50
NOTES = 20  # of each kind
_MARGIN = ["key", "version", "threshold", "max_probability"]
PRINTED = [*_MARGIN, "source", "prompt", "width", "height", "area", "coverage", "score"]


@dataclass(frozen=True)
class Tables:
    """Files that the report is made from.

    Attributes:
        masks: ``masks.parquet``, of the run or of its shards in order.
        galleries: ``gallery.arrow`` of the shards.
        per_image: ``per_image.parquet``.
        truths: rows of ``records.TRUTHS``.
    """

    masks: Sequence[Path]
    galleries: Sequence[Path]
    per_image: Path
    truths: Path | None = None

    def choice(self) -> dict[Name, str]:
        """Which pictures are shown, and why; see ``selection.choose``."""
        names = (
            row
            for path in self.galleries
            for batch in records.read_arrow(path)
            for row in batch.select(["key", "version"]).to_pylist()
        )
        masks = (row for path in self.masks for row in records.read_parquet(path, columns=_MARGIN))
        return choice_of(
            names,
            masks,
            records.read_parquet(self.per_image, columns=["key", "version", "iou", "tp", "fp", "fn"]),
        )

    def pictures(self, chosen: dict[Name, str]) -> dict[Name, dict[str, Any]]:
        """The chosen rows of ``records.GALLERY``."""
        pictures = {}
        for path in self.galleries:
            for batch in records.read_arrow(path):
                for row in batch.to_pylist():
                    if (row["key"], row["version"]) in chosen:
                        pictures[row["key"], row["version"]] = row
        return pictures

    def truth(self) -> dict[Name, bytes]:
        """Pictures of ground truth, at most one per picture of a gallery."""
        if self.truths is None:
            return {}
        batches = records.read_arrow(self.truths)
        return {(row["key"], row["version"]): row["png"] for batch in batches for row in batch.to_pylist()}

    def ious(self, chosen: dict[Name, str]) -> tuple[dict[tuple[str, str, str], float], set[Name]]:
        """IoU of the chosen images by prompt, and the images with foreground in their ground truth."""
        ious, present = {}, set()
        for row in records.read_parquet(
            self.per_image, columns=["key", "version", "prompt", "iou", "tp", "fn"]
        ):
            name = (row["key"], row["version"])
            if name in chosen:
                ious[*name, row["prompt"]] = row["iou"]
                if row["tp"] + row["fn"]:
                    present.add(name)
        return ious, present

    def rows(self) -> Iterator[dict[str, Any]]:
        """The rows of all masks, with the columns that the page shows."""
        for path in self.masks:
            yield from records.read_parquet(path, columns=PRINTED)


@dataclass
class _Sum:
    images: int = 0
    found: int = 0
    coverage: float = 0.0
    score: float = 0.0
    coverages: list[int] = field(default_factory=lambda: [0] * BINS)
    scores: list[int] = field(default_factory=lambda: [0] * BINS)

    def add(self, row: dict[str, Any]) -> None:
        self.images += 1
        self.coverage += row["coverage"]
        if row["area"]:
            self.found += 1
            self.score += row["score"]
            for bins, value in ((self.coverages, row["coverage"]), (self.scores, row["score"])):
                bins[min(max(int(value * BINS), 0), BINS - 1)] += 1


def build_report(
    run: str,
    config: str,
    counts: Counts,
    metrics: dict[str, Any],
    curves: dict[str, Any],
    body: dict[str, Any],
    tables: Tables,
    quarantine: list[dict[str, Any]],
    reasons: dict[str, int],
    created: str = "",
) -> Report:
    """Builds the report of a run.

    Args:
        run: the run's ID.
        config: the configuration's digest.
        counts: of images by outcome.
        metrics: content of ``metrics.json``.
        curves: content of ``curves.json``.
        body: the manifest's own fields (source, model, prompts).
        tables: the run's tables and pictures.
        quarantine: rows of ``records.QUARANTINE``; the first are shown.
        reasons: number of quarantined images by reason.
        created: when the run was committed, ISO 8601.
    """
    chosen = tables.choice()
    pictures, truths = tables.pictures(chosen), tables.truth()
    ious, present = tables.ious(chosen)
    sums: dict[str, _Sum] = {prompt["name"]: _Sum() for prompt in body["prompts"]}
    tiles: dict[Name, list[Tile]] = {}
    margins: dict[Name, list[float]] = {}
    shown: dict[Name, dict[str, Any]] = {}
    for row in tables.rows():
        sums[row["prompt"]].add(row)
        name = (row["key"], row["version"])
        if name in pictures:
            shown[name] = row
            iou = ious.get((*name, row["prompt"]))
            margins.setdefault(name, []).append(margin(row))
            tiles.setdefault(name, []).append(Tile(row["prompt"], row["coverage"], row["score"], iou))
    return Report(
        title=body["source_uri"],
        ignored=body.get("ignored"),
        run=run,
        created=created,
        facts=facts_of(config, body),
        counts=dict(vars(counts)),
        mean_iou=metrics["mean_iou"],
        prompts=_prompts(body["prompts"], sums, metrics["per_prompt"], curves["per_prompt"]),
        quarantine=tuple(
            QuarantineRow(row["key"], row["reason"], row["detail"]) for row in quarantine[:QUARANTINE_ROWS]
        ),
        quarantine_total=sum(reasons.values()),
        gallery=tuple(
            GalleryItem(
                key=shown[name]["key"],
                source=shown[name]["source"],
                width=shown[name]["width"],
                height=shown[name]["height"],
                preview=pictures[name]["preview"],
                overlay=pictures[name]["overlay"],
                tiles=tuple(tiles[name]),
                reason=reason,
                heats=_heats(pictures[name]["heats"], reason, tiles[name], margins[name]),
                truth=truths.get(name, b""),
                nothing=name not in present,
            )
            for name, reason in chosen.items()
        ),
        notes=(
            *_notes(
                "Ground truth left out, because no prompt has its name: {}", metrics["unmatched_ground_truth"]
            ),
            *_notes("Ground truth left out: {}", metrics["unusable_ground_truth"]),
        ),
        reasons=tuple(sorted(reasons.items(), key=lambda item: (-item[1], item[0]))[:REASONS]),
        deleted=body["deleted"],
        thresholds=tuple(curves["thresholds"]),
        mean_interval=metrics["mean_iou_interval"] and tuple(metrics["mean_iou_interval"]),
        pooled=curves["all"],
        sweep=metrics["sweep"],
        dice=metrics["dice"],
    )


def _heats(
    heats: list[dict[str, Any]], reason: str, tiles: list[Tile], margins: list[float]
) -> tuple[Heat, ...]:
    """Heat maps of an image; the prompt that it was chosen for comes first."""
    if not heats:
        return ()
    known = {
        tile.prompt: (unclear, tile.iou, tile.coverage) for tile, unclear in zip(tiles, margins, strict=True)
    }
    first = first_heat(reason, known, [heat["prompt"] for heat in heats])
    ordered = sorted(heats, key=lambda heat: heat["prompt"] != first)
    return tuple(Heat(heat["prompt"], heat["jpeg"]) for heat in ordered)


def _notes(form: str, texts: list[str]) -> list[str]:
    """The first notes of a kind: a file of ground truth may have ten thousand classes."""
    rest = len(texts) - NOTES
    more = [f"… and {rest:,} more of this kind: see metrics.json."] if rest > 0 else []
    return [form.format(text) for text in texts[:NOTES]] + more


def _prompts(
    prompts: list[dict[str, Any]], sums: dict[str, _Sum], measured: dict[str, Any], curves: dict[str, Any]
) -> tuple[PromptRow, ...]:
    colors = palette(max(prompt["id"] for prompt in prompts)).tolist()
    rows: list[PromptRow] = []
    for prompt in prompts:
        red, green, blue = colors[prompt["id"] - 1]
        total, figures = sums[prompt["name"]], measured.get(prompt["name"])
        curve = curves.get(prompt["name"])
        rows.append(
            PromptRow(
                name=prompt["name"],
                texts=tuple(prompt["texts"]) or (prompt["description"],),
                color=f"#{red:02x}{green:02x}{blue:02x}",
                threshold=prompt["threshold"],
                images=total.found,
                mean_coverage=total.coverage / total.images if total.images else 0.0,
                mean_score=total.score / total.found if total.found else 0.0,
                coverages=tuple(total.coverages),
                scores=tuple(total.scores),
                agreement=Agreement(figures["images"], figures, curve) if figures else None,
            )
        )
    return tuple(rows)
