"""Embeddings of every kind of prompt, against transformers' own; and the table that later steps read."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from codes import fails
from fixtures import Build
from PIL import Image
from transformers import CLIPSegProcessor

from clipseg_kfp.demo.scenes import SHAPES, Query, draw_scene
from clipseg_kfp.engine import Engine
from clipseg_kfp.engine.checkpoint import load_model, load_tokenizer, read_facts
from clipseg_kfp.images.decode import to_model_input
from clipseg_kfp.prompts import (
    Encoder,
    Files,
    PromptTable,
    encode,
    gather,
    parse_prompts,
    read_table,
    write_table,
)
from clipseg_kfp.prompts.encoder import COMMON_THINGS


def prepare(model: Path, folder: Path, *entries: Any, **fields: Any) -> PromptTable:
    """All that encode_prompts does between a prompt set and the table."""
    facts = read_facts(model)
    encoder = Encoder(load_model(model), facts, lambda: load_tokenizer(model))
    prompts = parse_prompts({"prompts": list(entries), **fields})
    rows, embeddings = encode(gather(prompts, facts, 0.5, Files(f"{folder}/prompts.yaml")), encoder)
    write_table(folder / "table.parquet", rows, embeddings)
    return read_table(folder / "table.parquet")


def embed(model: Path, folder: Path, **entry: Any) -> np.ndarray[Any, Any]:
    return prepare(model, folder, {"name": "thing", **entry}).embeddings[0]


def save(path: Path, image: Image.Image) -> Path:
    image.save(path)
    return path


def features(model: Path, texts: list[str]) -> np.ndarray[Any, Any]:
    tokens = load_tokenizer(model)(texts, padding=True, return_tensors="pt")
    with torch.inference_mode():
        found: torch.Tensor = load_model(model).clip.get_text_features(**tokens).pooler_output
    return found.numpy()


def processor_of(model: Path) -> Any:
    return CLIPSegProcessor.from_pretrained(model, backend="pil")


@pytest.mark.parametrize("variant", ["complex", "simple", "interpolated", "five_layers", "demo"])
def test_image_prompts_are_what_transformers_makes_of_them(
    variant: str, build_tiny: Build, demo_model: Path, tmp_path: Path
) -> None:
    """The same embedding as ``conditional_pixel_values``, and with it the same logits."""
    folder = demo_model if variant == "demo" else build_tiny(variant)
    shown, searched = draw_scene(1, (150, 100)).image, draw_scene(2, (120, 160)).image
    save(tmp_path / "shown.png", shown)
    found = embed(folder, tmp_path, image="shown.png")

    model = load_model(folder)
    inputs = processor_of(folder)(images=searched, visual_prompt=shown, return_tensors="pt")
    with torch.inference_mode():
        expected = model(**inputs)
        same = model(
            pixel_values=inputs["pixel_values"], conditional_embeddings=torch.from_numpy(found)[None]
        )
    np.testing.assert_allclose(found, expected.conditional_embeddings[0].numpy(), atol=2e-5)
    torch.testing.assert_close(same.logits, expected.logits, atol=1e-3, rtol=1e-3)

    engine = Engine.load(folder, backend="torch", device="cpu")
    pixels = to_model_input(searched, engine.facts.image_size)[None]
    logits = engine.decode(engine.encode(pixels), found[None]).squeeze()
    np.testing.assert_allclose(logits, expected.logits.squeeze().numpy(), atol=1e-3, rtol=1e-3)


def test_embeddings_are_the_models_text_features(tiny_model: Path, tmp_path: Path) -> None:
    texts = ["a red circle", "star", "the striped square on the left"]
    found = prepare(tiny_model, tmp_path, *texts).embeddings
    assert found.shape == (3, 24)
    np.testing.assert_allclose(found, features(tiny_model, texts), atol=1e-5)
    lengths = np.linalg.norm(found, axis=1)
    assert np.abs(lengths - 1).min() > 0.05, "embeddings must not be normalized"


def test_texts_are_averaged_over_wordings_and_sentences(tiny_model: Path, tmp_path: Path) -> None:
    found = embed(tiny_model, tmp_path, texts=["circle", "disc"], templates=["a {}.", "the red {}"])
    expected = features(tiny_model, ["a circle.", "the red circle", "a disc.", "the red disc"]).mean(0)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_many_prompts_are_encoded_in_batches_without_mixing_them_up(tiny_model: Path, tmp_path: Path) -> None:
    for i in range(3):
        save(tmp_path / f"{i}.png", draw_scene(i, (60, 60)).image)
    entries: list[Any] = []
    for i in range(50):  # more texts and images than a batch holds
        entries.append({"name": f"t{i}", "texts": [f"{'red ' * (i % 5)}circle {i}", "star"]})
        entries.append({"name": f"i{i}", "images": [f"{i % 3}.png", f"{(i + 1) % 3}.png"]})
    table = prepare(tiny_model, tmp_path, *entries)
    assert [row.name for row in table.base] == [entry["name"] for entry in entries]
    for place in (0, 1, 6, 33, 98, 99):
        alone = prepare(tiny_model, tmp_path, entries[place]).embeddings[0]
        np.testing.assert_allclose(table.embeddings[place], alone, atol=1e-5)


def test_mixes_are_weighted_means(tiny_model: Path, tmp_path: Path) -> None:
    save(tmp_path / "a.png", draw_scene(1, (60, 60)).image)
    vector = np.random.default_rng(0).normal(size=24).astype(np.float32)
    np.save(tmp_path / "v.npy", vector)
    stored = {"uri": "v.npy", "normalized": False}
    found = embed(
        tiny_model, tmp_path,
        mix=[{"text": "circle"}, {"image": "a.png", "weight": 2}, {"embedding": stored, "weight": 5}],
    )  # fmt: skip
    image = embed(tiny_model, tmp_path, image="a.png")
    expected = (features(tiny_model, ["circle"])[0] + 2 * image + 5 * vector) / 8
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_stored_embeddings_are_taken_as_they_are(tiny_model: Path, tmp_path: Path) -> None:
    raw = features(tiny_model, ["a red circle"])[0]
    np.save(tmp_path / "raw.npy", raw)
    found = embed(tiny_model, tmp_path, embedding={"uri": "raw.npy", "normalized": False})
    assert np.array_equal(found, raw)
    np.save(tmp_path / "unit.npy", raw / np.linalg.norm(raw))
    found = embed(tiny_model, tmp_path, embedding={"uri": "unit.npy", "normalized": True, "norm": "text"})
    length = np.linalg.norm(features(tiny_model, list(COMMON_THINGS)), axis=1).mean()
    np.testing.assert_allclose(found, raw / np.linalg.norm(raw) * length, rtol=1e-4)


def test_prompts_without_texts_need_no_tokenizer(tiny_model: Path, tmp_path: Path) -> None:
    def refuse() -> Any:
        raise AssertionError("the tokenizer is not needed")

    save(tmp_path / "a.png", draw_scene(1, (60, 60)).image)
    facts = read_facts(tiny_model)
    prompts = parse_prompts([{"name": "a", "image": "a.png"}])
    files = Files(f"{tmp_path}/prompts.yaml")
    _, found = encode(gather(prompts, facts, 0.5, files), Encoder(load_model(tiny_model), facts, refuse))
    assert found.shape == (1, 24)


def test_a_text_that_the_model_cannot_read_is_named(tiny_model: Path, tmp_path: Path) -> None:
    with fails("text_too_long", where="prompts[1]"):
        prepare(tiny_model, tmp_path, "star", {"name": "long", "mix": ["star", "circle " * 40]})


# The table


def test_the_table_tells_later_steps_what_they_need(tiny_model: Path, tmp_path: Path) -> None:
    save(tmp_path / "a.png", draw_scene(1, (60, 60)).image)
    table = prepare(
        tiny_model,
        tmp_path,
        {"name": "cup", "texts": ["a cup", "a mug"], "templates": "shuffle", "id": 12},
        {"name": "body", "logic": "CUP_ and (not handle)", "threshold": "otsu", "instances": True},
        {"name": "CUP_", "logic": "cup or shown"},
        {"name": "handle", "text": "a handle", "hidden": True},
        {"name": "shown", "image": "a.png", "box": [5, 5, 20, 20], "cleaning": {"min_area": "1%"}},
    )
    assert [row.name for row in table.base] == ["cup", "handle", "shown"]
    assert table.embeddings.shape == (3, 24)
    assert table.embeddings.dtype == np.float32
    assert [row.name for row in table.outputs] == ["cup", "body", "CUP_", "shown"]
    assert [row.id for row in table.rows] == [12, 2, 3, 4, 5]
    assert [row.kind for row in table.rows] == ["text", "logic", "logic", "text", "image"]
    assert [row.description for row in table.rows] == [
        '"a cup", "a mug" in 4 sentences',
        "CUP_ and not handle",
        "cup or shown",
        '"a handle"',
        "1 image with box",
    ]
    assert [row.threshold for row in table.rows] == [0.5, None, 0.5, None, 0.5]
    assert [row.otsu for row in table.rows] == [False, True, False, False, False]
    assert table.rows[1].instances
    assert table.rows[4].cleaning.arguments(10, 100)["min_area"] == 10
    assert table.rows[0].to_json()["definition"] == table.rows[0].definition

    maps = {name: np.full((2, 2), value, np.float32) for name, value in
            {"cup": 0.75, "handle": 0.5, "shown": 0.25}.items()}  # fmt: skip
    complete = table.complete(maps)
    assert list(complete) == ["cup", "handle", "shown", "CUP_", "body"]
    assert (complete["CUP_"] == 0.75).all()
    assert (complete["body"] == 0.5).all()


def test_a_set_of_logic_needs_maps_to_work_on(tiny_model: Path, tmp_path: Path) -> None:
    table = prepare(tiny_model, tmp_path, "a", {"name": "b", "logic": "not a"})
    assert table.complete({"a": np.array([0, 55], np.uint8)})["b"].tolist() == [255, 200]
    with pytest.raises(ValueError):
        prompts = gather(parse_prompts(["a"]), read_facts(tiny_model), 0.5, Files())
        write_table(tmp_path / "x.parquet", prompts, np.zeros((0, 24), np.float32))


# Quality


def test_one_picture_of_a_thing_finds_it_in_other_scenes(demo_model: Path, tmp_path: Path) -> None:
    """Pictures stand for a shape in its color, as in the demo model's training; all scenes are held out."""
    wanted = dict(zip(SHAPES, ("red", "blue", "green") * 2, strict=True))
    entries, seed = [], 8000
    for shape, color in wanted.items():
        while f"{shape}.png" not in {path.name for path in tmp_path.iterdir()}:
            seed += 1
            scene = draw_scene(seed)
            mask = scene.mask(Query(shape=shape, color=color))
            if mask.sum() > 2500:
                save(tmp_path / f"{shape}.png", scene.image)
                save(tmp_path / f"{shape}-mask.png", Image.fromarray(mask))
        entries.append({"name": shape, "image": f"{shape}.png", "mask": f"{shape}-mask.png"})
    table = prepare(demo_model, tmp_path, *entries)
    engine = Engine.load(demo_model, device="cpu")
    overlap, union = dict.fromkeys(wanted, 0), dict.fromkeys(wanted, 0)
    for scene in _scenes_with(wanted, each=3):
        pixels = to_model_input(scene.image, engine.facts.image_size)[None]
        (maps,) = engine.probabilities(pixels, torch.from_numpy(table.embeddings))
        for row, levels in zip(table.base, maps, strict=True):
            found = (
                np.asarray(Image.fromarray(levels).resize(scene.image.size, Image.Resampling.BILINEAR))
                >= 127.5
            )
            truth = scene.mask(Query(shape=row.name, color=wanted[row.name]))
            overlap[row.name] += int((found & truth).sum())
            union[row.name] += int((found | truth).sum())
    assert np.mean([overlap[name] / union[name] for name in wanted]) >= 0.6


def _scenes_with(wanted: dict[str, str], each: int) -> list[Any]:
    """Scenes that show the things, a few for each; every other thing is absent from most of them."""
    found: dict[str, list[Any]] = {shape: [] for shape in wanted}
    for seed in range(7000, 7900):
        scene = draw_scene(seed)
        for item in scene.objects:
            if wanted[item.shape] == item.color and len(found[item.shape]) < each:
                found[item.shape].append(scene)
                break
        if all(len(scenes) == each for scenes in found.values()):
            break
    return [scene for scenes in found.values() for scene in scenes]


def test_masks_may_be_any_image(tiny_model: Path, tmp_path: Path) -> None:
    scene = draw_scene(1, (60, 60))
    buffer = io.BytesIO()
    Image.fromarray(scene.labels == 1).convert("L").save(buffer, "WEBP", lossless=True)
    save(tmp_path / "a.png", scene.image)
    save(tmp_path / "m.png", Image.fromarray((scene.labels == 1).astype(np.uint8)))  # 0 and 1
    (tmp_path / "m.webp").write_bytes(buffer.getvalue())
    first = embed(tiny_model, tmp_path, image="a.png", mask="m.png")
    assert np.array_equal(first, embed(tiny_model, tmp_path, image="a.png", mask="m.webp"))
    assert not np.allclose(first, embed(tiny_model, tmp_path, image="a.png"))
