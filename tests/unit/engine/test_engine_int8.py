"""The encoder of 8 bits: on the demo model, whose masks mean something."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from codes import fails
from fixtures import embed
from numpy.typing import NDArray

from clipseg_kfp.demo.bucket import DEMO_PROMPTS
from clipseg_kfp.demo.scenes import draw_scene
from clipseg_kfp.engine import Engine
from clipseg_kfp.engine.int8 import Agreement, compare, load_int8, sample
from clipseg_kfp.images.decode import to_model_input

pytest.importorskip("nncf", reason="needs nncf: pip install 'clipseg-kfp[int8]'")

PROMPTS = [{"name": name, "texts": texts} for name, texts in DEMO_PROMPTS.items()]
THRESHOLDS = [0.5] * len(PROMPTS)


@pytest.fixture(scope="module")
def embeddings(demo_model: Path) -> NDArray[np.float32]:
    return embed(demo_model, PROMPTS)


@pytest.fixture(scope="module")
def scenes() -> list[NDArray[np.uint8]]:
    return [to_model_input(draw_scene(1000 + i).image, 160) for i in range(20)]


def test_masks_of_int8_are_compared_with_float32(
    demo_model: Path, embeddings: NDArray[np.float32], scenes: list[NDArray[np.uint8]]
) -> None:
    engine, agreement = load_int8(
        demo_model,
        calibration=scenes[:10],
        held_out=scenes[10:],
        embeddings=embeddings,
        thresholds=THRESHOLDS,
        min_iou=0.9,
    )
    assert engine.describe() == {"backend": "openvino", "device": "cpu", "precision": "int8"}
    exact = Engine.load(demo_model, backend="torch", device="cpu")
    pixels = np.stack(scenes[10:])
    expected, found = ([*e.probabilities(pixels, embeddings)] for e in (exact, engine))
    recomputed = compare(expected, found, THRESHOLDS)
    assert agreement.iou == pytest.approx(recomputed.iou, abs=1e-3)
    assert agreement.views == 10
    assert 0.9 < agreement.iou < 1, "an IoU of 1 would mean that nothing was quantized"


def test_masks_that_differ_too_much_are_refused(
    demo_model: Path, embeddings: NDArray[np.float32], scenes: list[NDArray[np.uint8]]
) -> None:
    with fails("int8_disagrees", where="inference.int8_min_iou"):
        load_int8(
            demo_model,
            calibration=scenes[:6],
            held_out=scenes[6:12],
            embeddings=embeddings,
            thresholds=THRESHOLDS,
            min_iou=0.9999,
        )


def test_without_evidence_it_stays_float32(
    demo_model: Path, embeddings: NDArray[np.float32], scenes: list[NDArray[np.uint8]]
) -> None:
    gray = [np.full((160, 160, 3), 120, np.uint8)] * 2
    engine, agreement = load_int8(
        demo_model,
        calibration=scenes[:4],
        held_out=gray,
        embeddings=embeddings,
        thresholds=[0.999] * len(PROMPTS),
        min_iou=0.5,
    )
    assert agreement == Agreement(2, None, None, None)
    assert engine.describe()["precision"] == "float32"


@pytest.mark.parametrize("count", [2, 3, 4, 12, 47, 48, 49, 150, 10_000])
def test_views_to_calibrate_on_are_none_to_compare_on(count: int) -> None:
    calibration, held_out = sample(count)
    assert not set(calibration) & set(held_out)
    assert all(0 <= i < count for i in calibration + held_out)
    assert len(calibration) + len(held_out) == min(count, 48)
    assert len(calibration) <= 32
    if count > 2:
        assert held_out
        assert len(held_out) <= 16


def test_agreement_by_hand() -> None:
    first = np.zeros((2, 4, 4), np.uint8)
    second = np.zeros((2, 4, 4), np.uint8)
    first[0, :2], second[0, :3] = 255, 255  # 8 of 12 pixels
    first[1, 0], second[1, 0] = 128, 200  # the same 4 pixels above one half
    found = compare([first], [second], [0.5, 0.5])
    assert found == Agreement(1, 12 / 16, 8 / 12, 0)
    assert compare([first], [second], [0.5, 0.6]).worst == 0.0  # 128 falls below 0.6
    assert compare([first[:, 3:]], [second[:, 3:]], [0.5, 0.5]).iou is None
