"""Agreement of all prompts together: a sentence, and the paper's table."""

from __future__ import annotations

from clipseg_kfp.report.content import Report
from clipseg_kfp.report.text import percent

_ROWS = (
    (
        "mean_iou",
        "mIoU",
        "Mean of the foreground's intersection over union, over prompts with foreground in the ground truth",
    ),
    ("iou_fg", "IoU FG", "Intersection over union of all prompts' foreground pixels together"),
    ("iou_bin", "IoU BIN", "Mean of the foreground's and the background's intersection over union"),
)


def lead(report: Report) -> str:
    """Tells the best and the weakest prompt, and what a threshold per prompt would change."""
    rows = []
    for prompt in report.prompts:
        figures = prompt.agreement.figures if prompt.agreement else {}
        best, threshold, written = (figures.get(name) for name in ("best_iou", "best_threshold", "iou"))
        if best is not None and threshold is not None and written is not None:
            rows.append((best, threshold, written, prompt.name))
    if not rows:
        return ""
    rows.sort(key=lambda row: -row[0])
    texts = [f"{name}, {percent(best)} at {threshold:.2f}" for best, threshold, _, name in rows]
    text = f"Best: {texts[0]}; weakest: {texts[-1]}." if len(rows) > 1 else f"{texts[0]}."
    gain = sum(best - written for best, _, written, _ in rows) / len(rows)
    if gain < 0.0005:
        return f"{text} Thresholds chosen on these images would add nothing."
    own = "A threshold per prompt" if len(rows) > 1 else "That threshold"
    return f"{text} {own} would add {100 * gain:.1f} points to the {'mean ' if len(rows) > 1 else ''}IoU."


def sweep_heads(report: Report) -> list[str]:
    """The columns: thresholds for all prompts, and the best of them."""
    return [*report.sweep["at"], "best"] if report.sweep else []


def sweep_rows(report: Report) -> list[tuple[str, str, list[str]]]:
    """Name, explanation and values of each row of the paper's table."""
    if not report.sweep:
        return []
    at, best = report.sweep["at"], report.sweep["best"]
    return [
        (
            name,
            what,
            [
                *(percent(figures[field]) for figures in at.values()),
                f"{percent(best[field])} ({best[f'{field}_threshold']:.2f})",
            ],
        )
        for field, name, what in _ROWS
    ]


def totals(report: Report) -> list[tuple[str, str, str]]:
    """Name, explanation and value of figures without a threshold, or at the run's own."""
    if not report.sweep:
        return []
    return [
        (name, what, percent(value))
        for name, what, value in (
            ("AP", "Average precision of pixels", report.sweep["average_precision"]),
            ("AUC", "Area below the receiver operating characteristic", report.sweep["roc_auc"]),
            ("ECE", "Expected calibration error", report.sweep["calibration_error"]),
            ("Dice", "Dice's coefficient of the masks as they were written", report.dice),
        )
    ]
