"""A ranking of prompts, as Markdown and as a page that needs no network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from clipseg_kfp.report.plots import Line, chart, key, span
from clipseg_kfp.report.templates import template
from clipseg_kfp.report.text import visible

ROWS = 200  # of the tables; Kubeflow cuts Markdown at 400,000 characters
CURVES = 8
_MARKUP = str.maketrans({sign: f"&#{ord(sign)};" for sign in "\\|`*_<>[]&!~#"})
COLUMNS = ("rank", "set", "prompt", "best threshold", "IoU", "95 % interval", "AP", "images")
_COLORS = (
    "#1f6feb",
    "#d1242f",
    "#1a7f37",
    "#9a6700",
    "#8250df",
    "#0f7b8a",
    "#bf3989",
    "#57606a",
)  # as many as CURVES


@dataclass(frozen=True)
class SetRow:
    """A prompt set.

    Attributes:
        name: empty for a single set.
        prompts: number of prompts with foreground in the ground truth.
        mean_iou: mean over these prompts, each at its best threshold.
        mean_average_precision: mean over these prompts.
    """

    name: str
    prompts: int
    mean_iou: float
    mean_average_precision: float


@dataclass(frozen=True)
class Ranking:
    """Prompts and sets, best first.

    Attributes:
        prompts: rows of ``records.EVALUATION`` with ``rank``, ``set`` and ``full_name``.
        sets: those that have a prompt with foreground.
    """

    prompts: list[dict[str, Any]]
    sets: list[SetRow]


def render_markdown(ranking: Ranking, title: str) -> str:
    """Tables of the sets and of the prompts."""
    lines = [f"# Prompts by agreement with ground truth: {_cell(title)}", ""]
    if not ranking.prompts:
        return "\n".join([*lines, "There is no ground truth to compare with.", ""])
    if len(ranking.sets) > 1:
        lines += ["| set | prompts | mean IoU | mean AP |", "| --- | ---: | ---: | ---: |"]
        for row in ranking.sets:
            lines.append(
                f"| {_cell(row.name)} | {row.prompts} | {row.mean_iou:.3f} | {row.mean_average_precision:.3f} |"
            )
        lines += [
            "",
            "Means over the prompts of a set: do not compare sets that look for different things.",
            "",
        ]
    lines += [
        f"| {' | '.join(COLUMNS)} |",
        "| ---: | --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    lines += [f"| {' | '.join(map(_cell, _values(row)))} |" for row in ranking.prompts[:ROWS]]
    if len(ranking.prompts) > ROWS:
        lines += ["", f"And {len(ranking.prompts) - ROWS:,} more: see ranking.csv."]
    return "\n".join(lines) + "\n"


def render_html(ranking: Ranking, curves: dict[str, Any], title: str) -> str:
    """The tables, and a plot of IoU over thresholds of the first prompts with foreground."""
    lines = []
    known = [row for row in ranking.prompts if row["best_iou"] is not None][:CURVES]
    for style, row in enumerate(known):
        points = zip(curves["thresholds"], curves["per_prompt"][row["full_name"]]["iou"], strict=True)
        mark = row["best_threshold"], row["best_iou"]
        lines.append(Line(_COLORS[style], list(points), mark, style))
    return template("ranking.html.j2").render(
        title=title,
        sets=ranking.sets,
        columns=COLUMNS,
        rows=[_shown(row) for row in ranking.prompts[:ROWS]],
        more=max(0, len(ranking.prompts) - ROWS),
        plot=chart(lines, "IoU of the first prompts at each threshold", "threshold", "IoU") if lines else "",
        legend=[(key(line), row["full_name"]) for line, row in zip(lines, known, strict=True)],
    )


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    value = row["best_iou"]
    drawing = Markup("") if value is None else span(value, row["best_iou_low"], row["best_iou_high"])
    return {"span": drawing, "values": _values(row)}


def _values(row: dict[str, Any]) -> list[str]:
    def number(name: str, digits: int = 3) -> str:
        return "–" if row[name] is None else f"{row[name]:.{digits}f}"

    spread = "–"
    if row["best_iou_low"] is not None:
        spread = f"{number('best_iou_low')} to {number('best_iou_high')}"
    figures = [number("best_threshold", 2), number("best_iou"), spread, number("average_precision")]
    return [str(row["rank"]), row["set"] or "–", row["prompt"], *figures, f"{row['images']:,}"]


def _cell(text: str) -> str:
    """Escapes a name: names are data and bring no tables, markup, links or reversed text."""
    return " ".join(visible(text).split()).translate(_MARKUP)
