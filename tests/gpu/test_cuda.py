"""The engine on a GPU: the CPU's results, whatever is in flight, and however little memory there is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fixtures import TINY_VARIANTS, Build, reset_decoder, views
from grouped import grouped
from numpy.typing import NDArray

from clipseg_kfp import records
from clipseg_kfp.demo.bucket import DEMO_PROMPTS
from clipseg_kfp.demo.scenes import draw_scene
from clipseg_kfp.engine import Engine
from clipseg_kfp.errors import ModelError
from clipseg_kfp.images.decode import to_model_input
from clipseg_kfp.steps import encode_prompts, segment_images
from clipseg_kfp.steps.artifacts import EncodedPrompts, PackedViews, Probabilities

pytestmark = pytest.mark.gpu

SIDE = 352


@pytest.fixture(scope="module")
def full_size(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights in the shape of clipseg-rd64-refined."""
    from transformers import CLIPSegConfig, CLIPSegForImageSegmentation, ViTImageProcessorPil

    folder = tmp_path_factory.mktemp("full-size")
    torch.manual_seed(0)
    model = CLIPSegForImageSegmentation(
        CLIPSegConfig(
            text_config={"num_hidden_layers": 1},
            vision_config={"patch_size": 16, "image_size": 224},
            projection_dim=512,
            reduce_dim=64,
            extract_layers=(3, 6, 9),
            use_complex_transposed_convolution=True,
        )
    )
    reset_decoder(model)
    model.save_pretrained(folder)
    ViTImageProcessorPil(size={"height": SIDE, "width": SIDE}).save_pretrained(folder)
    return folder


@pytest.fixture
def cramped() -> Iterator[None]:
    """Leaves this process two gigabytes of the device's memory."""
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(2e9 / total)
    yield
    torch.cuda.set_per_process_memory_fraction(1.0)
    torch.cuda.empty_cache()


def embeddings(engine: Engine, count: int) -> NDArray[np.float32]:
    rng = np.random.default_rng(3)
    return 8 * rng.standard_normal((count, engine.facts.projection_dim)).astype(np.float32)


def both(folder: Path) -> tuple[Engine, Engine]:
    return tuple(Engine.load(folder, backend="torch", device=device) for device in ("cpu", "cuda"))  # type: ignore[return-value]


def stack(engine: Engine, pixels: NDArray[np.uint8], wanted: NDArray[np.float32]) -> NDArray[np.int16]:
    return np.stack([*engine.probabilities(pixels, wanted)]).astype(np.int16)


def assert_same_logits(folder: Path, pixels: NDArray[np.uint8]) -> None:
    cpu, cuda = both(folder)
    wanted = embeddings(cpu, 3)
    expected, found = (engine.decode(engine.encode(pixels), wanted) for engine in (cpu, cuda))
    difference, scale = float(np.abs(found - expected).max()), float(expected.std())
    print(f"largest difference {difference:.2e}, deviation of the logits {scale:.3f}")
    assert difference < 1e-3 * scale


@pytest.mark.parametrize("variant", TINY_VARIANTS)
def test_logits_are_those_of_the_cpu(build_tiny: Build, variant: str) -> None:
    assert_same_logits(build_tiny(variant), views(3))


def test_logits_of_the_full_size_are_those_of_the_cpu(full_size: Path) -> None:
    assert_same_logits(full_size, views(2, SIDE))


def test_auto_takes_the_device(tiny_model: Path) -> None:
    assert Engine.load(tiny_model).describe() == {
        "backend": "torch",
        "device": "cuda",
        "precision": "float32",
    }


@pytest.mark.parametrize("batch", [1, 5, 32])
def test_what_is_in_flight_is_not_mixed_up(full_size: Path, batch: int) -> None:
    """Several batches are computed and on their way back at once: each keeps its own maps."""
    engine = Engine.load(full_size, device="cuda", batch_size=batch)
    pixels, wanted = views(70, SIDE), embeddings(engine, 4)
    alone = np.concatenate([stack(engine, pixels[i : i + 1], wanted) for i in range(len(pixels))])
    for _ in range(3):
        pending = list(engine.begin(pixels, wanted))
        found = np.stack([maps for part in pending for maps in engine.finish(part)])
        assert np.abs(found - alone).max() <= 1
    assert np.abs(alone[0] - alone[1]).max() > 1, "maps that are all alike prove nothing"


@pytest.mark.parametrize("count", [1, 9])
def test_running_out_of_memory_halves_batches_and_changes_nothing(
    full_size: Path, cramped: None, capsys: pytest.CaptureFixture[str], count: int
) -> None:
    engine = Engine.load(full_size, device="cuda", memory_mb=10**6)
    engine.batch_size, engine.pairs = 512, 4096
    pixels = np.repeat(views(16, SIDE), 40, axis=0)
    wanted = embeddings(engine, count)
    found = stack(engine, pixels, wanted)
    assert "out of memory" in capsys.readouterr().out and engine.batch_size < 512
    calm = Engine(engine.backend, engine.facts, batch_size=4)
    assert np.abs(found[::40] - stack(calm, pixels[::40], wanted)).max() <= 1
    assert (found == np.repeat(found[::40], 40, axis=0)).mean() > 0.999


def test_results_that_are_no_numbers_are_an_error(tiny_model: Path) -> None:
    engine = Engine.load(tiny_model, device="cuda")
    overflown = tuple(part * 1e38 * 1e38 for part in engine.backend.encode(views(1)))
    with pytest.raises(ModelError, match="not finite"):
        engine.backend.finish(engine.backend.begin(overflown, embeddings(engine, 2)))


@pytest.mark.parametrize("flip", [False, True])
def test_the_step_gives_the_masks_of_the_cpu(tmp_path: Path, demo_model: Path, flip: bool) -> None:
    looked_for = [{"name": name, "texts": texts} for name, texts in DEMO_PROMPTS.items()]
    prompts = {}
    for precision in ("auto", "bfloat16"):
        prompts[precision] = tmp_path / f"prompts-{precision}"
        encode_prompts.run(
            model=demo_model,
            encoded_prompts=prompts[precision],
            prompts=looked_for,
            **grouped(flip=flip, precision=precision),
        )
    size = 160
    with records.ArrowWriter(PackedViews(tmp_path).views_path, records.VIEWS) as writer:
        for i in range(40):
            view = to_model_input(draw_scene(2000 + i).image, size)
            writer.append({"image": i, "box": (0, 0, 320, 240), "pixels": view.tobytes()})
    cpu, cuda = (segmented(tmp_path, demo_model, prompts["auto"], device) for device in ("cpu", "cuda"))
    assert np.abs(cpu - cuda).max() <= 1
    rough = segmented(tmp_path, demo_model, prompts["bfloat16"], "cuda")
    for i, row in enumerate(EncodedPrompts(prompts["auto"]).table().base):
        threshold = row.threshold or 0.5
        found, expected = (maps[:, i] >= 255 * threshold for maps in (rough, cpu))
        agreement = (found & expected).sum() / (found | expected).sum()
        print(f"IoU of bfloat16 and float32, prompt {i}: {agreement:.4f}")
        assert agreement > 0.97


def segmented(folder: Path, model: Path, prompts: Path, device: str) -> NDArray[np.int16]:
    """All maps, (views, prompts, pixels)."""
    target = folder / f"maps-{device}"
    target.mkdir(exist_ok=True)
    how = segment_images.run(
        views=folder,
        encoded_prompts=prompts,
        model=model,
        probabilities=target,
        **grouped(backend="torch", device=device, precision=EncodedPrompts(prompts).precision()),
    )
    assert how["device"] == device == Probabilities(target).engine()["device"]
    rows: list[dict[str, Any]] = [
        row for batch in records.read_arrow(Probabilities(target).maps_path) for row in batch.to_pylist()
    ]
    maps = np.stack([records.unpack_map(row["probability"], 160).ravel() for row in rows]).astype(np.int16)
    return maps.reshape(40, -1, maps.shape[1])
