"""The gallery: its page and folder as committed, its rules, and a small one made anew."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clipseg_kfp.demo.scenes import Query, draw_scene
from clipseg_kfp.demo.things import THINGS, first_scenes, supports
from clipseg_kfp.prompts import read_prompts
from tools.gallery import write_gallery
from tools.gallery_prompts import KINDS, LOGIC, PROMPTS, truth_of
from tools.large_scenes import draw_large_scene
from tools.picture_sheets import Cell, sheet

DOCS = Path(__file__).parents[3] / "docs"
LINKS = re.compile(r"\]\((?!https?:)([^)#]+)[^)]*\)")


def check_page(page: Path) -> str:
    """Every picture is there, has words in its place and a width that a page shows unscaled."""
    text = page.read_text("utf-8")
    pictures = re.findall(r"!\[([^\]]*)\]\(([^)]+)\)", text)
    assert len(pictures) == 4
    for words, path in pictures:
        assert len(words) > 20
        with Image.open(page.parent / path) as image:
            assert image.width <= 1000
    (block,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    assert block == PROMPTS == (page.with_suffix("") / "prompts.yaml").read_text("utf-8")
    return text


def test_the_committed_gallery_is_whole_and_small() -> None:
    text = check_page(DOCS / "gallery.md")
    assert all((DOCS / link).exists() for link in LINKS.findall(text))
    files = list((DOCS / "gallery").iterdir())
    assert sum(file.stat().st_size for file in files) < 1_500_000
    prompts = read_prompts(PROMPTS.encode(), "prompts.yaml").prompts
    parts = [part for prompt in prompts for part in (prompt, *(prompt.mix or ()))]
    named = {uri for part in parts for image in part.images for uri in (image.image, image.mask) if uri}
    named |= {part.embedding.uri for part in parts if part.embedding}
    drawn = {"kinds.jpg", "support.jpg", "logic.jpg", "tiles.jpg"}
    assert {file.name for file in files} == named | drawn | {"prompts.yaml"}


def test_every_prompt_has_a_truth() -> None:
    prompts = read_prompts(PROMPTS.encode(), "prompts.yaml").prompts
    wanted = [f"{thing.noun} {kind}" for thing in THINGS for kind in KINDS]
    assert [prompt.name for prompt in prompts if not prompt.hidden] == [*wanted, *LOGIC]
    scene = draw_scene(5000)
    for name in [*wanted, *LOGIC]:
        assert truth_of(scene, name).shape == scene.labels.shape


def test_logic_is_true_where_its_parts_say() -> None:
    red, ring = Query(color="red"), Query("ring")

    def rule(scene) -> bool:
        return bool(
            (scene.mask(red) & scene.mask(ring)).any() and (scene.mask(red) & ~scene.mask(ring)).any()
        )

    [(_, scene)] = first_scenes({"": rule}, 5000)[""]
    truth = truth_of(scene, "red and not ring")
    assert truth.any()
    assert not (truth & scene.mask(ring)).any()
    np.testing.assert_array_equal(truth | truth_of(scene, "ring") & truth_of(scene, "red"), scene.mask(red))


def test_a_support_picture_shows_one_thing_clear_of_all_else() -> None:
    thing = THINGS[0]
    [(seed, scene)] = first_scenes({thing: supports(thing)}, 6000)[thing]
    mask = scene.mask(thing)
    assert seed >= 6000
    assert mask.mean() >= 0.04
    assert len(np.unique(scene.labels[mask])) == 1
    top, left = (int(axis.min()) for axis in np.nonzero(mask))
    bottom, right = (int(axis.max()) for axis in np.nonzero(mask))
    assert min(top, left, mask.shape[0] - 1 - bottom, mask.shape[1] - 1 - right) >= 8


def test_large_scenes_are_equal_for_equal_seeds() -> None:
    one, other = (draw_large_scene(3, (200, 160), large=1) for _ in range(2))
    assert one.image.tobytes() == other.image.tobytes()
    assert any(mask.any() for mask in one.truth.values())
    for name, mask in one.truth.items():
        assert mask.shape == (160, 200)
        np.testing.assert_array_equal(mask, other.truth[name])


def test_a_sheet_refuses_words_that_do_not_fit() -> None:
    cell = Cell(Image.new("RGB", (60, 40)), "short")
    page = sheet([[cell, cell]], ["a", "b"])
    assert page.size == (12 + 60 + 8 + 60 + 12, 12 + 22 + 40 + 22 + 12)
    with pytest.raises(ValueError):
        sheet([[Cell(cell.image, "much too long for it")]])


@pytest.mark.slow
def test_a_gallery_is_the_same_every_time(tmp_path: Path) -> None:
    pages = [tmp_path / name / "gallery.md" for name in ("one", "other")]
    figures = [write_gallery(page, each=1, large=1) for page in pages]
    assert figures[0] == figures[1]
    assert figures[0]["iou_tiles"] > figures[0]["iou_no_tiles"] + 0.3
    assert f"{figures[0]['iou_tiles']:.3f}" in check_page(pages[0])
    files = [sorted(page.parent.rglob("*.*")) for page in pages]
    assert len(files[0]) == len(files[1]) > 15
    for one, other in zip(*files, strict=True):
        assert one.name == other.name
        assert one.read_bytes() == other.read_bytes(), one.name
