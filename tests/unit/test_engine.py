"""The engine against the documented use of transformers, and what it promises beyond that."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fixtures import TINY_SIZE, TINY_VARIANTS, Build, reset_decoder
from numpy.typing import NDArray
from PIL import Image

from clipseg_kfp.engine import Engine
from clipseg_kfp.errors import ModelError, ParameterError
from clipseg_kfp.images import to_model_input
from clipseg_kfp.model import ModelFacts, load_model, load_tokenizer, read_facts
from clipseg_kfp.prompts import embed_texts, parse_prompts

TEXTS = ["a red circle", "the blue striped square on the left", "star"]


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    """Soft blobs with noise: neither flat nor all edges."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (7, 9, 3), dtype=np.uint8)).resize((width, height), 3)
    noisy = np.asarray(coarse, np.int16) + rng.integers(-20, 21, (height, width, 3))
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def documented(folder: Path, image: Image.Image, texts: list[str]) -> torch.Tensor:
    """Logits (P, S, S) as the documentation of transformers gets them."""
    from transformers import CLIPSegForImageSegmentation, CLIPSegProcessor, ViTImageProcessorPil

    processor: Any = CLIPSegProcessor(
        image_processor=ViTImageProcessorPil.from_pretrained(folder), tokenizer=load_tokenizer(folder)
    )
    model = CLIPSegForImageSegmentation.from_pretrained(folder).eval()
    inputs = processor(text=texts, images=[image] * len(texts), padding=True, return_tensors="pt")
    with torch.inference_mode():
        return model(**inputs).logits


def ours(folder: Path, image: Image.Image, texts: list[str]) -> torch.Tensor:
    """The same by the way that the pipeline's steps take."""
    embeddings = torch.from_numpy(
        embed_texts(parse_prompts(list(texts)), load_model(folder), load_tokenizer(folder))
    )
    engine = Engine.load(folder, "cpu")
    pixels = to_model_input(image, engine.facts.image_size)[None]
    return engine.decode(engine.encode(pixels), embeddings)[0]


def assert_same(found: torch.Tensor, expected: torch.Tensor) -> None:
    """Equal within 1e-4, and within a thousandth of the deviation where logits are small."""
    assert found.shape == expected.shape
    difference, scale = float((found - expected).abs().max()), float(expected.std())
    print(f"largest difference {difference:.2e}, deviation of the logits {scale:.3f}")
    assert difference < 1e-4
    assert difference < 1e-3 * scale


@pytest.fixture(scope="module")
def engine(tiny_model: Path) -> Engine:
    return Engine.load(tiny_model, "cpu")


@pytest.fixture(scope="module")
def embeddings(engine: Engine) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(7, engine.facts.projection_dim, generator=generator)


def views(count: int, size: int = TINY_SIZE) -> NDArray[np.uint8]:
    return np.stack([to_model_input(picture(90, 70, seed), size) for seed in range(count)])


@pytest.mark.parametrize("shape", [(320, 200), (97, 260), (160, 160)])
def test_demo_model_gives_the_logits_of_the_documented_use(demo_model: Path, shape: tuple[int, int]) -> None:
    image = picture(*shape)
    expected, found = documented(demo_model, image, TEXTS), ours(demo_model, image, TEXTS)
    assert found.shape == expected.shape == (3, 160, 160)
    assert float(expected.std()) > 0.1, "logits this flat would prove nothing"
    assert_same(found, expected)


@pytest.mark.parametrize("variant", TINY_VARIANTS)
def test_every_variant_gives_the_logits_of_the_documented_use(build_tiny: Build, variant: str) -> None:
    folder, image = build_tiny(variant), picture(120, 75)
    expected, found = documented(folder, image, TEXTS), ours(folder, image, TEXTS)
    assert found.shape == expected.shape == (3, TINY_SIZE, TINY_SIZE)
    assert not torch.allclose(expected[0], expected[1], atol=1e-3), "prompts without effect prove nothing"
    assert_same(found, expected)


@pytest.mark.parametrize("variant", ["complex", "simple"])
def test_one_prompt_gives_the_logits_of_the_documented_use(build_tiny: Build, variant: str) -> None:
    folder, image = build_tiny(variant), picture(120, 75)
    expected = documented(folder, image, TEXTS[:1]).reshape(1, TINY_SIZE, TINY_SIZE)
    assert_same(ours(folder, image, TEXTS[:1]), expected)


@pytest.mark.slow
def test_full_size_architecture_gives_the_logits_of_the_documented_use() -> None:
    """Random weights in the shape of clipseg-rd64-refined: 224 px positions stretched to a 352 px input."""
    from transformers import CLIPSegConfig, CLIPSegForImageSegmentation, ViTImageProcessorPil

    torch.manual_seed(0)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    model = CLIPSegForImageSegmentation(
        CLIPSegConfig(
            text_config={"num_hidden_layers": 1},  # prompts enter as embeddings
            vision_config={"patch_size": 16, "image_size": 224},
            projection_dim=512,
            reduce_dim=64,
            extract_layers=(3, 6, 9),
            use_complex_transposed_convolution=True,
        )
    ).eval()
    reset_decoder(model)
    conditional, image = 8 * torch.randn(2, 512), picture(500, 333)
    processor = ViTImageProcessorPil(
        size={"height": 352, "width": 352}, image_mean=list(mean), image_std=list(std)
    )
    pixel_values = processor([image] * 2, return_tensors="pt")["pixel_values"]
    with torch.inference_mode():
        expected = model(pixel_values=pixel_values, conditional_embeddings=conditional).logits
    assert len(model.clip.vision_model.encoder.layers) == 12
    engine = Engine(model, ModelFacts("", 352, mean, std, 512), "cpu")
    assert len(engine._blocks) == 10
    found = engine.decode(engine.encode(to_model_input(image, 352)[None]), conditional)[0]
    assert found.shape == (2, 352, 352)
    assert not torch.allclose(expected[0], expected[1], atol=1e-2 * float(expected.std()))
    assert_same(found, expected)


@pytest.mark.parametrize(
    ("variant", "blocks"),
    [("complex", 3), ("one_layer", 2), ("unsorted", 3), ("last_conditional", 4), ("five_layers", 5)],
)
def test_only_blocks_that_the_decoder_reads_are_kept(build_tiny: Build, variant: str, blocks: int) -> None:
    assert len(Engine.load(build_tiny(variant), "cpu")._blocks) == blocks


def test_an_image_is_encoded_once_however_many_prompts(tiny_model: Path, embeddings: torch.Tensor) -> None:
    engine = Engine.load(tiny_model, "cpu")
    calls: list[int] = []
    engine._blocks[0].register_forward_hook(lambda *_: calls.append(1))
    assert len(list(engine.probabilities(views(3), embeddings))) == 3
    assert len(calls) == 1


@pytest.mark.parametrize("chunk", [1, 2, 3, 5, 8, 1000])
def test_the_size_of_decode_chunks_changes_nothing(
    tiny_model: Path, engine: Engine, embeddings: torch.Tensor, chunk: int
) -> None:
    pixels = views(3)
    other = Engine(load_model(tiny_model), read_facts(tiny_model), "cpu", decode_chunk=chunk)
    expected = engine.decode(engine.encode(pixels), embeddings)
    found = other.decode(other.encode(pixels), embeddings)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    levels = [*other.probabilities(pixels, embeddings)]
    for level, reference in zip(levels, engine.probabilities(pixels, embeddings), strict=True):
        assert np.abs(level.astype(int) - reference).max() <= 1  # a value at .5 may round either way


@pytest.mark.parametrize("chunk", [1, 4, 8])
@pytest.mark.parametrize("images", [1, 3, 6])
def test_no_more_than_a_chunk_of_pairs_is_decoded_at_once(
    tiny_model: Path, embeddings: torch.Tensor, chunk: int, images: int
) -> None:
    engine = Engine(load_model(tiny_model), read_facts(tiny_model), "cpu", decode_chunk=chunk)
    pairs: list[int] = []
    engine._decoder.transposed_convolution.register_forward_hook(
        lambda _module, _inputs, output: pairs.append(len(output))
    )
    for few in (embeddings[:1], embeddings[:2], embeddings):
        pairs.clear()
        assert len(list(engine.probabilities(views(images), few))) == images
        assert max(pairs) <= chunk
        assert sum(pairs) == images * len(few)


def test_maps_come_in_the_order_of_the_prompts(engine: Engine, embeddings: torch.Tensor) -> None:
    reduced = engine.encode(views(2))
    order = torch.tensor([4, 0, 6, 2, 1, 5, 3])
    forward, shuffled = engine.decode(reduced, embeddings), engine.decode(reduced, embeddings[order])
    assert not torch.allclose(forward, shuffled, atol=1e-3)
    torch.testing.assert_close(shuffled, forward[:, order], atol=1e-5, rtol=0)


def test_a_batch_gives_what_single_images_give(engine: Engine, embeddings: torch.Tensor) -> None:
    pixels = views(4)
    batch = engine.decode(engine.encode(pixels), embeddings)
    assert batch.shape == (4, 7, TINY_SIZE, TINY_SIZE)
    for i in range(4):
        single = engine.decode(engine.encode(pixels[i : i + 1]), embeddings)
        torch.testing.assert_close(batch[i : i + 1], single, atol=1e-5, rtol=0)
    assert not torch.allclose(batch[0], batch[1], atol=1e-3)


def test_probabilities_are_rounded_bytes_of_the_sigmoid(engine: Engine, embeddings: torch.Tensor) -> None:
    pixels = views(2)
    strong = embeddings * 40  # drives some logits to both ends
    exact = 255 * engine.decode(engine.encode(pixels), strong).double().sigmoid().numpy()
    for found, expected in zip(engine.probabilities(pixels, strong), exact, strict=True):
        assert found.dtype == np.uint8
        assert found.shape == (7, TINY_SIZE, TINY_SIZE)
        assert np.abs(found - expected).max() <= 0.5 + 1e-3


def test_views_need_not_be_contiguous_or_writable(engine: Engine, embeddings: torch.Tensor) -> None:
    pixels = views(2)
    flipped = pixels[:, :, ::-1]
    frozen = np.frombuffer(flipped.tobytes(), np.uint8).reshape(flipped.shape)
    torch.testing.assert_close(engine.encode(flipped), engine.encode(frozen))


def test_embeddings_of_another_precision_are_taken(engine: Engine, embeddings: torch.Tensor) -> None:
    reduced = engine.encode(views(1))
    found = engine.decode(reduced, embeddings.double())
    torch.testing.assert_close(found, engine.decode(reduced, embeddings))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (torch.zeros(2, 23), r"shape \(2, 23\); the model takes \(P, 24\)"),
        (torch.zeros(24), r"shape \(24,\)"),
        (torch.zeros(1, 1, 24), r"shape \(1, 1, 24\)"),
        (torch.zeros(0, 24), "no prompts"),
        (torch.full((1, 24), torch.nan), "not finite"),
        (torch.full((1, 24), -torch.inf), "not finite"),
    ],
)
def test_unusable_embeddings_are_refused(engine: Engine, wrong: torch.Tensor, message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        engine.decode(engine.encode(views(1)), wrong)
    with pytest.raises(ParameterError, match=message):
        list(engine.probabilities(views(1), wrong))


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((1, 63, 64, 3), np.uint8),
        np.zeros((1, 3, 64, 64), np.uint8),
        np.zeros((64, 64, 3), np.uint8),
        np.zeros((1, 64, 64, 4), np.uint8),
        np.zeros((1, 64, 64, 3), np.float32),
        np.zeros((1, 64, 64, 3), np.int8),
    ],
)
def test_views_of_another_shape_or_type_are_refused(engine: Engine, wrong: NDArray[Any]) -> None:
    with pytest.raises(ParameterError, match=r"Views must be uint8 \(B, 64, 64, 3\)"):
        engine.encode(wrong)


@pytest.mark.parametrize("layers", [[0, 1, 4], [2, 99, 1], [], [-1, 0, 1]])
def test_extract_layers_beyond_the_tower_are_refused(tiny_model: Path, layers: list[int]) -> None:
    model = load_model(tiny_model)
    model.config.extract_layers = layers
    with pytest.raises(ModelError, match="extract_layers"):
        Engine(model, read_facts(tiny_model), "cpu")


@pytest.mark.parametrize("layer", [3, -1, 100])
def test_conditional_layer_beyond_the_decoder_is_refused(tiny_model: Path, layer: int) -> None:
    model = load_model(tiny_model)
    model.config.conditional_layer = layer
    with pytest.raises(ModelError, match=rf"conditional_layer {layer}\b.*no effect"):
        Engine(model, read_facts(tiny_model), "cpu")


def test_mean_and_deviation_come_from_the_checkpoint(engine: Engine, tiny_model: Path) -> None:
    facts = dataclasses.replace(engine.facts, mean=(0.0, 0.0, 0.0))
    other = Engine(load_model(tiny_model), facts, "cpu")
    assert not torch.allclose(other.encode(views(1))[0], engine.encode(views(1))[0], atol=1e-3)
