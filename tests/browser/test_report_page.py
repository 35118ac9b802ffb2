"""The report in a real browser, framed as the Kubeflow UI frames it."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from clipseg_kfp.demo.scenes import Query, draw_scene
from clipseg_kfp.report import (
    Agreement,
    GalleryItem,
    Heat,
    PromptRow,
    QuarantineRow,
    Report,
    Tile,
    render_report,
)
from clipseg_kfp.report.pictures import heat_jpeg, heat_levels, truth_png
from clipseg_kfp.report.ranking import Ranking, SetRow, render_html
from clipseg_kfp.report.selection import BEST, RANDOM, UNCERTAIN, WORST

pytestmark = pytest.mark.browser

CHROMIUM, DRIVER = Path("/usr/bin/chromium"), Path("/usr/bin/chromedriver")
if not (CHROMIUM.exists() and DRIVER.exists()):
    pytest.skip("needs Debian's chromium and chromium-driver packages", allow_module_level=True)
webdriver = pytest.importorskip(
    "selenium.webdriver", reason="needs the selenium package: pip install selenium"
)

QUERIES = {
    "red thing": Query(color="red"),
    "anything striped": Query(texture="striped"),
    "circle": Query(shape="circle"),
    "star": Query(shape="star"),
    "dark or bläulich · 青い形": Query(color="blue"),
    "a photo of a rather unusual, slightly corroded hexagonal flange bolt": Query(shape="cross"),
}
INKS = ("#e5484d", "#f5a524", "#12a594", "#8e4ec6", "#3e63dd", "#d6409f")
KEYS = (
    "line-04/2025-11-21/cam_03/frame_000172.jpg",
    "line-04/2025-11-21/cam_03/frame_000173.jpg",
    "Überprüfung/Straße 12/Größe.jpeg",
    "検査/ライン四/写真 0007.png",
    "معاينة/صورة ١٢.png",
    "a" * 180 + ".tif",
    "nested/" * 14 + "deep.webp",
    "../../etc/passwd.png",
    "<script>alert(1)</script>.png",
    '"><img src=x onerror=alert(1)>.png',
    "invoice\u202egnp.exe.png",
    "emoji 👩‍🔬🧪/семпл №5.jpg",
)


def jpeg(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=82)
    return buffer.getvalue()


THRESHOLDS = tuple(i / 50 for i in range(1, 50))


SWEEP = {
    "at": {
        str(t): {"mean_iou": 0.7 - t / 9, "iou_fg": 0.75 - t / 9, "iou_bin": 0.84}
        for t in (0.1, 0.2, 0.3, 0.5)
    },
    "best": {
        **{"mean_iou": 0.731, "mean_iou_threshold": 0.34, "iou_fg": 0.76, "iou_fg_threshold": 0.3},
        **{"iou_bin": 0.86, "iou_bin_threshold": 0.38},
    },
    **{"average_precision": 0.84, "roc_auc": 0.95, "calibration_error": 0.031},
}


def agreement(place: int) -> Agreement:
    """Smooth curves of the shapes that real ones have."""
    top = 0.3 + 0.06 * place
    ious = [round(0.85 - 0.08 * place - 0.9 * abs(t - top) ** 1.5, 4) for t in THRESHOLDS]
    best = max(range(49), key=lambda i: ious[i])
    curve = {
        "iou": ious,
        "precision": [round(0.5 + 0.5 * t, 4) for t in THRESHOLDS],
        "recall": [round(1 - t**2, 4) for t in THRESHOLDS],
        "precision_recall": {
            "recall": [i / 100 for i in range(101)],
            "precision": [
                round(1 - 0.1 * (i / 100) ** (8 - place) - 0.4 * (i / 100) ** 20, 4) for i in range(101)
            ],
        },
        "reliability": {
            "pixels": [900, 500, 200, 0, 100],
            "predicted": [0.05, 0.3, 0.5, None, 0.9],
            "observed": [0.02, 0.35, 0.48, None, 0.97],
        },
    }
    figures: dict[str, float | None] = {
        **{"iou": ious[25], "iou_low": ious[25] - 0.05, "iou_high": ious[25] + 0.04, "precision": 0.9},
        **{"recall": 0.8, "boundary_iou": 0.6, "average_precision": 0.88 if place else None},
        **{"best_threshold": THRESHOLDS[best], "best_iou": ious[best]},
    }
    return Agreement(200 - place, figures, curve)


def sample_report(images: int = 14, ground_truth: bool = True) -> Report:
    """A run that looks like a real one: drawn scenes, their true masks worn down a little."""
    rng = np.random.default_rng(7)
    gallery = []
    for i in range(images):
        size = [(400, 300), (300, 400), (480, 270), (400, 400)][i % 4 if i % 3 == 0 else 0]
        scene = draw_scene(1000 + i, size)
        pixels = np.asarray(scene.image, dtype=np.float32).copy()
        tiles = []
        for (name, query), ink in zip(QUERIES.items(), INKS, strict=True):
            mask = scene.mask(query)
            coverage, missed = float(mask.mean()), i % 5 == 2 and name == "star"
            if mask.any() and not missed:
                color = np.array([int(ink[k : k + 2], 16) for k in (1, 3, 5)], dtype=np.float32)
                pixels[mask] = 0.4 * pixels[mask] + 0.6 * color
            iou = float(rng.uniform(0.5, 0.97)) if coverage else None
            tiles.append(
                Tile(
                    name,
                    0.0 if missed else coverage,
                    float(rng.uniform(0.55, 0.98)) if coverage else 0.0,
                    (0.0 if missed else iou) if ground_truth else None,
                )
            )
        key = KEYS[i % len(KEYS)] if i < len(KEYS) else f"line-04/{i:04d}.jpg"
        overlay = Image.fromarray(pixels.astype(np.uint8))
        gallery.append(
            GalleryItem(
                key,
                f"s3://factory-images/inspection/{key}",
                size[0] * 8,
                size[1] * 8,
                jpeg(scene.image),
                jpeg(overlay),
                tuple(tiles),
                reason=(WORST, UNCERTAIN, BEST, RANDOM)[4 * i // images],
                heats=tuple(
                    Heat(
                        name,
                        heat_jpeg(
                            heat_levels(
                                np.asarray(scene.image.convert("L").resize((64, 64)))[None],
                                [(0, 0, *size)],
                                *size,
                            )
                        ),
                    )
                    for name in ("red thing", "star")[: 1 + i % 2]
                ),
                truth=truth_png([(i + 1, scene.mask(q)) for i, q in enumerate(QUERIES.values())])
                if ground_truth and i % 3
                else b"",
                nothing=i == 1,
            )
        )
    prompts = tuple(
        PromptRow(
            name,
            (f"a photo of a {name}.", f"a {name}", f"the {name}s", f"one {name}")[: 1 + 3 * (place % 2)],
            ink,
            0.5 if place else 0.35,
            int(rng.integers(40, 1100)),
            float(rng.uniform(0.004, 0.3)),
            float(rng.uniform(0.5, 0.95)),
            coverages=tuple(int(n) for n in rng.integers(0, 40, 20)),
            scores=tuple(int(n) for n in rng.integers(0, 90, 20)),
            agreement=agreement(place) if ground_truth else None,
        )
        for place, (name, ink) in enumerate(zip(QUERIES, INKS, strict=True))
    )
    return Report(
        title="Inspection of line 4, week 47",
        run="9c41f0de-5b7e-4f5a-8f43-2e1d0b6c7a98",
        created="2025-11-22T16:04:31+00:00",
        facts=(
            ("Model", "hf://CIDAS/clipseg-rd64-refined@583b388deb98a04feb3e1f816dcdb8f3062ee205"),
            (
                "Model digest",
                "sha256:4f1c0b8a9de7d5f1b0c2a3948576e6d7c8b9a0f1e2d3c4b5a697887766554433",
            ),
            ("Configuration", "b7c1f09e5a32d418"),
            ("Source", "s3://factory-images/inspection/2025/week-47/"),
            ("Output", "s3://factory-masks/inspection/"),
            ("Tiles", "off"),
            ("Smallest area", "64 px"),
            ("clipseg-kfp", "0.1.0"),
        ),
        counts={"listed": 1_498, "done": 1_204, "skipped": 290, "quarantined": 4, "masks": 7_224},
        mean_iou=0.7312 if ground_truth else None,
        prompts=prompts,
        quarantine=(
            QuarantineRow("line-04/broken.jpg", "truncated", "The file ends inside its pixels."),
            QuarantineRow(KEYS[6], "too-large", "40,000 x 30,000 pixels; the limit is 100,000,000."),
            QuarantineRow(KEYS[8], "not-an-image", "<b>Starts with</b> the bytes of a PDF."),
            QuarantineRow("検査/空.png", "changed", "The object was replaced between listing and reading."),
        ),
        quarantine_total=4,
        gallery=tuple(gallery),
        reasons=(("truncated", 2), ("too-large", 1), ("not-an-image", 1)),
        deleted=12,
        thresholds=THRESHOLDS if ground_truth else (),
        mean_interval=(0.701, 0.758) if ground_truth else None,
        pooled=agreement(3).curve if ground_truth else None,
        sweep=SWEEP if ground_truth else None,
        dice=0.81 if ground_truth else None,
        notes=("Ground truth was given for 212 images." if ground_truth else "A first trial.",),
    )


@pytest.fixture(scope="module")
def page() -> str:
    return render_report(sample_report())


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for flag in (
        "headless=new",
        "no-sandbox",
        "disable-gpu",
        "disable-quic",
        "no-first-run",
        "disable-background-networking",
        "disable-component-update",
        "disable-sync",
        "disable-dev-shm-usage",
        # Keeps the sandboxed frame in the tab's process: the driver's log sees no other.
        "disable-features=IsolateSandboxedIframes",
    ):
        options.add_argument(f"--{flag}")
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('chromium')}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options=options, service=Service(str(DRIVER)))
    yield browser
    browser.quit()


def open_framed(driver: Any, tmp_path: Path, page: str, width: int, scheme: str = "light") -> None:
    """Opens the page as the Kubeflow UI does, and steps into the frame."""
    wrapper = tmp_path / "wrapper.html"
    wrapper.write_text(
        '<!doctype html><link rel="icon" href="data:,"><style>html,body{margin:0;height:100%}'
        "iframe{border:0;width:100%;height:100%;display:block}</style>"
        f'<iframe sandbox="allow-scripts" srcdoc="{html.escape(page)}"></iframe>',
        encoding="utf-8",
    )
    driver.switch_to.default_content()
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    feature = {"name": "prefers-color-scheme", "value": scheme}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    driver.get_log("browser")
    driver.get(wrapper.as_uri())
    driver.switch_to.frame(driver.find_element("css selector", "iframe"))


def css(driver: Any, selector: str) -> list[Any]:
    found: list[Any] = driver.find_elements("css selector", selector)
    return found


def shown(driver: Any) -> list[str]:
    return [card.text for card in css(driver, "[data-card]") if card.is_displayed()]


def column(driver: Any, name: str, pick: str) -> list[float]:
    """The value that each visible card is sorted by."""
    values: list[float] = driver.execute_script(
        "return Array.from(document.querySelectorAll('[data-card]')).filter(c => !c.hidden).map(c =>"
        " Array.from(c.querySelectorAll('[data-p]')).map(r => r.dataset[arguments[0]])"
        ".filter(t => t !== '').map(Number)).filter(v => v.length)"
        ".map(v => Math[arguments[1]](...v))",
        name,
        pick,
    )
    return values


def test_the_log_sees_errors_inside_the_frame(driver: Any, tmp_path: Path) -> None:
    open_framed(driver, tmp_path, "<script>throw new Error('seen')</script>", 800)
    assert "seen" in str(driver.get_log("browser"))


def test_no_errors_no_network_no_injection(driver: Any, tmp_path: Path, page: str) -> None:
    open_framed(driver, tmp_path, page, 1440)
    driver.execute_async_script(
        "Promise.all(Array.from(document.images, i => i.decode())).then(arguments[0], arguments[0])"
    )
    assert driver.get_log("browser") == []
    assert driver.execute_script("return self.origin") == "null"
    assert driver.execute_script("return performance.getEntriesByType('resource').length") == 0
    assert driver.execute_script("return Array.from(document.images).every(i => i.naturalWidth && i.alt)")
    assert len(css(driver, "script")) == 1
    assert css(driver, "[onerror], h3 img, bdi script") == []


def test_toggles_switch_one_card_and_all(driver: Any, tmp_path: Path, page: str) -> None:
    open_framed(driver, tmp_path, page, 1440)
    plain, overlay = css(driver, ".plain"), css(driver, ".overlay")

    def visible() -> set[tuple[bool, bool]]:
        pairs = zip(plain, overlay, strict=True)
        return {(a.is_displayed(), b.is_displayed()) for a, b in pairs}

    assert visible() == {(False, True)}
    toggle = css(driver, "[data-toggle]")[0]
    toggle.send_keys(" ")
    assert (plain[0].is_displayed(), overlay[0].is_displayed()) == (True, False)
    assert toggle.get_attribute("aria-pressed") == "false"
    assert overlay[1].is_displayed()
    css(driver, "[data-show=image]")[0].click()
    assert visible() == {(True, False)}
    css(driver, "[data-show=overlay]")[0].click()
    assert visible() == {(False, True)}


ON_TOP = """
const image = arguments[0];
image.scrollIntoView({ block: 'center' });
const box = image.getBoundingClientRect();
return document.elementFromPoint((box.left + box.right) / 2, (box.top + box.bottom) / 2) === image;
"""


def test_heat_map_and_ground_truth_lie_over_the_image(driver: Any, tmp_path: Path, page: str) -> None:
    open_framed(driver, tmp_path, page, 1440)
    cards = css(driver, "[data-card]")
    for view in ("heat", "truth"):
        css(driver, f"[data-show={view}]")[0].send_keys("\n")
        for card in cards:
            (plain,) = card.find_elements("css selector", ".plain")
            layers = card.find_elements("css selector", f".{view}")
            assert plain.is_displayed() or not layers
            assert card.get_attribute("data-view") == (view if layers else "image")
            for layer in layers[:1]:  # of heat maps one is shown
                assert layer.is_displayed()
                assert not any(other.is_displayed() for other in layers[1:])
                assert layer.rect == plain.rect
                assert driver.execute_script(ON_TOP, layer)
            assert not card.find_elements("css selector", ".overlay")[0].is_displayed()
            named = card.find_elements("css selector", "[data-heat]")[0]
            assert named.is_displayed() == (view == "heat")
            (plain_badge,) = card.find_elements("css selector", "[data-badge]") or [None]
            assert plain_badge is None or plain_badge.is_displayed() == (view == "truth")
        pressed = [b.get_attribute("data-show") for b in css(driver, "[data-show][aria-pressed=true]")]
        assert pressed == [view]


def test_filter_by_why_an_image_was_chosen(driver: Any, tmp_path: Path, page: str) -> None:
    from selenium.webdriver.support.ui import Select

    open_framed(driver, tmp_path, page, 1440)
    select = Select(css(driver, "[data-reasons]")[0])
    for kind in (WORST, BEST, RANDOM):
        select.select_by_value(kind)
        cards = shown(driver)
        assert 0 < len(cards) < 14
        assert all(kind in text for text in cards)
        assert re.findall(r"\d+", css(driver, "[data-status]")[0].text) == [str(len(cards)), "14"]
    select.select_by_value("")
    assert len(shown(driver)) == 14


@pytest.mark.parametrize("by", ["mouse", "keyboard"])
def test_tables_sort_by_their_headings(driver: Any, tmp_path: Path, page: str, by: str) -> None:
    open_framed(driver, tmp_path, page, 1440)
    for table in css(driver, "table[data-sortable]"):
        heads = table.find_elements("css selector", "thead th")

        def values(column: int, table: Any = table) -> list[str]:
            cells = table.find_elements("css selector", f"tbody tr > :nth-child({column + 1})")
            return [cell.get_attribute("data-v") for cell in cells]

        for column, head in enumerate(heads):
            button = head.find_element("css selector", "button")
            for order in ("ascending", "descending") if not column else ("descending", "ascending"):
                if by == "mouse":
                    button.click()
                else:
                    button.send_keys(" ")
                assert head.get_attribute("aria-sort") == order
                found = values(column)
                if column:
                    numbers = [float(text) for text in found if text]
                    assert numbers == sorted(numbers, reverse=order == "descending")
                    assert all(found[: len(numbers)])  # those without a value come last
                else:
                    turned = found if order == "ascending" else found[::-1]
                    assert turned == sorted(turned, key=str.casefold)


def test_plots_are_drawn_inside_their_frames(driver: Any, tmp_path: Path, page: str) -> None:
    open_framed(driver, tmp_path, page, 1440)
    plots = css(driver, "svg.chart")
    assert len({plot.get_attribute("aria-label") for plot in plots}) == len(plots) == 3
    outside = driver.execute_script(
        "return Array.from(document.querySelectorAll('svg')).flatMap(svg => { const b = "
        "svg.getBoundingClientRect(); return Array.from(svg.querySelectorAll('*')).filter(e => { const r = "
        "e.getBoundingClientRect(); return r.left < b.left - 1 || r.right > b.right + 1 || r.top < b.top - 1 "
        "|| r.bottom > b.bottom + 1; }).map(e => e.outerHTML.slice(0, 80)); })"
    )
    assert outside == []
    lines = plots[0].find_elements("css selector", ".line")
    inks = driver.execute_script("return arguments[0].map(e => getComputedStyle(e).stroke)", lines)
    assert len(set(inks)) == len(QUERIES)
    assert len(plots[0].find_elements("css selector", ".best")) == len(QUERIES)  # the best thresholds


LINES = """
return Array.from(document.querySelectorAll('.line'), line => {
  const marker = line.parentElement.querySelector('.dot'), style = getComputedStyle(line);
  const back = ground(line.closest('.card') || document.body);
  const [a, b] = [light(back), light(over(back, style.stroke))].sort((x, y) => y - x);
  return [line.closest('svg').className.baseVal, (a + 0.05) / (b + 0.05), style.strokeDasharray,
    marker.getAttribute('d'), style.stroke];
});
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("kind", ["report", "ranking"])
def test_lines_stand_out_and_differ_by_dash_and_marker(
    driver: Any, tmp_path: Path, page: str, kind: str, scheme: str
) -> None:
    open_framed(driver, tmp_path, page if kind == "report" else ranking_page(), 1440, scheme)
    lines = driver.execute_script(COLORS + LINES)
    assert min(contrast for _, contrast, *_ in lines) >= 3
    keys = [(dash, marker) for kind, _, dash, marker, _ in lines if kind == "key"]
    assert len(set(keys)) == len(keys) == (len(QUERIES) if kind == "report" else 8)
    drawn = [(dash, marker) for kind, _, dash, marker, _ in lines if kind == "chart"]
    assert drawn[: len(keys)] == keys, "the legend repeats them"


@pytest.mark.parametrize("width", [360, 1440])
def test_the_ranking_fits_a_phone(driver: Any, tmp_path: Path, width: int) -> None:
    open_framed(driver, tmp_path, ranking_page(), width)
    assert driver.get_log("browser") == []
    assert driver.execute_script(OVERFLOW) == [0, []]
    for table in css(driver, ".wide"):
        assert driver.execute_script("return arguments[0].scrollWidth - arguments[0].clientWidth", table) <= 0
    assert driver.execute_script(COLORS + CONTRAST) == []
    assert css(driver, "script") == []


def ranking_page() -> str:
    """Ten prompts of two sets with names of every kind."""
    names = [*QUERIES, "invoice\u202egnp.exe", "<b>bold</b>", "short", "none"]
    rows, curves = [], {}
    for place, name in enumerate(names):
        found = agreement(min(place, 7))
        figures = found.figures | {"best_iou_low": 0.4, "best_iou_high": 0.6, "average_precision": 0.5}
        if name == "none":
            figures |= dict.fromkeys(("best_iou", "best_iou_low", "best_threshold", "average_precision"))
        full = f"engineered wordings/{name}"
        row = {**figures, "rank": place + 1, "set": "engineered wordings", "prompt": name, "images": 12_345}
        rows.append(row | {"full_name": full})
        curves[full] = found.curve
    sets = [
        SetRow("engineered wordings", 9, 0.61234, 0.5),
        SetRow("a set of the plainest words", 9, 0.5, 0.4),
    ]
    curve = {"thresholds": THRESHOLDS, "per_prompt": curves}
    return render_html(Ranking(rows, sets), curve, "s3://factory-images/inspection/2025/week-47/")


def test_heat_maps_follow_the_prompt_that_is_asked_for(driver: Any, tmp_path: Path, page: str) -> None:
    open_framed(driver, tmp_path, page, 1440)
    css(driver, "[data-show=heat]")[0].click()

    def named() -> set[str]:
        return {badge.text for badge in css(driver, "[data-heat]") if badge.is_displayed()}

    assert named() == {"red thing"}, "whatever each card was chosen for"
    chip = next(c for c in css(driver, "[data-filter]") if c.text.startswith("star"))
    chip.click()
    for card in css(driver, "[data-card]"):
        maps = [image for image in card.find_elements("css selector", ".heat") if image.is_displayed()]
        badges = [b.text for b in card.find_elements("css selector", "[data-heat]") if b.is_displayed()]
        assert len(maps) == len(badges) == int(card.is_displayed())
        if badges:
            assert maps[0].get_attribute("alt").startswith(f"Probabilities of {badges[0]} ")
    assert "star" in named()
    css(driver, "[data-filter='']")[0].click()
    assert named() == {"red thing"}


def test_a_view_of_ground_truth_says_where_there_is_none(driver: Any, tmp_path: Path, page: str) -> None:
    open_framed(driver, tmp_path, page, 1440)
    badges = css(driver, "[data-badge]")
    assert not any(badge.is_displayed() for badge in badges)
    css(driver, "[data-show=truth]")[0].click()
    assert all(badge.is_displayed() and badge.text for badge in badges)
    assert [badge.get_attribute("data-note") for badge in badges] == [
        "truth_missing" if not i % 3 else "truth_empty" for i in range(14) if not i % 3 or i == 1
    ]


def test_filter_by_prompt(driver: Any, tmp_path: Path, page: str) -> None:
    open_framed(driver, tmp_path, page, 1440)
    everything = len(shown(driver))
    chip = next(c for c in css(driver, "[data-filter]") if c.text.startswith("star"))
    chip.click()
    cards = shown(driver)
    assert 0 < len(cards) < everything
    assert str(len(cards)) in chip.text.split()
    assert len(css(driver, ".hit")) == len(cards)
    status = css(driver, "[data-status]")[0].text
    assert re.findall(r"\d+", status) == [str(len(cards)), str(everything)]
    css(driver, "[data-filter='']")[0].send_keys("\n")
    assert len(shown(driver)) == everything


@pytest.mark.parametrize("name", ["coverage", "score", "iou"])
def test_sort(driver: Any, tmp_path: Path, page: str, name: str) -> None:
    from selenium.webdriver.support.ui import Select

    open_framed(driver, tmp_path, page, 1440)
    before = shown(driver)
    select = Select(css(driver, "[data-sort]")[0])
    select.select_by_value(name)
    values = column(driver, name, "max")
    assert values == sorted(values, reverse=True)
    css(driver, "[data-direction]")[0].click()
    values = column(driver, name, "min")
    assert values == sorted(values)
    assert shown(driver) != before
    select.select_by_value("")
    assert shown(driver) == before


OVERFLOW = """
const root = document.documentElement;
const wide = Array.from(document.querySelectorAll('body *')).filter(e =>
  !e.closest('.wide, .gallery') && e.getClientRects().length && getComputedStyle(e).position !== 'absolute'
  && e.getBoundingClientRect().right > root.clientWidth + 0.5).map(e => e.outerHTML.slice(0, 90));
return [root.scrollWidth - root.clientWidth, wide];
"""


@pytest.mark.parametrize("width", [360, 768, 1440])
def test_no_horizontal_overflow(driver: Any, tmp_path: Path, page: str, width: int) -> None:
    open_framed(driver, tmp_path, page, width)
    assert driver.execute_script("return innerWidth") == width
    excess, wide = driver.execute_script(OVERFLOW)
    assert wide == []
    assert excess <= 0


def test_a_phone_is_not_scrolled_for_ever(driver: Any, tmp_path: Path, page: str) -> None:
    open_framed(driver, tmp_path, page, 360)
    assert driver.execute_script("return document.documentElement.scrollHeight") < 8_000
    sweep = css(driver, ".sweep")[0]
    assert driver.execute_script("return arguments[0].scrollWidth - arguments[0].clientWidth", sweep) <= 0


def test_words_of_buttons_stay_whole_on_a_phone(driver: Any, tmp_path: Path, page: str) -> None:
    open_framed(driver, tmp_path, page, 360)
    for button in css(driver, "[data-show]"):
        lines = driver.execute_script(
            "const range = document.createRange(); range.selectNodeContents(arguments[0]);"
            "return range.getClientRects().length",
            button,
        )
        assert lines <= len(button.text.split()), button.text


COLORS = """
const canvas = new OffscreenCanvas(1, 1).getContext('2d', { willReadFrequently: true });
const over = (under, color) => {
  canvas.fillStyle = `rgb(${under.join(' ')})`; canvas.fillRect(0, 0, 1, 1);
  canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1);
  return Array.from(canvas.getImageData(0, 0, 1, 1).data).slice(0, 3);
};
const light = (rgb) => rgb.map(v => v / 255)
  .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
  .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
const ground = (e) => over(e.parentElement ? ground(e.parentElement) : [255, 255, 255],
  getComputedStyle(e).backgroundColor);
"""
CONTRAST = """
const low = [];
for (const e of document.querySelectorAll('body *')) {
  const text = Array.from(e.childNodes).some(n => n.nodeType === 3 && n.data.trim());
  if (!text || e.tagName === 'OPTION' || !e.checkVisibility() || e.closest(':disabled')) continue;
  const back = ground(e), front = over(back, getComputedStyle(e).color);
  const [a, b] = [light(back), light(front)].sort((x, y) => y - x);
  if ((a + 0.05) / (b + 0.05) < 4.5) low.push([e.className, e.textContent.slice(0, 40), front, back]);
}
return low;
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_contrast(driver: Any, tmp_path: Path, page: str, scheme: str) -> None:
    open_framed(driver, tmp_path, page, 1440, scheme)
    css(driver, "[data-filter]")[1].click()
    dark = driver.execute_script("return matchMedia('(prefers-color-scheme: dark)').matches")
    assert dark == (scheme == "dark")
    assert driver.execute_script(COLORS + CONTRAST) == []


def test_keyboard_reaches_all_controls_with_visible_focus(driver: Any, tmp_path: Path, page: str) -> None:
    open_framed(driver, tmp_path, page, 1440)
    css(driver, "[data-show]")[0].send_keys("\t")
    ring = driver.execute_script(
        "const s = getComputedStyle(document.activeElement); return [s.outlineStyle, s.outlineWidth,"
        " document.activeElement.dataset.show]"
    )
    assert ring == ["solid", "3px", "image"]
    assert css(driver, "[tabindex]:not([tabindex='0'])") == []


@pytest.mark.parametrize("width", [360, 1440])
def test_reads_without_scripts(driver: Any, tmp_path: Path, page: str, width: int) -> None:
    file = tmp_path / "report.html"
    file.write_text(page, encoding="utf-8")
    driver.switch_to.default_content()
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        driver.get(file.as_uri())
        assert len(css(driver, "html.js")) == 0
        assert all(image.is_displayed() for image in css(driver, ".plain, .overlay"))
        assert not any(tool.is_displayed() for tool in css(driver, ".tools, .toggle"))
        assert driver.execute_script(OVERFLOW) == [0, []]
    finally:
        driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
