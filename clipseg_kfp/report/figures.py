"""Which plots a report has, made of the curves that evaluate_masks leaves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from clipseg_kfp.report.content import PromptRow, Report
from clipseg_kfp.report.plots import Line, bars, chart, span
from clipseg_kfp.report.text import percent

LINES = 8  # prompts in a plot; the table has all


@dataclass(frozen=True)
class Figure:
    """A plot with its title and a sentence on how to read it."""

    title: str
    note: str
    plot: Markup


def drawn_prompts(report: Report) -> list[PromptRow]:
    """The prompts that have lines: those with the highest IoU at their best threshold."""
    rows = [row for row in report.prompts if row.agreement and row.agreement.curve]
    rows.sort(key=lambda row: -(_figure(row, "best_iou") or 0.0))
    return rows[:LINES]


def figures_of(report: Report) -> list[Figure]:
    """Draws IoU over thresholds, precision over recall, and how far probabilities can be trusted."""
    if not report.thresholds or not (rows := drawn_prompts(report)):
        return []
    overs, pairs = [], []
    for row in rows:
        curve: dict[str, Any] = row.agreement.curve if row.agreement else {}  # type: ignore[assignment]
        best = _figure(row, "best_threshold"), _figure(row, "best_iou")
        mark = None if best[0] is None or best[1] is None else (best[0], best[1])
        overs.append(Line(row.color, list(zip(report.thresholds, curve["iou"], strict=True)), mark))
        # Where nothing is predicted, a precision of 1 is a convention and no measurement.
        points = [
            (r, p)
            for r, p in zip(curve["recall"], curve["precision"], strict=True)
            if None not in (r, p) and (r > 0 or p < 1)
        ]
        if points:
            pairs.append(Line(row.color, points))
    figures = [
        Figure(
            "IoU over the threshold",
            "The dot is the best threshold of a prompt. Probabilities are compared before cleaning.",
            chart(overs, "IoU over the threshold, a line a prompt", "threshold", "IoU"),
        )
    ]
    if pairs:
        label = "Precision over recall, a line a prompt"
        figures.append(
            Figure(
                "Precision and recall",
                "Each line runs over all thresholds; further up and right is better.",
                chart(pairs, label, "recall", "precision"),
            )
        )
    if report.pooled and (trust := _reliability(report.pooled)):
        label = "Observed share of foreground over the predicted probability"
        figures.append(
            Figure(
                "Reliability",
                "All prompts together. On the dashed line a probability of 0.7 is right for 70% of pixels.",
                chart([trust], label, "predicted probability", "observed", diagonal=True),
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
    """The IoU of a prompt with its interval."""
    value, low, high = (_figure(row, name) for name in ("iou", "iou_low", "iou_high"))
    if value is None:
        return Markup("")
    label = f"IoU {percent(value)}"
    if low is not None and high is not None:
        label += f", 95% interval {percent(low)} to {percent(high)}"
    return span(value, low, high, label.replace("<", "below ").replace(">", "above "))
