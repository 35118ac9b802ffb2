"""What the engine promises beyond the right logits: order, bounds on memory, refusals."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from codes import fails
from fixtures import TINY_SIZE, Build, views
from numpy.typing import NDArray

from clipseg_kfp.engine import Engine
from clipseg_kfp.engine.checkpoint import load_model, read_facts
from clipseg_kfp.engine.network import split
from clipseg_kfp.engine.torch_backend import load_torch
from clipseg_kfp.runtime.resources import has_bfloat16


@pytest.fixture(scope="module")
def engine(tiny_model: Path, backend: str) -> Engine:
    return Engine.load(tiny_model, backend=backend, device="cpu")


@pytest.fixture(scope="module")
def embeddings(engine: Engine) -> NDArray[np.float32]:
    return np.random.default_rng(3).standard_normal((7, engine.facts.projection_dim)).astype(np.float32)


@pytest.mark.parametrize(
    ("variant", "blocks"),
    [("complex", 3), ("one_layer", 2), ("unsorted", 3), ("last_conditional", 4), ("five_layers", 5)],
)
def test_only_blocks_that_the_decoder_reads_are_kept(build_tiny: Build, variant: str, blocks: int) -> None:
    folder = build_tiny(variant)
    encoder, _, _ = split(load_model(folder), read_facts(folder))
    assert len(encoder.blocks) == blocks


def test_layers_before_the_prompt_enters_run_once_an_image(build_tiny: Build) -> None:
    folder = build_tiny("last_conditional")  # the prompt enters in the last of three layers
    encoder, decoder, size = split(load_model(folder), read_facts(folder))
    assert (len(encoder.before), len(decoder.layers), size.activations) == (2, 1, 1)


def test_an_image_is_encoded_once_however_many_prompts(
    tiny_model: Path, embeddings: NDArray[np.float32]
) -> None:
    loaded = load_torch(tiny_model, read_facts(tiny_model), "cpu")
    calls: list[int] = []
    loaded._encoder.blocks[0].register_forward_hook(lambda _module, inputs, _: calls.append(len(inputs[0])))
    engine = Engine(loaded, read_facts(tiny_model))
    assert len(list(engine.probabilities(views(3), embeddings))) == 3
    assert calls == [3]


@pytest.mark.parametrize("pairs", [1, 2, 3, 5, 8, 1000])
def test_the_size_of_chunks_changes_nothing(
    engine: Engine, embeddings: NDArray[np.float32], pairs: int
) -> None:
    pixels = views(3)
    other = Engine(engine.backend, engine.facts)
    other.pairs, other.batch_size = pairs, min(pairs, 4)
    expected = engine.decode(engine.encode(pixels), embeddings)
    np.testing.assert_allclose(other.decode(other.encode(pixels), embeddings), expected, atol=1e-5, rtol=0)
    levels = [*other.probabilities(pixels, embeddings)]
    for level, reference in zip(levels, engine.probabilities(pixels, embeddings), strict=True):
        assert np.abs(level.astype(int) - reference).max() <= 1  # a value at .5 may round either way


@pytest.mark.parametrize("pairs", [1, 4, 8])
@pytest.mark.parametrize("images", [1, 3, 6])
def test_no_more_than_allowed_is_decoded_at_once(
    tiny_model: Path, embeddings: NDArray[np.float32], pairs: int, images: int
) -> None:
    loaded = load_torch(tiny_model, read_facts(tiny_model), "cpu")
    seen: list[int] = []
    loaded._decoder.upsample.register_forward_hook(lambda _module, _inputs, output: seen.append(len(output)))
    engine = Engine(loaded, read_facts(tiny_model))
    engine.pairs = pairs
    for few in (embeddings[:1], embeddings[:2], embeddings):
        seen.clear()
        assert len(list(engine.probabilities(views(images), few))) == images
        assert max(seen) <= pairs
        assert sum(seen) == images * len(few)


@pytest.mark.parametrize(("megabytes", "expected"), [(1, (1, 1)), (20, (4, 8)), (100_000, (4, 8))])
def test_memory_bounds_batches_and_chunks(
    tiny_model: Path, backend: str, megabytes: int, expected: tuple[int, int]
) -> None:
    engine = Engine.load(tiny_model, backend=backend, device="cpu", memory_mb=megabytes)
    wide = dataclasses.replace(engine.backend.size, hidden=512, intermediate=4096, tokens=64)
    engine.backend.size = dataclasses.replace(wide, decoder_intermediate=2048)
    bounded = Engine(engine.backend, engine.facts, memory_mb=megabytes)
    assert (bounded.batch_size, bounded.pairs) == expected
    for asked, least in ((1, 1), (3, min(3, expected[0]))):
        assert Engine(engine.backend, engine.facts, batch_size=asked, memory_mb=megabytes).batch_size == least


@pytest.mark.parametrize("name", ["batch_size", "memory_mb"])
def test_negative_sizes_are_refused(engine: Engine, name: str) -> None:
    with fails("options") as caught:
        Engine(engine.backend, engine.facts, **{name: -1})
    assert [problem.where for problem in caught.value.problems] == [f"inference.{name}"]


class Cramped:
    """A backend on a device that holds so many images and pairs only; torch's own error says so."""

    def __init__(self, backend: Any, images: int, pairs: int) -> None:
        self.inner, self.images, self.most = backend, images, pairs
        self.name, self.device, self.precision = backend.name, "cuda", backend.precision
        self.size, self.memory_mb, self.batch_size, self.pairs = backend.size, backend.memory_mb, 16, 32
        self.out_of_memory = (torch.OutOfMemoryError,)
        self.done: list[tuple[str, int]] = []

    def _fit(self, what: str, count: int, most: int) -> None:
        if count > most:
            raise torch.OutOfMemoryError(f"CUDA out of memory: {what} of {count}")
        self.done.append((what, count))

    def encode(self, pixels: NDArray[np.uint8]) -> Any:
        self._fit("images", len(pixels), self.images)
        return self.inner.encode(pixels)

    def begin(self, activations: Any, embeddings: NDArray[np.float32]) -> Any:
        self._fit("pairs", len(activations[0]) * len(embeddings), self.most)
        return self.inner.begin(activations, embeddings)

    def finish(self, pending: Any) -> Any:
        return self.inner.finish(pending)


@pytest.mark.parametrize(("images", "pairs"), [(16, 32), (5, 32), (16, 3), (1, 1), (2, 7)])
def test_out_of_memory_halves_batches_and_loses_nothing(
    engine: Engine,
    embeddings: NDArray[np.float32],
    images: int,
    pairs: int,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pixels = views(11)
    cramped = Cramped(engine.backend, images, pairs)
    bounded = Engine(cramped, engine.facts)
    found = np.stack([*bounded.probabilities(pixels, embeddings)])
    expected = np.stack([*engine.probabilities(pixels, embeddings)])
    assert np.abs(found.astype(int) - expected).max() <= 1
    assert bounded.batch_size <= images
    assert bounded.pairs < 2 * pairs
    assert sum(count for what, count in cramped.done if what == "images") == 11
    assert sum(count for what, count in cramped.done if what == "pairs") == 11 * len(embeddings)
    told = capsys.readouterr().out
    assert ("batch_size" in told or "pairs" in told) == ((images, pairs) != (16, 32))


@pytest.mark.parametrize(("images", "pairs", "where"), [(0, 8, "batch_size"), (8, 0, "pairs")])
def test_a_device_too_small_for_one_image_is_an_error(
    engine: Engine, embeddings: NDArray[np.float32], images: int, pairs: int, where: str
) -> None:
    with fails("device_memory", where=where):
        list(Engine(Cramped(engine.backend, images, pairs), engine.facts).probabilities(views(2), embeddings))


def test_maps_come_in_the_order_of_the_prompts(engine: Engine, embeddings: NDArray[np.float32]) -> None:
    activations = engine.encode(views(2))
    order = [4, 0, 6, 2, 1, 5, 3]
    forward, shuffled = engine.decode(activations, embeddings), engine.decode(activations, embeddings[order])
    assert not np.allclose(forward, shuffled, atol=1e-3)
    np.testing.assert_allclose(shuffled, forward[:, order], atol=1e-5, rtol=0)


def test_a_batch_gives_what_single_images_give(engine: Engine, embeddings: NDArray[np.float32]) -> None:
    pixels = views(4)
    activations = engine.encode(pixels)
    assert len(activations) == 4
    batch = engine.decode(activations, embeddings)
    assert batch.shape == (4, 7, TINY_SIZE, TINY_SIZE)
    for i in range(4):
        single = engine.decode(engine.encode(pixels[i : i + 1]), embeddings)
        np.testing.assert_allclose(batch[i : i + 1], single, atol=1e-5, rtol=0)
    assert not np.allclose(batch[0], batch[1], atol=1e-3)


def test_results_of_one_call_outlive_the_next(engine: Engine, embeddings: NDArray[np.float32]) -> None:
    """Backends that write into the same memory again must hand out copies."""
    first = engine.encode(views(1))
    kept = [np.array(part) for part in first.parts]
    logits = engine.decode(first, embeddings)
    again = logits.copy()
    engine.decode(engine.encode(views(3)[2:]), embeddings + 1)
    np.testing.assert_array_equal(logits, again)
    for part, copy in zip(first.parts, kept, strict=True):
        np.testing.assert_array_equal(np.array(part), copy)


def test_probabilities_are_rounded_bytes_of_the_sigmoid(
    engine: Engine, embeddings: NDArray[np.float32]
) -> None:
    pixels = views(2)
    strong = embeddings * 40  # drives some logits to both ends
    logits = torch.from_numpy(engine.decode(engine.encode(pixels), strong))
    exact = 255 * logits.double().sigmoid().numpy()
    for found, expected in zip(engine.probabilities(pixels, strong), exact, strict=True):
        assert found.dtype == np.uint8
        assert found.shape == (7, TINY_SIZE, TINY_SIZE)
        assert np.abs(found - expected).max() <= 0.5 + 1e-3


def test_views_need_not_be_contiguous_or_writable(engine: Engine, embeddings: NDArray[np.float32]) -> None:
    flipped = views(2)[:, :, ::-1]
    frozen = np.frombuffer(flipped.tobytes(), np.uint8).reshape(flipped.shape)
    for first, second in zip(engine.encode(flipped).parts, engine.encode(frozen).parts, strict=True):
        np.testing.assert_array_equal(np.array(first), np.array(second))


def test_embeddings_of_another_precision_are_taken(engine: Engine, embeddings: NDArray[np.float32]) -> None:
    activations = engine.encode(views(1))
    found = engine.decode(activations, embeddings.astype(np.float64))
    np.testing.assert_array_equal(found, engine.decode(activations, embeddings))


def test_bfloat16_gives_nearly_the_same_or_is_float32(tiny_model: Path, backend: str, engine: Engine) -> None:
    other = Engine.load(tiny_model, backend=backend, device="cpu", precision="bfloat16")
    assert other.describe()["precision"] == ("bfloat16" if has_bfloat16() else "float32")
    strong = np.random.default_rng(5).standard_normal((3, 24)).astype(np.float32)
    exact, rough = (e.decode(e.encode(views(2)), strong) for e in (engine, other))
    assert np.abs(exact - rough).max() < 0.2 * exact.std()
    assert np.corrcoef(exact.ravel(), rough.ravel())[0, 1] > 0.99


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        (np.zeros((2, 23)), "embeddings_shape"),
        (np.zeros(24), "embeddings_shape"),
        (np.zeros((1, 1, 24)), "embeddings_shape"),
        (np.zeros((0, 24)), "prompts_empty"),
        (np.full((1, 24), np.nan), "embeddings_not_finite"),
        (np.full((1, 24), -np.inf), "embeddings_not_finite"),
    ],
)
def test_unusable_embeddings_are_refused(engine: Engine, wrong: NDArray[Any], code: str) -> None:
    with fails(code, where="embeddings") as caught:
        engine.decode(engine.encode(views(1)), wrong)
    assert code != "embeddings_shape" or str(wrong.shape) in caught.value.message
    with fails(code, where="embeddings"):
        list(engine.probabilities(views(1), wrong))


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((1, 63, 64, 3), np.uint8),
        np.zeros((1, 3, 64, 64), np.uint8),
        np.zeros((64, 64, 3), np.uint8),
        np.zeros((1, 64, 64, 4), np.uint8),
        np.full((1, 64, 64, 3), np.nan, np.float32),
        np.zeros((1, 64, 64, 3), np.int8),
    ],
)
def test_views_of_another_shape_or_type_are_refused(engine: Engine, wrong: NDArray[Any]) -> None:
    with fails("views_shape", where="pixels") as caught:
        engine.encode(wrong)
    assert "(B, 64, 64, 3)" in caught.value.message


def test_results_that_are_no_numbers_are_an_error(engine: Engine, embeddings: NDArray[np.float32]) -> None:
    """Finite weights may still overflow somewhere in between."""
    activations = engine.backend.encode(views(1))
    overflown = tuple(part * np.float32(1e38) * np.float32(1e38) for part in activations)
    with fails("results_not_finite", where="float32"):
        engine.backend.finish(engine.backend.begin(overflown, embeddings))


@pytest.mark.parametrize("layers", [[0, 1, 4], [2, 99, 1], [], [-1, 0, 1]])
def test_extract_layers_beyond_the_tower_are_refused(tiny_model: Path, layers: list[int]) -> None:
    model = load_model(tiny_model)
    model.config.extract_layers = layers
    with fails("checkpoint_config", where="config.json: extract_layers"):
        split(model, read_facts(tiny_model))


@pytest.mark.parametrize("layer", [3, -1, 100])
def test_conditional_layer_beyond_the_decoder_is_refused(tiny_model: Path, layer: int) -> None:
    model = load_model(tiny_model)
    model.config.conditional_layer = layer
    with fails("checkpoint_config", where="config.json: conditional_layer"):
        split(model, read_facts(tiny_model))


def test_mean_and_deviation_come_from_the_checkpoint(tiny_model: Path) -> None:
    facts = read_facts(tiny_model)
    first, second = (
        load_torch(tiny_model, f, "cpu").encode(views(1))[0].numpy()
        for f in (facts, dataclasses.replace(facts, mean=(0.0, 0.0, 0.0)))
    )
    assert not np.allclose(first, second, atol=1e-3)
