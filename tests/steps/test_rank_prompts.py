"""The ranking of prompts and sets: order, figures for the UI, pages with hostile names."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kfp import dsl

from clipseg_kfp import records
from clipseg_kfp.metrics import Confusion, Histogram
from clipseg_kfp.metrics.evaluation import Evaluation
from clipseg_kfp.steps import rank_prompts
from clipseg_kfp.steps.artifacts import EncodedPrompts, EvaluationTables
from clipseg_kfp.steps.rank_prompts import Ranked

HOSTILE = "<script>alert(1)</script>|[x](http://y)\u202egnp"


def evaluated(skills: dict[str, float]) -> Evaluation:
    """Prompts that tell foreground from background more or less well; a skill of 0 has nothing to find."""
    found = Evaluation()
    for name, skill in skills.items():
        rng = np.random.default_rng(0)
        truth = rng.random((50, 60)) < (0.3 if skill else 0)
        values = (rng.random((50, 60)) * (1 - skill) + truth * skill).astype(np.float32)
        histogram, counts = Histogram(), Confusion()
        histogram.add(values, truth)
        counts.add(values >= 0.5, truth)
        found.add(name, counts, 0.5, histogram)
    return found


def ranked(tmp_path: Path, skills: dict[str, float], names: dict[str, str]) -> Ranked:
    found = evaluated(skills)
    evaluation, prompts = tmp_path / "evaluation", tmp_path / "prompts"
    tables = EvaluationTables(evaluation)
    rows = (found.row(name) for name in found.prompts)
    records.write_parquet(tables.prompts_path, records.EVALUATION, rows)
    tables.write(metrics={}, curves=found.curves(), thresholds={"thresholds": found.thresholds})
    EncodedPrompts(prompts)._write_json("classes.json", names)
    return rank_prompts.run(
        evaluation=evaluation,
        encoded_prompts=prompts,
        ranking=tmp_path / "out",
        table=tmp_path / "table.md",
        page=tmp_path / "page.html",
        source_uri=HOSTILE,
    )


def pages(tmp_path: Path, skills: dict[str, float]) -> tuple[str, str]:
    """What the UI shows, as HTML and as Markdown."""
    ranked(tmp_path, skills, {})
    return (tmp_path / "page.html").read_text("utf-8"), (tmp_path / "table.md").read_text("utf-8")


def test_prompts_and_sets_in_order(tmp_path: Path) -> None:
    skills = {"a/cat": 0.1, "a/dog": 0.2, "b/cat": 0.3, "b/dog": 0.4, "b/none": 0.0}
    found = ranked(tmp_path, skills, {name: name[2:] for name in skills})
    assert [row["full_name"] for row in found.ranking.prompts] == [
        "b/dog",
        "b/cat",
        "a/dog",
        "a/cat",
        "b/none",
    ]
    assert [(one.name, one.prompts) for one in found.ranking.sets] == [("b", 2), ("a", 2)]
    best = {row["full_name"]: row["best_iou"] for row in found.ranking.prompts}
    assert found.figures()["best_mean_iou"] == pytest.approx((best["b/dog"] + best["b/cat"]) / 2)
    assert best["b/none"] is None
    assert found.figures()["best_prompt_iou"] == best["b/dog"]
    histograms = [evaluated({name: skills[name]}).histograms[name] for name in ("b/cat", "b/dog")]
    assert found.confusion_matrix()[1] == [
        sum(h.at(h.best or 0).fn for h in histograms), sum(h.at(h.best or 0).tp for h in histograms),
    ]  # fmt: skip
    assert sum(map(sum, found.confusion_matrix())) == 2 * 50 * 60, "a prompt that is nowhere has no threshold"
    with (tmp_path / "out" / "ranking.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert (
        [row["rank"] for row in rows] == list("12345")
        and rows[0]["set"] == "b"
        and rows[0]["prompt"] == "dog"
    )
    assert set(json.loads((tmp_path / "out" / "thresholds.json").read_text())["thresholds"]) == {*skills} - {
        "b/none"
    }


def test_what_kubeflow_shows(tmp_path: Path) -> None:
    found = ranked(tmp_path, {"cat": 0.5, "dog": 0.4}, {})
    artifact = dsl.ClassificationMetrics()
    artifact.log_roc_curve(*found.roc())
    artifact.log_confusion_matrix(["background", "foreground"], found.confusion_matrix())
    assert len(artifact.metadata["confidenceMetrics"]) == 51
    json.dumps(artifact.metadata, allow_nan=False)
    false_rate, true_rate, thresholds = found.roc()
    assert (false_rate[0], true_rate[0], false_rate[-1], true_rate[-1]) == (0, 0, 1, 1)
    for values, sign in ((false_rate, 1), (true_rate, 1), (thresholds, -1)):
        assert (np.diff(values) * sign >= 0).all()
    matrix = np.array(found.confusion_matrix())
    assert matrix.sum() == 2 * 50 * 60
    histograms = evaluated({"cat": 0.5, "dog": 0.4}).histograms.values()
    expected: Any = sum((h.at(h.best or 0) for h in histograms), Confusion())
    assert matrix.tolist() == [[expected.tn, expected.fp], [expected.fn, expected.tp]]


def test_names_are_text_in_both_pages(tmp_path: Path) -> None:
    html, markdown = pages(tmp_path, {HOSTILE: 0.5, "dog": 0.4})
    for page in (html, markdown):
        assert "<script>" not in page and "alert" in page
        assert "\u202e" not in page and "u202egnp" in page, "text that turns itself is spelled out"
    assert "default-src 'none'" in html
    assert "[x](" not in markdown
    table = [line for line in markdown.splitlines() if line.startswith("| 1 ")]
    assert len(table) == 1 and table[0].count("|") == 9
    assert "http://" not in html.replace("http://y", "") and html.count("<link") == 1
    assert html.count('class="line"') == 2 * 2, "in the plot and in its legend"


def test_many_prompts_make_no_large_pages(tmp_path: Path) -> None:
    html, markdown = pages(tmp_path, {f"prompt {i} {'x' * 100}": 0.5 for i in range(300)})
    assert len(markdown) < 100_000 and "And 100 more" in markdown
    assert len(html) < 200_000 and "And 100 more" in html


def test_prompts_without_foreground_have_a_row_and_no_curve(tmp_path: Path) -> None:
    """Their IoU jumps to 1 where nothing is said any more, which no reader would take for what it is."""
    page = pages(tmp_path, {"cat": 0.5, "none": 0.0})[0]
    assert page.count('class="best"') == page.count('<svg class="span"') == 1
    assert "<bdi>none</bdi></td>" in page


def test_nothing_to_rank(tmp_path: Path) -> None:
    found = ranked(tmp_path, {}, {})
    assert found.figures() == {} and found.confusion_matrix() == [[0, 0], [0, 0]]
    assert all("no ground truth" in path.read_text() for path in tmp_path.glob("*.*"))
    false_rate, _, thresholds = found.roc()
    assert len(false_rate) == len(thresholds) == 51
