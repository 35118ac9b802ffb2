"""The suite in a script: same pixels as the steps make, in one call."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from codes import fails
from PIL import Image, ImageOps

import clipseg_kfp
from clipseg_kfp import Segmenter
from clipseg_kfp.demo.scenes import draw_scene
from clipseg_kfp.errors import ModelError, OptionsError, ParameterError
from clipseg_kfp.images.formats import ImageRejectedError
from clipseg_kfp.options import Views
from clipseg_kfp.segmenter import overlay

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "examples" / "demo-model"
PROMPTS: list[Any] = [
    "red", {"name": "ring", "text": "a ring", "threshold": 0.4},
    {"name": "no red", "logic": "not red"},
    {"name": "either", "logic": "red or part"}, {"name": "part", "text": "blue", "hidden": True},
]  # fmt: skip


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    return Segmenter(MODEL, backend="torch")


def test_segments_by_name_at_the_size_of_the_source(segmenter: Segmenter, tmp_path: Path) -> None:
    scene = draw_scene(3, (200, 150))
    scene.image.save(tmp_path / "scene.png")
    found = segmenter(tmp_path / "scene.png", PROMPTS)
    assert list(found) == ["red", "ring", "no red", "either"], "hidden ones are for logic only"
    for name, one in found.items():
        assert one.name == name
        assert one.mask.shape == one.probability.shape == (150, 200)
        assert one.probability.dtype == np.float32
        np.testing.assert_array_equal(one.mask, one.probability >= one.threshold)
        assert one.coverage == one.mask.mean()
        if one.mask.any():
            assert one.score == pytest.approx(one.probability[one.mask].mean(), abs=1e-4)
    assert found["ring"].threshold == 0.4
    np.testing.assert_allclose(found["no red"].probability, 1 - found["red"].probability, atol=1e-6)
    again = segmenter(Image.open(tmp_path / "scene.png"), segmenter.encode(PROMPTS))
    np.testing.assert_array_equal(again["ring"].mask, found["ring"].mask)
    tiled = segmenter(scene.image, PROMPTS, {"tile_size": 80})
    assert np.abs(tiled["red"].probability - found["red"].probability).max() > 0.01


def test_prompts_of_the_last_call_are_encoded_once(
    segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = draw_scene(3, (64, 64)).image
    seen: list[Any] = []
    encode = segmenter.encode
    monkeypatch.setattr(segmenter, "encode", lambda prompts: seen.append(prompts) or encode(prompts))
    for prompts in (["red"], ["red"], ["blue"], ["red"]):
        assert list(segmenter(image, prompts)) == prompts
    assert seen == [["red"], ["blue"], ["red"]]


def test_a_prompt_file_with_a_picture_beside_it(segmenter: Segmenter, tmp_path: Path) -> None:
    draw_scene(3, (64, 64)).image.save(tmp_path / "bolt.png")
    (tmp_path / "prompts.yaml").write_text("prompts: [{name: bolt, image: bolt.png}]")
    assert list(segmenter(tmp_path / "bolt.png", tmp_path / "prompts.yaml")) == ["bolt"]
    whole = {"defaults": {"threshold": 0.3}, "prompts": ["red"]}
    assert segmenter(tmp_path / "bolt.png", whole)["red"].threshold == 0.3


@pytest.mark.parametrize("mode", ["I;16", "LA", "RGBA", "P"])
def test_pictures_in_memory_have_the_colors_of_their_files(
    segmenter: Segmenter, tmp_path: Path, mode: str
) -> None:
    scene = draw_scene(3, (90, 60)).image
    if mode == "I;16":
        picture = Image.fromarray(np.asarray(scene.convert("L")).astype(np.uint16) * 257)
    else:
        scene.putalpha(Image.linear_gradient("L").resize(scene.size))
        picture = scene.convert(mode)
    picture.save(tmp_path / "scene.png")
    by_file, in_memory = (segmenter(one, ["red"])["red"] for one in (tmp_path / "scene.png", picture))
    np.testing.assert_array_equal(by_file.probability, in_memory.probability)


def test_flips_and_ground_resolution(segmenter: Segmenter) -> None:
    image = draw_scene(3, (200, 150)).image
    straight = segmenter(image, ["red"])["red"].probability
    mirror = segmenter(ImageOps.mirror(image), ["red"])["red"].probability[:, ::-1]
    both = segmenter(image, ["red"], {"flip": True})["red"].probability
    np.testing.assert_allclose(both, (straight + mirror) / 2, atol=0.03)
    assert np.abs(both - straight).max() > 0.03
    side = segmenter.facts.image_size
    by_ground = segmenter(image, ["red"], Views(tile_ground_resolution=80 / side, meters_per_pixel=1.0))
    by_size = segmenter(image, ["red"], {"tile_size": 80})
    np.testing.assert_array_equal(by_ground["red"].probability, by_size["red"].probability)
    with pytest.raises(ImageRejectedError) as caught:
        segmenter(image, ["red"], {"tile_ground_resolution": 0.5})
    assert caught.value.code == "no_resolution"


def test_overlay_paints_what_was_found(segmenter: Segmenter) -> None:
    image = Image.new("RGB", (120, 90), "white")
    image.paste((220, 30, 30), (30, 20, 80, 70))
    found = segmenter(image, ["a star", "red"])  # the second color is not red
    painted = overlay(image, found)
    assert painted.size == image.size
    changed = np.abs(np.asarray(painted, int) - np.asarray(image, int)).sum(2) > 60
    assert found["red"].mask.any() and changed.any()
    assert changed[found["red"].mask].mean() > 0.5
    assert overlay(image, {}, 60).size == (60, 45)


def test_mistakes_are_named(segmenter: Segmenter, tmp_path: Path) -> None:
    image = Image.new("RGB", (9, 9))
    with pytest.raises(ModelError) as missing:
        Segmenter("no/such")
    assert "no/such" in missing.value.message
    with pytest.raises(ParameterError):
        Segmenter(MODEL, threshold=2)
    with fails("prompt_file_missing", where="a cat") as caught:
        segmenter(image, "a cat")
    assert "['a cat']" in caught.value.remedy
    with pytest.raises(ParameterError) as unknown:
        segmenter(image, ["a", {"name": "b", "logic": "cup"}])
    assert "cup" in unknown.value.message
    with pytest.raises(OptionsError) as several:
        segmenter(image, ["red"], {"tile_size": 8, "tile_overlapp": 0.5})
    assert {problem.where for problem in several.value.problems} == {"views.tile_size", "views.tile_overlapp"}


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = "import sys, clipseg_kfp; sys.exit(any(name in sys.modules for name in ('torch', 'numpy', 'kfp')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    with pytest.raises(AttributeError):
        clipseg_kfp.Segmentor  # type: ignore[attr-defined] # noqa: B018
