"""The plots of a report, from the curves of evaluate_masks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from clipseg_kfp.report.content import PromptRow, Report
from clipseg_kfp.report.plots import Line, bars, chart, key, span
from clipseg_kfp.report.text import percent, stretch

LINES = 8  # prompts in a plot; the table has all of them


@dataclass(frozen=True)
class Figure:
    """A plot with its title and a sentence on how to read it."""

    title: str
    note: str
    plot: Markup


@dataclass(frozen=True)
class LegendEntry:
    """A prompt in the legend of the plots, with a sample of its line."""

    name: str
    key: Markup


def drawn_prompts(report: Report) -> list[LegendEntry]:
    """The legend of the plots."""
    return [
        LegendEntry(row.name, key(Line(row.color, (), style=style)))
        for style, row in enumerate(_drawn_rows(report))
    ]


def _drawn_rows(report: Report) -> list[PromptRow]:
    """The prompts with the highest IoU at their best threshold.

    Prompts without foreground in the ground truth are left out: their curves would show a convention.
    """
    rows = [row for row in report.prompts if row.agreement and row.agreement.curve]
    rows = [row for row in rows if _figure(row, "best_iou") is not None]
    rows.sort(key=lambda row: -(_figure(row, "best_iou") or 0.0))
    return rows[:LINES]


def figures_of(report: Report) -> list[Figure]:
    """Draws IoU over thresholds, precision over recall, and reliability."""
    if not report.thresholds or not (rows := _drawn_rows(report)):
        return []
    iou_lines, precision_lines = [], []
    for style, row in enumerate(rows):
        curve: dict[str, Any] = row.agreement.curve if row.agreement else {}  # type: ignore[assignment]
        mark = _figure(row, "best_threshold") or 0.0, _figure(row, "best_iou") or 0.0
        points = list(zip(report.thresholds, curve["iou"], strict=True))
        iou_lines.append(Line(row.color, points, mark, style))
        fine = curve["precision_recall"]
        if fine["recall"]:
            points = list(zip(fine["recall"], fine["precision"], strict=True))
            precision_lines.append(Line(row.color, points, style=style))
    figures = [
        Figure(
            "IoU over the threshold",
            "The large marker is the best threshold of a prompt. Probabilities are compared before cleaning.",
            chart(iou_lines, "IoU over the threshold, one line per prompt", "threshold", "IoU"),
        )
    ]
    if precision_lines:
        label = "Precision over recall, one line per prompt"
        figures.append(
            Figure(
                "Precision and recall",
                "Each line runs over all probabilities; further up and right is better.",
                chart(precision_lines, label, "recall", "precision"),
            )
        )
    if report.pooled and (line := _reliability(report.pooled)):
        label = "Observed share of foreground over the predicted probability"
        error = (report.sweep or {}).get("calibration_error")
        figures.append(
            Figure(
                "Reliability",
                "All prompts together. On the dashed line a probability of 0.7 is right for 70% of pixels. "
                "Bars: pixels, on a logarithmic scale"
                + ("." if error is None else f"; expected calibration error {percent(error)}."),
                chart(
                    [line],
                    label,
                    "predicted probability",
                    "observed",
                    diagonal=True,
                    strip=report.pooled["reliability"]["pixels"],
                ),
            )
        )
    return figures


def _reliability(curve: dict[str, Any]) -> Line | None:
    values = curve["reliability"]
    bins = zip(values["pixels"], values["predicted"], values["observed"], strict=True)
    points = [(p, o) for pixels, p, o in bins if pixels and p is not None and o is not None]
    return Line("", points, dots=True) if points else None


def _figure(row: PromptRow, name: str) -> float | None:
    return row.agreement.figures.get(name) if row.agreement else None


def distribution(counts: tuple[int, ...], what: str) -> Markup:
    """A small histogram with a text for screen readers; empty without counts."""
    if not sum(counts):
        return Markup("")
    middle, total = 0, 0
    for middle, count in enumerate(counts):  # noqa: B007
        total += count
        if 2 * total >= sum(counts):
            break
    low, high = middle / len(counts), (middle + 1) / len(counts)
    return bars(counts, f"Distribution of {what}: the median is between {low:.0%} and {high:.0%}")


def interval(row: PromptRow) -> Markup:
    """The 95 % interval of a prompt's IoU, as numbers and as a drawing."""
    value, low, high = (_figure(row, name) for name in ("iou", "iou_low", "iou_high"))
    if value is None:
        return Markup("")
    text = Markup("")
    if low is not None and high is not None:
        text = Markup('<span class="muted small"> {}</span>').format(stretch(low, high))
    return text + span(value, low, high)
