"""segment_images: what it writes, what it records, and that it leaves nothing half done."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from codes import fails
from grouped import grouped
from numpy.typing import NDArray

from clipseg_kfp import records
from clipseg_kfp.demo.bucket import DEMO_PROMPTS
from clipseg_kfp.demo.scenes import draw_scene
from clipseg_kfp.engine import Engine, int8
from clipseg_kfp.engine.backends import not_finite
from clipseg_kfp.errors import ModelError
from clipseg_kfp.images.decode import to_model_input
from clipseg_kfp.options import Inference, Views
from clipseg_kfp.steps import encode_prompts, segment_images
from clipseg_kfp.steps.artifacts import EncodedPrompts, PackedViews, Probabilities

DEMO_MODEL = Path(__file__).parents[2] / "examples" / "demo-model"
PROMPTS = [{"name": name, "texts": texts} for name, texts in DEMO_PROMPTS.items()]


@pytest.fixture(scope="module")
def encoded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prompts")
    encode_prompts.run(model=DEMO_MODEL, encoded_prompts=folder, prompts=PROMPTS)
    return folder


@pytest.fixture
def prompts(encoded: Path, tmp_path: Path) -> Path:
    """A copy, of which a test may change the settings."""
    return Path(shutil.copytree(encoded, tmp_path / "prompts"))


def scenes(count: int) -> list[NDArray[np.uint8]]:
    return [to_model_input(draw_scene(1000 + i).image, 160) for i in range(count)]


def write_views(folder: Path, pixels: list[NDArray[np.uint8]]) -> Path:
    with records.ArrowWriter(PackedViews(folder).views_path, records.VIEWS) as writer:
        for i, view in enumerate(pixels):
            writer.append({"image": i, "box": (0, 0, 320, 240), "pixels": view.tobytes()})
    return folder


def read_maps(folder: Path) -> list[dict[str, Any]]:
    path = Probabilities(folder).maps_path
    rows = [row for batch in records.read_arrow(path) for row in batch.to_pylist()]
    return [{**row, "probability": records.unpack_map(row["probability"], 160)} for row in rows]


def run(tmp_path: Path, prompts: Path, pixels: list[NDArray[np.uint8]], **choices: Any) -> dict[str, Any]:
    views, target = tmp_path / "views", tmp_path / "maps"
    groups = grouped(**{"device": "cpu", **choices})
    inference = cast("Inference", groups["inference"])
    given = EncodedPrompts(prompts)
    given._write_json(
        "options.json",
        {"views": groups.pop("views", Views()).given(), "precision": inference.precision},
    )
    for folder in (views, target):
        folder.mkdir(exist_ok=True)
    return segment_images.run(
        views=write_views(views, pixels),
        encoded_prompts=prompts,
        model=DEMO_MODEL,
        probabilities=target,
        inference=inference,
    )


@pytest.mark.parametrize("size", [1, 3, 16, 25, 40, 100])
def test_batches_are_as_large_as_wanted(tmp_path: Path, size: int) -> None:
    """However many rows a batch of the file has."""
    pixels = [np.full((4, 4, 3), i, np.uint8) for i in range(40)]
    found = list(segment_images._batches(PackedViews(write_views(tmp_path, pixels)).views_path, size))
    assert [len(rows) for rows, _ in found] == [size] * (40 // size) + [40 % size] * bool(40 % size)
    assert [row["image"] for rows, _ in found for row in rows] == list(range(40))
    assert (np.concatenate([batch for _, batch in found]) == np.stack(pixels)).all()


@pytest.mark.parametrize("batch_size", [0, 1, 3])
@pytest.mark.parametrize("backend", ["torch", "openvino"])
def test_maps_are_those_of_the_engine_in_order(
    tmp_path: Path, prompts: Path, backend: str, batch_size: int
) -> None:
    pixels = scenes(19)  # more than an Arrow batch holds, and no multiple of anything
    facts = run(tmp_path, prompts, pixels, backend=backend, batch_size=batch_size)
    rows = read_maps(tmp_path / "maps")
    assert [(row["image"], row["prompt"]) for row in rows] == [(i, p) for i in range(19) for p in range(6)]
    embeddings = EncodedPrompts(prompts).table().embeddings
    expected = np.stack(
        [*Engine.load(DEMO_MODEL, Inference(backend="torch")).probabilities(np.stack(pixels), embeddings)]
    )
    found = np.stack([row["probability"] for row in rows]).reshape(expected.shape)
    assert np.abs(found.astype(int) - expected).max() <= 1
    assert found.max() > 200, "flat maps would prove nothing"
    assert facts == {"maps": 114, "backend": backend, "device": "cpu", "precision": "float32"}
    assert Probabilities(tmp_path / "maps").engine() == facts


def test_a_shard_that_fails_half_way_leaves_no_file(
    tmp_path: Path, prompts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish, calls = Engine.finish, []

    def failing(self: Engine, pending: Any) -> Any:
        calls.append(pending.images)
        if len(calls) == 3:
            raise ModelError("the device went away", "Try again.", code="device_gone")
        return finish(self, pending)

    monkeypatch.setattr(Engine, "finish", failing)
    with fails("device_gone"):
        run(tmp_path, prompts, scenes(12))
    assert list((tmp_path / "maps").iterdir()) == []


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("place", ["begin", "finish"])
def test_an_image_whose_results_are_not_finite_is_left_out_alone(
    tmp_path: Path, prompts: Path, monkeypatch: pytest.MonkeyPatch, place: str, flip: bool
) -> None:
    pixels = scenes(11)
    whole = run(tmp_path, prompts, pixels, flip=flip)
    expected = read_maps(tmp_path / "maps")
    pixels[4] = np.full_like(pixels[4], 7)
    begin, finish = Engine.begin, Engine.finish
    bad: list[int] = []

    def begins(self: Engine, views: Any, embeddings: Any) -> Any:
        for pending in begin(self, views, embeddings):
            if (views == 7).all(axis=(1, 2, 3)).any():
                if place == "begin":
                    raise not_finite("bfloat16")
                bad.append(id(pending))
                kept.append(pending)
            yield pending

    def finishes(self: Engine, pending: Any) -> Any:
        if id(pending) in bad:
            raise not_finite("bfloat16")
        return finish(self, pending)

    kept: list[Any] = []
    monkeypatch.setattr(Engine, "begin", begins)
    monkeypatch.setattr(Engine, "finish", finishes)
    facts = run(tmp_path, prompts, pixels, flip=flip)
    assert list(Probabilities(tmp_path / "maps").failed()) == [4]
    assert facts["maps"] == whole["maps"] - 6
    found = {(row["image"], row["prompt"]): row["probability"] for row in read_maps(tmp_path / "maps")}
    for row in expected:
        if row["image"] != 4:
            assert np.abs(found[row["image"], row["prompt"]].astype(int) - row["probability"]).max() <= 1
    with fails("results_not_finite"):  # no view at all goes through: that is no image's fault
        run(tmp_path, prompts, [pixels[4]], flip=flip)


def test_an_empty_shard_loads_no_model(
    tmp_path: Path, prompts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Engine, "load", lambda *_, **__: pytest.fail("loaded"))
    assert run(tmp_path, prompts, []) == {"maps": 0}
    assert read_maps(tmp_path / "maps") == []


def test_too_few_views_for_int8_are_done_in_float32(tmp_path: Path, prompts: Path) -> None:
    assert run(tmp_path, prompts, scenes(3), precision="int8")["precision"] == "float32"


def test_int8_records_its_agreement_or_is_refused(
    tmp_path: Path, prompts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(int8, "WORTHWHILE", 12)
    facts = run(tmp_path, prompts, scenes(15), precision="int8", int8_min_iou=0.9)
    assert facts["precision"] == "int8"
    assert 0.9 < facts["int8"]["iou"] < 1
    assert facts["int8"]["views"] == 5
    shutil.rmtree(tmp_path / "maps")
    with fails("int8_disagrees", where="inference.int8_min_iou"):
        run(tmp_path, prompts, scenes(15), precision="int8", int8_min_iou=1)
    assert list((tmp_path / "maps").iterdir()) == []


def test_flipping_averages_with_the_mirror_image(tmp_path: Path, prompts: Path) -> None:
    pixels = scenes(7)
    run(tmp_path, prompts, pixels, flip=True, batch_size=3)
    rows = read_maps(tmp_path / "maps")
    found = np.stack([row["probability"] for row in rows]).reshape(7, 6, 160, 160)
    embeddings = EncodedPrompts(prompts).table().embeddings
    engine = Engine.load(DEMO_MODEL, Inference(device="cpu"))
    plain, mirrored = (
        np.stack([*engine.probabilities(np.ascontiguousarray(side), embeddings)]).astype(int)
        for side in (np.stack(pixels), np.stack(pixels)[:, :, ::-1])
    )
    assert np.abs(plain - mirrored[..., ::-1]).max() > 20, "a model that is symmetric would prove nothing"
    assert np.abs(found - (plain + mirrored[..., ::-1]) / 2).max() <= 1.5
