"""A ranking of prompts as Markdown and as a page that needs no network."""

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
)  # CURVES of them


@dataclass(frozen=True)
class SetRow:
    """A prompt set.

    Attributes:
        name: empty where there is one set only.
        prompts: with foreground to find.
        mean_iou: mean over them of the IoU at the best threshold of each.
        mean_average_precision: mean over them.
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
        sets: those with a prompt that has foreground to find.
    """

    prompts: list[dict[str, Any]]
    sets: list[SetRow]


def render_markdown(ranking: Ranking, title: str) -> str:
    """Two tables: sets, and prompts."""
    lines = [f"# Prompts by agreement with ground truth: {_cell(title)}", ""]
    if not ranking.prompts:
        return "\n".join([*lines, "There was no ground truth to compare with.", ""])
    if len(ranking.sets) > 1:
        lines += ["| set | prompts | mean IoU | mean AP |", "| --- | ---: | ---: | ---: |"]
        for one in ranking.sets:
            lines.append(
                f"| {_cell(one.name)} | {one.prompts} | {one.mean_iou:.3f} | {one.mean_average_precision:.3f} |"
            )
        lines += [
            "",
            "Means over the prompts of a set: sets that look for different things do not compare.",
            "",
        ]
    lines += [
        f"| {' | '.join(COLUMNS)} |",
        "| ---: | --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in ranking.prompts[:ROWS]:
        lines.append("| " + " | ".join(_cell(value) for value in _values(row)) + " |")
    if len(ranking.prompts) > ROWS:
        lines += ["", f"And {len(ranking.prompts) - ROWS:,} more: see ranking.csv."]
    return "\n".join(lines) + "\n"


def render_html(ranking: Ranking, curves: dict[str, Any], title: str) -> str:
    """The tables and the IoU over the thresholds of the first prompts that have foreground to find."""
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
    there = row["best_iou"] is not None
    drawn = span(row["best_iou"], row["best_iou_low"], row["best_iou_high"]) if there else Markup("")
    return {"span": drawn, "values": _values(row)}


def _values(row: dict[str, Any]) -> list[str]:
    def number(name: str, digits: int = 3) -> str:
        return "–" if row[name] is None else f"{row[name]:.{digits}f}"

    spread = "–"
    if row["best_iou_low"] is not None:
        spread = f"{number('best_iou_low')} to {number('best_iou_high')}"
    figures = [number("best_threshold", 2), number("best_iou"), spread, number("average_precision")]
    return [str(row["rank"]), row["set"] or "–", row["prompt"], *figures, f"{row['images']:,}"]


def _cell(text: str) -> str:
    """Names are data: no tables, markup, links or turned text of their own."""
    return " ".join(visible(text).split()).translate(_MARKUP)
