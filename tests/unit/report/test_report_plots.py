"""The report's plots and small pictures, against what they are made of."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from importlib import resources
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest
from PIL import Image

from clipseg_kfp.masks.raster import palette
from clipseg_kfp.report import Agreement, PromptRow, Report, render_report
from clipseg_kfp.report.agreement import lead
from clipseg_kfp.report.figures import LINES, distribution, drawn_prompts, figures_of, interval
from clipseg_kfp.report.inks import GROUNDS, contrast, inks
from clipseg_kfp.report.pictures import HEAT_SIDE, TRUTH_SIDE, heat_jpeg, heat_levels, truth_png
from clipseg_kfp.report.plots import HEIGHT, WIDTH, Line, bars, chart, key, span
from clipseg_kfp.views import Merger

CURVE = {
    "iou": [0.2, 0.6, 0.4],
    "precision": [0.5, 0.7, None],
    "recall": [0.9, 0.5, 0.0],
    "precision_recall": {"recall": [0.1, 0.5, 1.0], "precision": [0.9, 0.8, 0.3]},
    "reliability": {"pixels": [10, 0, 5], "predicted": [0.1, None, 0.9], "observed": [0.2, None, 0.8]},
}
SWEEP = {
    "at": {"0.1": {"mean_iou": 0.4, "iou_fg": 0.5, "iou_bin": 0.6}},
    "best": {
        **{"mean_iou": 0.7, "mean_iou_threshold": 0.34, "iou_fg": 0.8, "iou_fg_threshold": 0.3},
        **{"iou_bin": 0.9, "iou_bin_threshold": 0.38},
    },
    **{"average_precision": 0.84, "roc_auc": None, "calibration_error": 0.03},
}
FIGURES = {"iou": 0.5, "iou_low": 0.25, "iou_high": 0.75, "best_threshold": 0.5, "best_iou": 0.6}


def row(name: str = "cat", **figures: float | None) -> PromptRow:
    return PromptRow(
        name, (name,), "#112233", 0.5, 3, 0.1, 0.8, agreement=Agreement(3, FIGURES | figures, CURVE)
    )


def report(*rows: PromptRow) -> Report:
    counts = {"listed": 3, "done": 3}
    report = Report("t", "r", "", (), counts, 0.5, rows, (), 0, (), ())
    return replace(report, thresholds=(0.25, 0.5, 0.75), pooled=CURVE, sweep=SWEEP, dice=0.9)


def places(svg: str, kind: str) -> list[tuple[float, float]]:
    """Points of markers or of a line, as the axes read them: 0 to 1."""
    root = ElementTree.fromstring(svg)
    if kind in ("dot", "best"):
        moved = [e.attrib["transform"] for e in root.iter("path") if e.get("class") == kind]
        found = [tuple(map(float, re.findall(r"[\d.]+", text)[:2])) for text in moved]
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
    assert places(svg, "best") == [(0.5, 1)]
    assert 'style="--light: #112233; --dark: ' in svg and 'aria-label="label"' in svg


def test_the_figures_say_what_the_curves_say() -> None:
    over, pair, trust = figures_of(report(row()))
    assert places(over.plot, "line") == [(0.25, 0.2), (0.5, 0.6), (0.75, 0.4)]
    assert places(over.plot, "best") == [(0.5, 0.6)]
    assert places(pair.plot, "line") == [(0.1, 0.9), (0.5, 0.8), (1, 0.3)], "as far as recall goes"
    assert places(trust.plot, "line") == places(trust.plot, "dot") == [(0.1, 0.2), (0.9, 0.8)]
    assert trust.plot.count('class="count"') == 2 and "calibration error 3.0%" in trust.note
    assert places(trust.plot, "diagonal") == [(0, 0), (1, 1)]


def test_the_best_prompts_are_drawn_and_one_without_foreground_is_not() -> None:
    rows = [row(f"p{i}", best_iou=i / 20) for i in range(12)]
    assert [one.name for one in drawn_prompts(report(*rows))] == [f"p{i}" for i in range(11, 11 - LINES, -1)]
    absent = row("none", best_threshold=None, best_iou=None)
    assert figures_of(report(absent)) == [] and len(drawn_prompts(report(row(), absent))) == 1
    assert figures_of(replace(report(row()), thresholds=())) == []
    assert figures_of(report(replace(row(), agreement=None))) == []


def test_small_histograms() -> None:
    root = ElementTree.fromstring(bars([0, 4, 2, 0], "x"))
    tall = [float(e.attrib["height"]) for e in root.iter("rect")]
    assert len(tall) == 2 and tall[0] == pytest.approx(2 * tall[1])
    assert "between 25% and 50%" in distribution((0, 4, 2, 0), "the area")
    assert distribution((0, 0), "the area") == ""


def test_an_interval_is_drawn_around_its_value() -> None:
    root = ElementTree.fromstring(span(0.5, 0.25, 0.75))
    (dot,) = root.iter("circle")
    (path,) = (e.attrib["d"] for e in root.iter("path") if e.get("class") == "range")
    low, high = (float(value) for value in re.findall(r"[MH]([\d.]+)", path))
    assert float(dot.attrib["cx"]) == pytest.approx((low + high) / 2)
    assert "25\N{EN DASH}75%" in interval(row()), "in numbers, for all to read"
    assert "%" not in interval(row(iou_low=None, iou_high=None))
    assert interval(replace(row(), agreement=None)) == ""


def test_lines_stand_out_on_both_grounds_and_differ_without_color() -> None:
    colors = [f"#{r:02x}{g:02x}{b:02x}" for r, g, b in palette(60).tolist()] + [
        "#ffffff",
        "#000000",
        "#171b21",
    ]
    for color in colors:
        for ink, ground in zip(inks(color), GROUNDS, strict=True):
            assert contrast(ink, ground) >= 3
    assert inks("#8250df") == ("#8250df", "#8250df") and inks("#000000")[0] == "#000000"
    looks = set()
    for style in range(LINES):
        root = ElementTree.fromstring(key(Line("#112233", (), style=style)))
        line, marker = root.iter("path")
        looks.add((line.get("stroke-dasharray"), marker.get("d")))
    assert len(looks) == LINES


def test_inks_are_made_for_the_page_s_grounds() -> None:
    theme = (resources.files("clipseg_kfp.report") / "theme.css.j2").read_text()
    grounds = re.findall(r"--(?:page|card): (#\w+)", theme)
    assert [grounds.index(ground) // 2 for ground in GROUNDS] == [0, 1], "of the light and of the dark scheme"
    for color in ("#e5d94d", "#3b3f8e"):
        assert all(
            contrast(ink, ground) >= 3
            for place, ink in enumerate(inks(color))
            for ground in grounds[2 * place : 2 * place + 2]
        )


def test_a_report_leads_with_what_it_found() -> None:
    rows = (row("star", iou=0.5, best_iou=0.52), row("red", iou=0.9, best_iou=0.95, best_threshold=0.54))
    absent = row("none", iou=None, best_iou=None, best_threshold=None)
    text = lead(report(*rows, absent))
    assert re.findall(r"red|star|none|[\d.]*\d", text) == [
        "red",
        "95.0",
        "0.54",
        "star",
        "52.0",
        "0.50",
        "3.5",
    ]
    assert re.findall(r"cat|[\d.]*\d", lead(report(row(iou=0.6)))) == ["cat", "60.0", "0.50"]
    assert lead(report(absent)) == ""
    page = render_report(report(*rows, absent))
    words = " ".join(re.sub("<[^>]*>", " ", page).split())
    assert "mIoU 40.0% 70.0% (0.34)" in words and "IoU BIN 60.0% 90.0% (0.38)" in words
    assert "AP 84.0% AUC \N{EN DASH} ECE 3.0% Dice 90.0%" in words
    assert re.search(r'data-note="prompt_absent">[^<]* 0 [^<]* 3 [^<]*<', page)


def test_a_heat_map_is_what_masks_are_cut_from() -> None:
    """Tiles are blended by the mask's own windows: a map of its own reached 0.77 where the real one has 0.68."""
    rng = np.random.default_rng(0)
    width, height = 1600, 1200
    boxes = [(0, 0, width, height)] + [(x, y, x + 700, y + 700) for x in (0, 450, 900) for y in (0, 500)]
    maps = np.stack(
        [
            cv2.resize((rng.random((5, 5)) * 255).astype(np.uint8), (64, 64), interpolation=cv2.INTER_CUBIC)
            for _ in boxes
        ]
    )
    ((_, field),) = Merger(boxes, width, height).field(list(maps))
    levels = heat_levels(maps, boxes, width, height)
    expected = cv2.resize(field, levels.shape[::-1], interpolation=cv2.INTER_AREA) * 255
    assert levels.shape == (HEAT_SIDE * 3 // 4, HEAT_SIDE)
    assert np.abs(levels - expected).max() < 12 and np.abs(levels - expected).mean() < 1.5


def test_tiles_too_small_for_a_heat_map_are_drawn_from_the_full_field() -> None:
    width, height, side = 4000, 40, 10
    boxes = [(x, y, x + side, y + side) for x in range(0, width, side) for y in range(0, height, side)]
    maps = np.stack([np.full((8, 8), 255 * (left >= width // 2), np.uint8) for left, *_ in boxes])
    levels = heat_levels(maps, boxes, width, height)
    assert levels.shape == (2, HEAT_SIDE)
    assert (levels[:, : HEAT_SIDE // 2 - 1] == 0).all() and (levels[:, HEAT_SIDE // 2 + 1 :] == 255).all()


def test_a_heat_map_is_light_where_the_probability_is_high() -> None:
    whole = np.zeros((64, 64), np.uint8)
    whole[:32, 32:] = 255
    picture = Image.open(io.BytesIO(heat_jpeg(heat_levels(whole[None], [(0, 0, 2000, 1000)], 2000, 1000))))
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
