"""Reads a committed run back from the store, and shows it in a terminal."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from clipseg_kfp.naming import printable
from clipseg_kfp.records import parse_parquet
from clipseg_kfp.results import QUARANTINE
from clipseg_kfp.results.commit import file_name
from clipseg_kfp.runtime.screen import plain
from clipseg_kfp.storage import Folder, open_folder


@dataclass(frozen=True)
class RunSummary:
    """A committed run.

    Attributes:
        uri: of the manifest.
        folder: of the run's files.
        manifest: content of ``manifest.json``.
        metrics: content of ``metrics.json``.
        quarantine: rows of ``quarantine.parquet``.
    """

    uri: str
    folder: Folder
    manifest: dict[str, Any]
    metrics: dict[str, Any]
    quarantine: list[dict[str, Any]]

    def read(self, name: str) -> bytes:
        """Reads one of the run's files."""
        return self.folder.read(file_name(self.manifest, name))


def read_run(manifest_uri: str, endpoint: str = "") -> RunSummary:
    """Reads a run by the URI of its manifest.

    Raises:
        StorageError: there is no such run, or it cannot be read.
    """
    base, _, name = manifest_uri.rpartition("/")
    folder = open_folder(base, endpoint)
    manifest = json.loads(folder.read(name))
    quarantine = folder.read(file_name(manifest, QUARANTINE))
    return RunSummary(
        uri=manifest_uri,
        folder=folder,
        manifest=manifest,
        metrics=json.loads(folder.read(file_name(manifest, "metrics.json"))),
        quarantine=parse_parquet(quarantine).to_pylist(),
    )


def show(run: RunSummary, console: Console) -> None:
    """Prints counts, agreement with ground truth, the quarantine, and the URIs of masks and tables."""
    counts = run.manifest["counts"]
    table = Table(show_header=False)
    table.add_column(style="bold")
    table.add_column(justify="right")
    for name in ("listed", "done", "skipped", "quarantined", "masks"):
        table.add_row(name, f"{counts[name]:,}")
    if run.metrics["mean_iou"] is not None:
        table.add_row("mean IoU", f"{run.metrics['mean_iou']:.3f}")

    def titled(title: str, table: Table) -> None:  # a table's own title wraps at the table's width
        _line(console, title, style="italic")
        console.print(table)

    console.print()
    titled(f"Run {run.manifest['run']}", table)
    if run.metrics["per_prompt"]:
        titled("Agreement with ground truth", _agreement(run.metrics["per_prompt"]))
        for name, row in run.metrics["per_prompt"].items():
            if row.get("iou") is None:
                alarms = f"false alarms in {row.get('false_alarm_images', 0):,} of {row['images']:,} images"
                _line(console, f"{name}: not in the ground truth; {alarms}")
    if run.quarantine:
        titled("Quarantined", _quarantined(run.quarantine))
    if counts.get("left"):
        _line(console, f"{counts['left']:,} images are left for the next run.")
    if not counts["listed"]:
        console.print("There were no images.")
    elif not counts["done"] and counts["skipped"]:
        left = f" {counts['quarantined']:,} still cannot be used." if counts["quarantined"] else ""
        _line(
            console,
            f"Nothing new: {counts['skipped']:,} images were done before with this configuration.{left}",
        )
    _line(console, f"masks: {run.uri.rpartition('/runs/')[0]}/masks/")
    _line(console, f"tables and report: {run.uri.rpartition('/')[0]}/")


def _line(console: Console, text: str, **style: Any) -> None:
    """Prints a line that holds names from anywhere."""
    console.print(printable(text), soft_wrap=True, highlight=False, markup=False, emoji=False, **style)


def show_in_full(run: RunSummary, console: Console) -> None:
    """Prints what the run is, and then the same."""
    for label, value in (
        ("source", run.manifest["source_uri"]),
        ("model", run.manifest["model"]["uri"]),
        ("configuration", run.manifest["config"]),
        ("committed", run.manifest["created"]),
    ):
        _line(console, f"{label}: {value}")
    show(run, console)


def _agreement(prompts: dict[str, Any]) -> Table:
    table = Table()
    for name in ("prompt", "IoU", "95%", "precision", "recall", "best", "images"):  # they fit into 80 columns
        table.add_column(name, justify="left" if name == "prompt" else "right")

    def number(row: dict[str, Any], key: str, digits: int = 3) -> str:
        return "–" if row.get(key) is None else f"{row[key]:.{digits}f}"

    for name, row in prompts.items():
        spread = "–"
        if row.get("iou_low") is not None:
            spread = f"{number(row, 'iou_low', 2)}–{number(row, 'iou_high', 2)}"
        figures = [number(row, "iou"), spread, number(row, "precision"), number(row, "recall")]
        best = "–"
        if row.get("best_iou") is not None:
            best = f"{number(row, 'best_iou')} at {number(row, 'best_threshold', 2)}"
        table.add_row(plain(name), *figures, best, f"{row['images']:,}")
    return table


def _quarantined(rows: list[dict[str, Any]], most: int = 20) -> Table:
    table = Table()
    for name in ("image", "reason", "what is wrong"):
        table.add_column(name, overflow="fold")
    for row in rows[:most]:
        table.add_row(plain(row["key"]), row["reason"], plain(row["detail"]))
    if len(rows) > most:
        table.add_row(f"and {len(rows) - most:,} more", "", "see quarantine.parquet")
    return table
