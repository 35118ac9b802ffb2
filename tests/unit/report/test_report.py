"""The report's page: what it says, what it escapes, how large it gets."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from codes import fails

from clipseg_kfp.report import (
    GalleryItem,
    PromptRow,
    QuarantineRow,
    Report,
    Tile,
    render_report,
)
from clipseg_kfp.report.text import moment, percent, thousands, visible

PICTURE = b"\xff\xd8\xff" + bytes(3_000)
HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' autofocus onfocus='alert(1)",
    "</style></title><!-- {{ 7 * 7 }} {% raw %}",
    "javascript:alert(1) https://example.com/x.png",
    "größe/検査/صورة 👩‍🔬.png",
)
VOID = {"meta", "link", "img", "br", "input"}


def item(key: str = "a/b.jpg", prompt: str = "cat", coverage: float = 0.25) -> GalleryItem:
    return GalleryItem(
        key, f"s3://bucket/{key}", 1920, 1080, PICTURE, PICTURE, (Tile(prompt, coverage, 0.8, 0.5),)
    )


def prompt(name: str = "cat") -> PromptRow:
    return PromptRow(name, (f"a photo of a {name}",), "#e5484d", 0.5, 1_204, 0.123, 0.8)


BASE = Report(
    title="Week 47",
    run="run-1",
    created="2025-11-22T16:04:31+00:00",
    facts=(("Model", "file:///model"),),
    counts={"listed": 12_000, "done": 9_000, "skipped": 2_997, "quarantined": 3, "masks": 18_000},
    mean_iou=0.7312,
    prompts=(prompt(),),
    quarantine=(QuarantineRow("bad.jpg", "truncated", "The file ends early."),),
    quarantine_total=3,
    gallery=(item("one.jpg"), item("two.jpg")),
    notes=("A remark.",),
)


class Page(HTMLParser):
    """Parses strictly enough to notice what an unescaped name would do."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.text = ""
        self.notes: dict[str, str] = {}
        self._note: tuple[str, int] | None = None
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"<{tag}> repeats an attribute"
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)
            if code := dict(attrs).get("data-note"):
                self._note, self.notes[code] = (code, len(self.open)), ""

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag
        if self._note and len(self.open) < self._note[1]:
            self._note = None

    def handle_data(self, data: str) -> None:
        if not {"script", "style"} & set(self.open):
            self.text += data
            if self._note:
                self.notes[self._note[0]] += data

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.tags if name == tag]

    def numbers(self, note: str) -> list[str]:
        """The numbers in the note of that code."""
        return re.findall(r"\d+(?:,\d{3})*", self.notes[note])

    @property
    def words(self) -> str:
        return " ".join(self.text.split())


def render(report: Report = BASE, **limits: int) -> Page:
    return Page(render_report(report, **limits))


def hostile(text: str) -> Report:
    return Report(
        title=text,
        run=text,
        created=text,
        facts=((text, text),),
        counts=BASE.counts,
        mean_iou=0.5,
        prompts=(replace(prompt(), name=text, texts=(text, *[text] * 4)),),
        quarantine=(QuarantineRow(text, text, text),),
        quarantine_total=1,
        gallery=(item(text, text), item(text, text, 0.0)),
        notes=(text,),
    )


def test_the_page_is_well_formed_and_complete() -> None:
    source = render_report(BASE)
    page = Page(source)
    assert source.lstrip().startswith("<!DOCTYPE html>")
    assert "width=device-width" in page.all("meta")[1]["content"]
    assert len(page.all("h1")) == 1
    identifiers = [a["id"] for _, a in page.tags if "id" in a]
    assert len(identifiers) == len(set(identifiers))
    labels = [a["aria-labelledby"] for _, a in page.tags if "aria-labelledby" in a]
    assert set(labels) <= set(identifiers)
    assert all(image["alt"] for image in page.all("img"))
    for words in (
        "12,000",
        "9,000",
        "2,997",
        "18,000",
        "73.1%",
        "12.3%",
        "1,920 × 1,080 px",  # noqa: RUF001
        "22 November 2025, 16:04 UTC",
        "A remark.",
    ):
        assert words in page.words
    assert page.numbers("quarantine_shortened") == ["1", "3"]
    assert page.numbers("gallery") == ["2", "9,000"]


@pytest.mark.parametrize("text", HOSTILE)
def test_names_are_text_wherever_they_stand(text: str) -> None:
    page, harmless = render(hostile(text)), render(hostile("harmless"))
    assert [tag for tag, _ in page.tags] == [tag for tag, _ in harmless.tags]
    assert [sorted(a) for _, a in page.tags] == [sorted(a) for _, a in harmless.tags]
    assert page.text.count(text) == harmless.text.count("harmless") > 10
    assert not any(name.startswith("on") for _, a in page.tags for name in a)


def test_what_hides_or_reorders_text_is_spelled_out() -> None:
    source = render_report(hostile("invoice\u202egnp.exe\x00\ud800\n"))
    assert not re.search("[\u202e\x00\ud800]", source)
    assert "invoice\\u202egnp.exe\\u0000\\ud800" in Page(source).text
    source.encode("utf-8")


def test_a_joined_emoji_and_arabic_stay_whole() -> None:
    assert visible("👩‍🔬 صورة") == "👩‍🔬 صورة"


def test_very_long_names_are_cut() -> None:
    assert len(render_report(hostile("x" * 100_000))) < 200_000
    assert visible("x" * 5_000).endswith("x…")


def test_nothing_is_fetched_from_anywhere() -> None:
    page = render(hostile("https://example.com/x.png"))
    for _, attributes in page.tags:
        for name in ("src", "href", "srcset", "action", "poster", "data"):
            assert attributes.get(name, "data:").startswith("data:")
        assert "url(" not in attributes.get("style", "")
    source = render_report(BASE)
    assert "@import" not in source
    assert "url(" not in source
    assert not re.search(r"fetch\(|XMLHttp|localStorage|sessionStorage|cookie|indexedDB", source)


def test_the_policy_allows_the_one_script_and_no_other() -> None:
    source = render_report(hostile("<script>alert(1)</script>"))
    scripts = re.findall(r"<script>(.*?)</script>", source, re.DOTALL)
    assert len(scripts) == 1
    assert "alert" not in scripts[0]
    policy = Page(source).all("meta")[2]["content"]
    expected = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
    assert f"script-src 'sha256-{expected}'" in policy
    assert policy.startswith("default-src 'none'")


def test_png_overlays_are_named_as_such() -> None:
    picture = replace(item(), overlay=b"\x89PNG\r\n\x1a\n" + bytes(20))
    kinds = [i["src"].split(";")[0] for i in render(replace(BASE, gallery=(picture,))).all("img")]
    assert kinds == ["data:image/jpeg", "data:image/png"]


@pytest.mark.parametrize("limit", [45_000, 60_000, 100_000, 300_000])
def test_the_limit_drops_pictures_from_the_end(limit: int) -> None:
    report = replace(BASE, gallery=tuple(item(f"image-{i}.jpg") for i in range(20)))
    source = render_report(report, limit_bytes=limit)
    assert len(source.encode()) <= limit
    shown = len(re.findall(r"data-card\b(?=[^\]])", source.split("<body>")[1]))
    assert 0 < shown <= 20
    for i in range(20):
        assert (f"image-{i}.jpg" in source) == (i < shown)
    if shown < 20:
        assert Page(source).numbers("gallery_shortened") == [str(shown), "20"]
        assert len(source.encode()) + 10_000 > limit, "one more would have fitted"
    else:
        assert limit == 300_000


def test_the_limit_holds_for_long_tables_too() -> None:
    rows = tuple(QuarantineRow(f"k{i}.jpg", "truncated", "ä" * 400) for i in range(2_000))
    report = replace(BASE, quarantine=rows, quarantine_total=5_000)
    source = render_report(report, limit_bytes=100_000)
    assert len(source.encode()) <= 100_000
    assert Page(source).numbers("quarantine_shortened")[1] == "5,000"
    assert "gallery_no_room" in Page(source).notes
    many = replace(report, prompts=tuple(prompt(f"p{i}") for i in range(2_000)))
    source = render_report(many, limit_bytes=100_000)
    assert len(source.encode()) <= 100_000
    assert Page(source).numbers("prompts_shortened")[1] == "2,000"
    with fails("report_too_large"):
        render_report(BASE, limit_bytes=1_000)


def test_nothing_new() -> None:
    counts = {"listed": 1_500, "done": 0, "skipped": 1_500, "quarantined": 0, "masks": 0}
    page = render(replace(BASE, counts=counts, gallery=(), quarantine=(), quarantine_total=0, mean_iou=None))
    assert page.numbers("nothing_new") == ["1,500"]
    assert {"quarantine_empty", "gallery_empty"} <= page.notes.keys()
    assert "data-sort" not in {name for _, a in page.tags for name in a}


@pytest.mark.parametrize(
    ("counts", "note", "numbers"),
    [
        ({}, "no_images", []),
        ({"listed": 2, "quarantined": 2}, "nothing_segmented", []),
        ({"listed": 3, "skipped": 2, "quarantined": 1}, "nothing_new", ["2", "3"]),
        ({"listed": 1, "skipped": 1}, "nothing_new", []),
        ({"listed": 9, "done": 5, "skipped": 1}, "counts_differ", ["9", "6"]),
    ],
)
def test_other_outcomes_have_their_notes(counts: dict[str, int], note: str, numbers: list[str]) -> None:
    assert render(replace(BASE, counts=counts)).numbers(note) == numbers


def test_without_ground_truth_no_iou_is_shown() -> None:
    tile = Tile("cat", 0.25, 0.8, None)
    page = render(
        replace(
            BASE,
            mean_iou=None,
            prompts=(prompt(),),
            gallery=(replace(item(), tiles=(tile,)),),
        )
    )
    assert "no_ground_truth" in page.notes
    assert "iou" not in [option["value"] for option in page.all("option")]
    assert page.words.count("IoU") == 2  # the empty headline number, and why


def test_a_missed_object_is_shown_and_a_prompt_without_mask_is_named() -> None:
    tiles = (Tile("cat", 0.0, 0.0, 0.0), Tile("dog", 0.0, 0.0, None), Tile("cow", 0.1, 0.7, 0.6))
    page = render(replace(BASE, gallery=(replace(item(), tiles=tiles),)))
    assert "cat missed 0.0%" in page.words
    assert re.search(
        r'<p class="absent">[^<]*<bdi>dog</bdi></p>',
        render_report(replace(BASE, gallery=(replace(item(), tiles=tiles),))),
    )
    bare = render_report(replace(BASE, gallery=(replace(item(), tiles=tiles[1:2]),)))
    assert re.search(r'<p class="absent">[^<]*<bdi>dog</bdi></p>', bare)


def test_many_prompts_fold_away() -> None:
    tiles = tuple(Tile(f"p{i}", 0.1, 0.7, 0.6) for i in range(20))
    assert "14 more" in render(replace(BASE, gallery=(replace(item(), tiles=tiles),))).words


def test_colors_are_checked() -> None:
    for color in ("red", "#fff", "#ffffff;background:url(x)", "#ffffff\n"):
        with pytest.raises(ValueError):
            replace(prompt(), color=color)


def test_numbers() -> None:
    values = (None, float("nan"), 0.0, 0.0004, 0.1234, 0.99999, 1.0)
    assert [percent(value) for value in values] == [
        "\u2013",
        "\u2013",
        "0.0%",
        "<0.1%",
        "12.3%",
        ">99.9%",
        "100.0%",
    ]
    assert thousands(1_234_567) == "1,234,567"
    assert moment("2025-11-22T16:04:31Z") == "22 November 2025, 16:04 UTC"
    assert moment("2025-11-22T18:04:31+02:00") == "22 November 2025, 16:04 UTC"
    assert moment("yesterday") == "yesterday"
    odd = replace(BASE, gallery=(replace(item(), tiles=(Tile("cat", 0.2, float("nan"), 0.1),)),))
    assert "20.0% \u2013 10.0%" in re.sub(r"(?<=[%\u2013])(?=[\d\u2013])", " ", render(odd).words)
