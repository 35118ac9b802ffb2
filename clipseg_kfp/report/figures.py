"""Which plots a report has, made of the curves that evaluate_masks leaves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from clipseg_kfp.report.content import PromptRow, Report
from clipseg_kfp.report.plots import Line, bars, chart, key, span
from clipseg_kfp.report.text import percent, stretch

LINES = 8  # prompts in a plot; the table has all


@dataclass(frozen=True)
class Figure:
    """A plot with its title and a sentence on how to read it."""

    title: str
    note: str
    plot: Markup


@dataclass(frozen=True)
class Drawn:
    """A prompt with lines, and how these look."""

    name: str
    key: Markup


def drawn_prompts(report: Report) -> list[Drawn]:
    """The legend of the plots."""
    return [
        Drawn(row.name, key(Line(row.color, (), style=style)))
        for style, row in enumerate(_drawn_rows(report))
    ]


def _drawn_rows(report: Report) -> list[PromptRow]:
    """The prompts with the highest IoU at their best threshold.

    Those that the ground truth has nothing of have none: their curves show a convention and no measurement.
    """
    rows = [row for row in report.prompts if row.agreement and row.agreement.curve]
    rows = [row for row in rows if _figure(row, "best_iou") is not None]
    rows.sort(key=lambda row: -(_figure(row, "best_iou") or 0.0))
    return rows[:LINES]


def figures_of(report: Report) -> list[Figure]:
    """Draws IoU over thresholds, precision over recall, and how far probabilities can be trusted."""
    if not report.thresholds or not (rows := _drawn_rows(report)):
        return []
    overs, pairs = [], []
    for style, row in enumerate(rows):
        curve: dict[str, Any] = row.agreement.curve if row.agreement else {}  # type: ignore[assignment]
        mark = _figure(row, "best_threshold") or 0.0, _figure(row, "best_iou") or 0.0
        points = list(zip(report.thresholds, curve["iou"], strict=True))
        overs.append(Line(row.color, points, mark, style))
        fine = curve["precision_recall"]
        if fine["recall"]:
            points = list(zip(fine["recall"], fine["precision"], strict=True))
            pairs.append(Line(row.color, points, style=style))
    figures = [
        Figure(
            "IoU over the threshold",
            "The large marker is the best threshold of a prompt. Probabilities are compared before cleaning.",
            chart(overs, "IoU over the threshold, a line a prompt", "threshold", "IoU"),
        )
    ]
    if pairs:
        label = "Precision over recall, a line a prompt"
        figures.append(
            Figure(
                "Precision and recall",
                "Each line runs over all probabilities; further up and right is better.",
                chart(pairs, label, "recall", "precision"),
            )
        )
    if report.pooled and (trust := _reliability(report.pooled)):
        label = "Observed share of foreground over the predicted probability"
        error = (report.sweep or {}).get("calibration_error")
        figures.append(
            Figure(
                "Reliability",
                "All prompts together. On the dashed line a probability of 0.7 is right for 70% of pixels. "
                "Bars: pixels, on a logarithmic scale"
                + ("." if error is None else f"; expected calibration error {percent(error)}."),
                chart(
                    [trust],
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
    found = curve["reliability"]
    bins = zip(found["pixels"], found["predicted"], found["observed"], strict=True)
    points = [(p, o) for pixels, p, o in bins if pixels and p is not None and o is not None]
    return Line("", points, dots=True) if points else None


def _figure(row: PromptRow, name: str) -> float | None:
    return row.agreement.figures.get(name) if row.agreement else None


def distribution(counts: tuple[int, ...], what: str) -> Markup:
    """A small histogram with a text for those who do not see it; empty where nothing was found."""
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
    """The 95 % interval of a prompt's IoU, in numbers and drawn."""
    value, low, high = (_figure(row, name) for name in ("iou", "iou_low", "iou_high"))
    if value is None:
        return Markup("")
    said = Markup("")
    if low is not None and high is not None:
        said = Markup('<span class="muted small"> {}</span>').format(stretch(low, high))
    return said + span(value, low, high)
