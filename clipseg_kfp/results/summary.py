"""Reads a committed run, or the current state of all runs, back from the store, and shows it in a terminal."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from clipseg_kfp.dataset.ignored import ignored_text
from clipseg_kfp.naming import printable
from clipseg_kfp.records import parse_parquet
from clipseg_kfp.results import QUARANTINE, Results
from clipseg_kfp.results.commit import file_name
from clipseg_kfp.results.current import Current, fold
from clipseg_kfp.results.figures import PER_IMAGE, measure
from clipseg_kfp.runtime.screen import plain
from clipseg_kfp.storage import Folder, open_folder

_OF_A_RUN = ("listed", "done", "skipped", "quarantined", "masks")
_OF_THE_STATE = ("done", "quarantined", "gone", "masks")


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
    _show(f"Run {run.manifest['run']}", counts, _OF_A_RUN, run.metrics, run.quarantine, console)
    if words := ignored_text(run.manifest.get("ignored")):
        _line(console, f"{words}.")
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


@dataclass(frozen=True)
class StateSummary:
    """The current state of a configuration: all its runs, folded.

    Attributes:
        current: the state.
        metrics: as ``metrics.json``, over all of its images that were measured.
        quarantine: rows of ``records.QUARANTINE``.
    """

    current: Current
    metrics: dict[str, Any]
    quarantine: list[dict[str, Any]]

    def facts(self) -> dict[str, Any]:
        """What it is, and the images by outcome."""
        current, latest = self.current, self.current.latest
        return {
            **{name: latest.get(name) for name in ("config", "run", "created", "source_uri")},
            "runs": len(current.manifests),
            "counts": vars(current.counts),
            "gone": current.gone,
        }


def read_state(results: Results, manifests: Sequence[dict[str, Any]]) -> StateSummary:
    """Folds runs of a configuration.

    Args:
        results: of the configuration.
        manifests: of the runs; at least one.

    Raises:
        StorageError: a table cannot be read.
    """
    current = fold(results, manifests)
    with tempfile.TemporaryDirectory(prefix="clipseg-kfp-") as folder:
        metrics = measure(current, Path(folder, PER_IMAGE)).metrics
    return StateSummary(current, metrics, list(current.quarantine()))


def show_state(state: StateSummary, console: Console) -> None:
    """Prints what the state is of, counts, agreement with ground truth, the quarantine and the URI of masks."""
    current = state.current
    latest = current.latest
    facts = {"source": ", ".join(current.sources), "model": latest["model"]["uri"]}
    facts |= {"configuration": latest["config"], "latest run": f"{latest['run']}, {latest['created']}"}
    for label, value in facts.items():
        _line(console, f"{label}: {value}")
    title = f"Current state after {len(current.manifests):,} run{'s' * (len(current.manifests) != 1)}"
    counts = {**vars(current.counts), "gone": current.gone}
    _show(title, counts, _OF_THE_STATE, state.metrics, state.quarantine, console)
    if current.gone:
        _line(
            console, f"{current.gone:,} images are no longer at their source, and left out; their masks stay."
        )
    _line(console, f"masks: {current.results.folder.locate('masks/')}")


def _show(
    title: str,
    counts: dict[str, int],
    names: Sequence[str],
    metrics: dict[str, Any],
    quarantine: list[dict[str, Any]],
    console: Console,
) -> None:
    table = Table(show_header=False)
    table.add_column(style="bold")
    table.add_column(justify="right")
    for name in names:
        table.add_row(name, f"{counts[name]:,}")
    if metrics["mean_iou"] is not None:
        table.add_row("mean IoU", f"{metrics['mean_iou']:.3f}")

    def titled(title: str, table: Table) -> None:  # a table's own title wraps at the table's width
        _line(console, title, style="italic")
        console.print(table)

    console.print()
    titled(title, table)
    if metrics["per_prompt"]:
        titled("Agreement with ground truth", _agreement(metrics["per_prompt"]))
        for name, row in metrics["per_prompt"].items():
            if row.get("iou") is None:
                alarms = f"false alarms in {row.get('false_alarm_images', 0):,} of {row['images']:,} images"
                _line(console, f"{name}: not in the ground truth; {alarms}")
    if quarantine:
        titled("Quarantined", _quarantined(quarantine))
    if counts.get("left"):
        _line(console, f"{counts['left']:,} images are left for the next run.")


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
