"""Trains the demo model: a small CLIPSeg of the real class, on drawn scenes, from scratch.

CLIPSeg starts from a pretrained CLIP and trains its decoder alone. There is no pretrained CLIP for drawn
shapes, so everything here is trained together, with two helpers that stand in for pretraining and are
thrown away afterwards: a head that names shape, colour and texture of each patch, and a term that pulls
the embedding of a picture of a thing towards the embedding of its name (so that one-shot prompts work).
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset
from transformers import (
    CLIPSegConfig,
    CLIPSegForImageSegmentation,
    CLIPSegProcessor,
    CLIPTokenizer,
    ViTImageProcessorPil,
)

from clipseg_kfp.demo.scenes import COLORS, SHAPES, TEXTURES, Query, Scene, draw_scene, phrase

IMAGE_SIZE = 160
PATCH = 16
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
BACKGROUND_FACTOR = 0.1  # the paper's best visual prompt: background x 0.1, blur, crop with context
TRAIN_SEEDS = 10_000_000  # training scenes take seeds from here on; everything below is held out


def build_tokenizer() -> CLIPTokenizer:
    """Learns a byte-pair vocabulary on the words that prompts are made of (any other text still encodes)."""
    rng = np.random.default_rng(0)
    corpus = [
        phrase(Query(shape, color, texture), rng)
        for shape in (None, *SHAPES)
        for color in (None, *COLORS)
        for texture in (None, *TEXTURES)
    ]
    corpus += ["a an the of photo image picture drawing and or not with in background object objects"] * 20
    blank = CLIPTokenizer()
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    bpe.normalizer = blank.backend_tokenizer.normalizer
    bpe.pre_tokenizer = blank.backend_tokenizer.pre_tokenizer
    trainer = trainers.BpeTrainer(vocab_size=400, end_of_word_suffix="</w>", show_progress=False)
    bpe.train_from_iterator(corpus, trainer)
    merges: Any = [tuple(pair) for pair in json.loads(bpe.to_str())["model"]["merges"]]
    # CLIP's layout: bytes, bytes that end a word, merges, then the two special tokens at the end. The end
    # token must not be id 2, which transformers reads as "pool at the largest id" (an old checkpoint rule).
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*alphabet, *(f"{char}</w>" for char in alphabet), *("".join(pair) for pair in merges)]
    vocab = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
    for special in ("<|startoftext|>", "<|endoftext|>"):
        vocab[special] = len(vocab)
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=24)


def build_config(tokenizer: CLIPTokenizer) -> CLIPSegConfig:
    """The demo architecture: about 1.8 M parameters; text prompts need four of its five vision blocks."""
    return CLIPSegConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": 96,
            "intermediate_size": 384,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "max_position_embeddings": 24,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        },
        vision_config={
            "hidden_size": 128,
            "intermediate_size": 512,
            "num_hidden_layers": 5,
            "num_attention_heads": 4,
            "image_size": IMAGE_SIZE,
            "patch_size": PATCH,
        },
        projection_dim=96,
        extract_layers=[1, 2, 3],
        reduce_dim=64,
        decoder_num_attention_heads=2,
        decoder_intermediate_size=128,
        use_complex_transposed_convolution=True,
    )


def build_processor(tokenizer: CLIPTokenizer) -> CLIPSegProcessor:
    """The processor that ships with the checkpoint: bilinear stretch, ImageNet mean and deviation."""
    image_processor = ViTImageProcessorPil(
        size={"height": IMAGE_SIZE, "width": IMAGE_SIZE}, image_mean=list(MEAN), image_std=list(STD)
    )
    processor: Any = CLIPSegProcessor
    built: CLIPSegProcessor = processor(image_processor=image_processor, tokenizer=tokenizer)
    return built


@dataclass
class Pool:
    """Drawn scenes, ready to sample from.

    Attributes:
        images: uint8 (N, S, S, 3).
        labels: uint8 (N, S, S); ``i + 1`` marks the i-th object of the scene.
        scenes: the objects of each scene as rows of (shape, color, texture) indices.
        by_kind: (shape, color) indices to the (scene, object) pairs that show one well.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    scenes: list[list[tuple[int, int, int]]]
    by_kind: dict[tuple[int, int], list[tuple[int, int]]]


def _draw(seed: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8], list[tuple[int, int, int]]]:
    rng = np.random.default_rng([seed, 1])
    size = (int(rng.integers(180, 320)), int(rng.integers(180, 280)))
    scene: Scene = draw_scene(seed, size)
    target = (IMAGE_SIZE, IMAGE_SIZE)
    image = np.asarray(scene.image.resize(target, 2))
    labels = np.asarray(cv2.resize(scene.labels, target, interpolation=cv2.INTER_NEAREST), np.uint8)
    rows = [
        (SHAPES.index(o.shape), list(COLORS).index(o.color), TEXTURES.index(o.texture)) for o in scene.objects
    ]
    return image, labels, rows


def build_pool(count: int, workers: int) -> Pool:
    """Draws the training scenes (about 10 ms each and core)."""
    images = np.empty((count, IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)
    labels = np.empty((count, IMAGE_SIZE, IMAGE_SIZE), np.uint8)
    scenes: list[list[tuple[int, int, int]]] = []
    by_kind: dict[tuple[int, int], list[tuple[int, int]]] = {}
    with ProcessPoolExecutor(workers) as executor:
        seeds = range(TRAIN_SEEDS, TRAIN_SEEDS + count)
        for i, (image, label, rows) in enumerate(executor.map(_draw, seeds, chunksize=64)):
            images[i], labels[i] = image, label
            scenes.append(rows)
            counts = np.bincount(label.ravel(), minlength=len(rows) + 1)
            for j, (shape, color, _texture) in enumerate(rows):
                if counts[j + 1] > 500:
                    by_kind.setdefault((shape, color), []).append((i, j))
    return Pool(images, labels, scenes, by_kind)


def visual_prompt(
    image: NDArray[np.uint8], mask: NDArray[np.bool_], rng: np.random.Generator
) -> NDArray[np.uint8]:
    """A support picture of the masked thing: engineered as in the paper (section 3.5), or a plain crop."""
    ys, xs = np.nonzero(mask)
    margin = int(0.1 * max(np.ptp(ys), np.ptp(xs))) + int(rng.integers(0, 6))
    top, bottom = max(0, ys.min() - margin), min(mask.shape[0], ys.max() + margin + 1)
    left, right = max(0, xs.min() - margin), min(mask.shape[1], xs.max() + margin + 1)
    crop = image[top:bottom, left:right].astype(np.float32)
    inside = mask[top:bottom, left:right, None].astype(np.float32)
    if rng.random() < 0.7:
        soft = cv2.GaussianBlur(crop, (15, 15), 3)
        crop = crop * inside + BACKGROUND_FACTOR * soft * (1 - inside)
    side = max(crop.shape[:2])
    square = np.zeros((side, side, 3), np.float32)
    y, x = (side - crop.shape[0]) // 2, (side - crop.shape[1]) // 2
    square[y : y + crop.shape[0], x : x + crop.shape[1]] = crop
    resized = cv2.resize(square, (IMAGE_SIZE, IMAGE_SIZE), interpolation=cv2.INTER_LINEAR)
    return np.clip(resized, 0, 255).astype(np.uint8)


@dataclass
class Batch:
    """One step: B scenes with P prompts each, the last of every scene an image prompt; E scenes without."""

    pixels: Tensor  # (B + E, 3, S, S)
    labels: Tensor  # (B + E, S, S) object labels
    attributes: Tensor  # (B + E, objects + 1, 3): class of each label; 0 is background
    texts: list[str]  # B * (P - 1)
    supports: Tensor  # (B, 3, S, S)
    support_names: list[str]  # B: the text that says the same as the support picture
    targets: Tensor  # (B, P, S, S)


MAX_OBJECTS = 6


#: What prompts name (shape, color, texture) and how often; shapes are the hard part.
PROMPT_KINDS = (
    ((True, False, False), 0.40),
    ((False, True, False), 0.15),
    ((False, False, True), 0.12),
    ((True, True, False), 0.18),
    ((True, False, True), 0.05),
    ((False, True, True), 0.05),
    ((True, True, True), 0.05),
)


def sample(pool: Pool, rng: np.random.Generator, scenes: int, prompts: int, extra: int) -> Batch:
    """Draws a batch: present and absent things in every degree of detail, one support picture a scene.

    ``extra`` further scenes have no prompts; they train the vision tower through the patch head alone.
    """
    colors = list(COLORS)
    kinds, shares = zip(*PROMPT_KINDS, strict=True)
    pixels, supports, names, texts, targets, labels = [], [], [], [], [], []
    attributes = torch.zeros(scenes + extra, MAX_OBJECTS + 1, 3, dtype=torch.long)
    for b in range(scenes + extra):
        i = int(rng.integers(len(pool.images)))
        rows = pool.scenes[i]
        turn, flip = int(rng.integers(4)), bool(rng.random() < 0.5)
        image, label = (np.rot90(a[:, ::-1] if flip else a, turn) for a in (pool.images[i], pool.labels[i]))
        pixels.append(_jitter(image, rng))
        labels.append(label.copy())
        attributes[b, 1 : len(rows) + 1] = torch.tensor(rows) + 1
        if b >= scenes:
            continue
        for _ in range(prompts - 1):
            row = rows[rng.integers(len(rows))]
            if rng.random() > 0.72:  # most of these are not in the scene; many differ in one word only
                row = (
                    int(rng.integers(len(SHAPES))) if rng.random() < 0.6 else row[0],
                    int(rng.integers(len(colors))) if rng.random() < 0.6 else row[1],
                    int(rng.integers(len(TEXTURES))) if rng.random() < 0.6 else row[2],
                )
            keep = np.array(kinds[rng.choice(len(kinds), p=shares)])
            texts.append(phrase(_query(row, keep), rng))
            targets.append(_target(rows, label, row, keep))
        row = rows[rng.integers(len(rows))]
        if rng.random() < 0.2:
            row = (int(rng.integers(len(SHAPES))), int(rng.integers(len(colors))), 0)
        shown = pool.by_kind[(row[0], row[1])]
        j, k = shown[rng.integers(len(shown))]
        support = visual_prompt(pool.images[j], pool.labels[j] == k + 1, rng)
        supports.append(_jitter(np.rot90(support, int(rng.integers(4))), rng))
        both = np.array([True, True, False])
        names.append(phrase(_query(row, both), rng))
        targets.append(_target(rows, label, row, both))
    size = (scenes, prompts, IMAGE_SIZE, IMAGE_SIZE)
    return Batch(
        _normalise(pixels), torch.from_numpy(np.stack(labels)), attributes, texts,
        _normalise(supports), names, torch.from_numpy(np.stack(targets)).view(size).float(),
    )  # fmt: skip


def _query(row: tuple[int, int, int], keep: NDArray[np.bool_]) -> Query:
    return Query(
        SHAPES[row[0]] if keep[0] else None,
        list(COLORS)[row[1]] if keep[1] else None,
        TEXTURES[row[2]] if keep[2] else None,
    )


def _target(
    rows: list[tuple[int, int, int]],
    label: NDArray[np.uint8],
    wanted: tuple[int, int, int],
    keep: NDArray[np.bool_],
) -> NDArray[np.bool_]:
    table = np.zeros(256, bool)
    for i, row in enumerate(rows):
        table[i + 1] = all(row[a] == wanted[a] for a in range(3) if keep[a])
    return table[label]


def _jitter(image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.float32]:
    gain = rng.uniform(0.85, 1.15) * rng.uniform(0.96, 1.04, 3)
    return (image * gain.astype(np.float32)).clip(0, 255)


def _normalise(images: list[NDArray[np.float32]]) -> Tensor:
    stacked: Any = np.stack(images) / np.float32(255)
    stacked = (stacked - np.array(MEAN, np.float32)) / np.array(STD, np.float32)
    return torch.from_numpy(np.ascontiguousarray(stacked.transpose(0, 3, 1, 2)))


PATCH_WEIGHTS = (0.6, 0.15, 0.25)  # shape, color, texture


class PatchHead(nn.Module):
    """The throw-away helper that names shape, colour and texture of each patch."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.sizes = (len(SHAPES) + 1, len(COLORS) + 1, len(TEXTURES) + 1)
        self.linear = nn.Linear(width, sum(self.sizes))

    def forward(self, tokens: Tensor, labels: Tensor, attributes: Tensor) -> Tensor:
        """Mean cross entropy of (B, N, width) patch tokens against the patch's mix of classes."""
        loss = tokens.new_zeros(())
        coarse = labels[:, ::2, ::2].long()  # every second pixel tells a patch's mix well enough
        for part, (logits, size) in enumerate(
            zip(self.linear(tokens).split(self.sizes, -1), self.sizes, strict=True)
        ):
            classes = attributes[:, :, part].gather(1, coarse.flatten(1))
            onehot = F.one_hot(classes.view_as(coarse), size).permute(0, 3, 1, 2).float()
            mix = F.avg_pool2d(onehot, PATCH // 2).flatten(2).transpose(1, 2)
            loss = loss - PATCH_WEIGHTS[part] * (mix * logits.log_softmax(-1)).sum(-1).mean()
        return loss


def encode(model: CLIPSegForImageSegmentation, pixels: Tensor, blocks: int) -> list[Tensor]:
    """Hidden states of the first ``blocks`` vision blocks; by sub-modules, for forward stops gradients."""
    vision = model.clip.vision_model
    hidden = vision.pre_layrnorm(vision.embeddings(pixels))
    states = []
    for layer in vision.encoder.layers[:blocks]:
        hidden = layer(hidden, None)
        states.append(hidden)
    return states


def step_loss(
    model: CLIPSegForImageSegmentation, head: PatchHead, tokenizer: CLIPTokenizer, batch: Batch
) -> tuple[Tensor, dict[str, float]]:
    """BCE plus half a Dice loss over all prompts, and the two helpers."""
    scenes, prompts = batch.targets.shape[:2]
    states = encode(model, batch.pixels, max(model.config.extract_layers) + 1)
    activations = [states[i][:scenes].repeat_interleave(prompts, 0) for i in model.config.extract_layers]
    tokens = tokenizer(batch.texts + batch.support_names, padding=True, return_tensors="pt")
    text = model.clip.get_text_features(**tokens).pooler_output
    image = model.clip.get_image_features(batch.supports).pooler_output
    asked, named = text[: len(batch.texts)], text[len(batch.texts) :]
    conditional = torch.cat([asked.view(scenes, prompts - 1, -1), image[:, None]], 1).flatten(0, 1)
    logits = model.decoder(tuple(activations), conditional).logits.view_as(batch.targets)
    bce = F.binary_cross_entropy_with_logits(logits, batch.targets)
    probability = logits.sigmoid()
    overlap = (probability * batch.targets).sum((2, 3))
    total = probability.sum((2, 3)) + batch.targets.sum((2, 3))
    dice = (1 - (2 * overlap + 50) / (total + 50)).mean()
    patches = head(states[max(model.config.extract_layers)][:, 1:], batch.labels, batch.attributes)
    align = F.mse_loss(image, named)
    with torch.no_grad():
        hit, want = logits > 0, batch.targets > 0
        inter, union = (hit & want).sum((0, 2, 3)).float(), (hit | want).sum((0, 2, 3)).float()
    figures = {
        "bce": bce.item(), "dice": dice.item(), "patch": patches.item(), "align": align.item(),
        "iou_text": (inter[:-1].sum() / union[:-1].sum()).item(),
        "iou_image": (inter[-1] / union[-1]).item(),
    }  # fmt: skip
    return bce + 0.5 * dice + patches + 0.1 * align, figures


def optimizers(model: nn.Module, head: nn.Module, lr: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside blocks, AdamW for the rest: embeddings, norms, convolutions, heads."""
    matrices: list[nn.Parameter] = []
    others = list(head.parameters())
    for name, parameter in model.named_parameters():
        inside = ".layers." in name and parameter.ndim == 2
        (matrices if inside else others).append(parameter)
    return [
        torch.optim.Muon(matrices, lr=lr * 4, weight_decay=0.02, adjust_lr_fn="original"),
        torch.optim.AdamW(others, lr=lr, betas=(0.9, 0.98), weight_decay=0.01),
    ]


class Sampler(IterableDataset[Batch]):
    """An endless stream of batches; drawn in a worker process, so that training never waits for Python."""

    def __init__(self, pool: Pool, scenes: int, prompts: int, extra: int) -> None:
        super().__init__()
        self.pool, self.scenes, self.prompts, self.extra = pool, scenes, prompts, extra

    def __iter__(self) -> Iterator[Batch]:
        cv2.setNumThreads(1)
        rng = np.random.default_rng(0)
        while True:
            yield sample(self.pool, rng, self.scenes, self.prompts, self.extra)


def train(options: argparse.Namespace) -> None:
    """Trains for a fixed time (the schedule follows the clock), logs, and writes the checkpoint."""
    torch.manual_seed(0)
    out, init, minutes = options.out, options.init, options.minutes
    if init:
        tokenizer = CLIPTokenizer.from_pretrained(init)
        model = CLIPSegForImageSegmentation.from_pretrained(init, dtype="float32")
    else:
        tokenizer = build_tokenizer()
        model = CLIPSegForImageSegmentation(build_config(tokenizer))
    # transformers' own initialisation of the decoder stalls (deviation near 1)
    fresh: Iterable[Any] = () if init else model.decoder.modules()
    for module in fresh:
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    vision: Any = model.config.vision_config
    head = PatchHead(vision.hidden_size)
    model.train()
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, vocabulary {len(tokenizer)}")
    pool = build_pool(options.pool, torch.get_num_threads())
    average = {k: v.detach().clone() for k, v in model.state_dict().items()}
    opts = optimizers(model, head, options.lr)
    peaks = [group["lr"] for opt in opts for group in opt.param_groups]
    out.mkdir(parents=True, exist_ok=True)
    log = (out / "training_log.csv").open("w")
    columns = ["step", "minutes", "bce", "dice", "patch", "align", "iou_text", "iou_image"]
    print(",".join(columns), file=log)
    start, step, recent = time.time(), 0, []
    sampler = Sampler(pool, options.scenes, options.prompts, options.extra)
    batches = iter(DataLoader(sampler, batch_size=None, num_workers=1))
    while (done := (time.time() - start) / 60 / minutes) < 1:
        scale = min(1, (step + 1) / 200) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))
        for group, peak in zip((g for o in opts for g in o.param_groups), peaks, strict=True):
            group["lr"] = peak * scale
        loss, figures = step_loss(model, head, tokenizer, next(batches))
        for opt in opts:
            opt.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for opt in opts:
            opt.step()
        step += 1
        recent.append(figures)
        decay = min(0.998, step / (step + 20))
        with torch.no_grad():
            for key, value in model.state_dict().items():
                average[key].lerp_(value, 1 - decay) if value.is_floating_point() else None
        if step % 100 == 0:
            means = [float(np.mean([f[c] for f in recent])) for c in columns[2:]]
            recent = []
            line = [str(step), f"{(time.time() - start) / 60:.2f}", *(f"{m:.4f}" for m in means)]
            print(",".join(line), file=log, flush=True)
            print(" ".join(f"{c}={v}" for c, v in zip(columns, line, strict=True)), flush=True)
        if step % 1000 == 0:
            save(model, average, tokenizer, out)
    save(model, average, tokenizer, out)


def save(
    model: CLIPSegForImageSegmentation, weights: dict[str, Tensor], tokenizer: CLIPTokenizer, out: Path
) -> None:
    """Writes a checkpoint that ``from_pretrained`` reads: safetensors, config, tokenizer, processor."""
    model.save_pretrained(out, state_dict=dict(weights))  # it empties the dictionary that it is given
    build_processor(tokenizer).save_pretrained(out)


def main() -> None:
    """Command line of ``make demo-model``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("examples/demo-model"))
    parser.add_argument("--init", type=Path, help="checkpoint of an interrupted training to go on from")
    parser.add_argument("--minutes", type=float, default=120)
    parser.add_argument("--pool", type=int, default=20_000)
    parser.add_argument("--scenes", type=int, default=12)
    parser.add_argument("--extra", type=int, default=28, help="scenes for the patch head alone")
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument("--lr", type=float, default=1.2e-3)
    train(parser.parse_args())


if __name__ == "__main__":
    main()
