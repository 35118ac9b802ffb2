"""The report's plots and small pictures, against what they are made of."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from clipseg_kfp.report import Agreement, PromptRow, Report
from clipseg_kfp.report.figures import LINES, distribution, drawn_prompts, figures_of, interval
from clipseg_kfp.report.pictures import HEAT_SIDE, TRUTH_SIDE, heat_jpeg, truth_png
from clipseg_kfp.report.plots import HEIGHT, WIDTH, Line, bars, chart, span

CURVE = {
    "iou": [0.2, 0.6, 0.4],
    "precision": [0.5, 0.7, None],
    "recall": [0.9, 0.5, 0.0],
    "reliability": {"pixels": [10, 0, 5], "predicted": [0.1, None, 0.9], "observed": [0.2, None, 0.8]},
}
FIGURES = {"iou": 0.5, "iou_low": 0.25, "iou_high": 0.75, "best_threshold": 0.5, "best_iou": 0.6}


def row(name: str = "cat", **figures: float | None) -> PromptRow:
    return PromptRow(
        name, (name,), "#112233", 0.5, 3, 0.1, 0.8, 0.5, agreement=Agreement(3, FIGURES | figures, CURVE)
    )


def report(*rows: PromptRow) -> Report:
    counts = {"listed": 3, "done": 3}
    report = Report("t", "r", "", (), counts, 0.5, rows, (), 0, (), ())
    return replace(report, thresholds=(0.25, 0.5, 0.75), pooled=CURVE)


def places(svg: str, kind: str) -> list[tuple[float, float]]:
    """Points of circles or of a line, as the axes read them: 0 to 1."""
    root = ElementTree.fromstring(svg)
    if kind == "circle":
        found = [(float(e.attrib["cx"]), float(e.attrib["cy"])) for e in root.iter("circle")]
    else:
        (path,) = (e.attrib["d"] for e in root.iter("path") if e.get("class") == kind)
        found = [tuple(map(float, pair.split())) for pair in re.split("[ML]", path) if pair]
    left, right, top, bottom = 42, WIDTH - 12, 10, HEIGHT - 38
    return [
        (round((x - left) / (right - left), 2), round((bottom - y) / (bottom - top), 2)) for x, y in found
    ]


def test_a_chart_has_its_points_where_they_belong() -> None:
    svg = chart([Line("#112233", [(0, 0), (0.5, 1), (1, 0.25)], mark=(0.5, 1))], "label", "x", "y")
    assert places(svg, "line") == [(0, 0), (0.5, 1), (1, 0.25)]
    assert places(svg, "circle") == [(0.5, 1)]
    assert 'style="--ink: #112233"' in svg and 'aria-label="label"' in svg


def test_the_figures_say_what_the_curves_say() -> None:
    over, pair, trust = figures_of(report(row()))
    assert places(over.plot, "line") == [(0.25, 0.2), (0.5, 0.6), (0.75, 0.4)]
    assert places(over.plot, "circle") == [(0.5, 0.6)]
    assert places(pair.plot, "line") == [(0.9, 0.5), (0.5, 0.7)]  # no precision where nothing is found
    assert places(trust.plot, "line") == places(trust.plot, "circle") == [(0.1, 0.2), (0.9, 0.8)]
    assert places(trust.plot, "diagonal") == [(0, 0), (1, 1)]


def test_the_best_prompts_are_drawn_and_one_without_foreground_has_no_mark() -> None:
    rows = [row(f"p{i}", best_iou=i / 20) for i in range(12)]
    assert [one.name for one in drawn_prompts(report(*rows))] == [f"p{i}" for i in range(11, 11 - LINES, -1)]
    (over, *_) = figures_of(report(row(best_threshold=None, best_iou=None)))
    assert places(over.plot, "circle") == []
    assert figures_of(replace(report(row()), thresholds=())) == []
    assert figures_of(report(replace(row(), agreement=None))) == []


def test_small_histograms() -> None:
    root = ElementTree.fromstring(bars([0, 4, 2, 0], "x"))
    tall = [float(e.attrib["height"]) for e in root.iter("rect")]
    assert len(tall) == 2 and tall[0] == pytest.approx(2 * tall[1])
    assert "between 25% and 50%" in distribution((0, 4, 2, 0), "the area")
    assert distribution((0, 0), "the area") == ""


def test_an_interval_is_drawn_around_its_value() -> None:
    root = ElementTree.fromstring(span(0.5, 0.25, 0.75, "x"))
    (dot,) = root.iter("circle")
    (path,) = (e.attrib["d"] for e in root.iter("path") if e.get("class") == "range")
    low, high = (float(value) for value in re.findall(r"[MH]([\d.]+)", path))
    assert float(dot.attrib["cx"]) == pytest.approx((low + high) / 2)
    assert "95% interval 25.0% to 75.0%" in interval(row())
    assert "interval" not in interval(row(iou_low=None, iou_high=None))
    assert interval(replace(row(), agreement=None)) == ""


@pytest.mark.parametrize("tiled", [False, True])
def test_a_heat_map_is_light_where_the_probability_is_high(tiled: bool) -> None:
    whole = np.zeros((64, 64), np.uint8)
    whole[:32, 32:] = 255
    boxes = [(0, 0, 2000, 1000)]
    maps = whole[None]
    if tiled:  # two tiles side by side that overlap
        boxes = [(0, 0, 1200, 1000), (800, 0, 2000, 1000)]
        right = np.zeros((64, 64), np.uint8)
        right[:32, round(64 * 200 / 1200) :] = 255
        left = np.zeros((64, 64), np.uint8)
        left[:32, round(64 * 1000 / 1200) :] = 255
        maps = np.stack([left, right])
    picture = Image.open(io.BytesIO(heat_jpeg(maps, boxes, 2000, 1000)))
    assert picture.size == (HEAT_SIDE, HEAT_SIDE // 2)
    light = np.asarray(picture.convert("L"), int)
    middle, half = HEAT_SIDE // 2, HEAT_SIDE // 4
    assert light[: half - 8, middle + 12 :].min() > 180
    assert light[half + 8 :].max() < 60 and light[:, : middle - 12].max() < 60


def test_ground_truth_is_drawn_in_the_prompts_colors_and_small() -> None:
    first, second = np.zeros((500, 1000), bool), np.zeros((500, 1000), bool)
    first[100:300, 100:400] = True
    second[250, :] = True  # a line of one pixel
    png = truth_png([(1, first), (3, second)])
    picture = np.asarray(Image.open(io.BytesIO(png)).convert("RGBA"))
    assert picture.shape == (TRUTH_SIDE // 2, TRUTH_SIDE, 4)
    assert (picture[80, :, 3] == 255).all()
    assert picture[60, 80, 3] == 130 and picture[150, 10, 3] == 0
    assert tuple(picture[60, 80, :3]) != tuple(picture[80, 80, :3])
    assert len(png) < 4_000
    assert truth_png([]) == b""
