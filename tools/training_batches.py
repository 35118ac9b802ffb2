"""Batches for the training of the demo model: drawn scenes, text prompts, and pictures as prompts."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import IterableDataset

from clipseg_kfp.demo.scenes import COLORS, SHAPES, TEXTURES, Query, Scene, draw_scene, phrase

IMAGE_SIZE = 160
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
BACKGROUND_FACTOR = 0.1  # the paper's best visual prompt: background x 0.1, blur, crop with context
TRAIN_SEEDS = 10_000_000  # training scenes use seeds from here on; all below is held out

Row = tuple[int, int, int]  #: shape, color and texture as indices


@dataclass
class Pool:
    """Drawn scenes, ready to sample from.

    Attributes:
        images: uint8 (N, S, S, 3).
        labels: uint8 (N, S, S); ``i + 1`` marks the i-th object of the scene.
        scenes: the objects of each scene as rows of (shape, color, texture) indices.
        by_kind: (scene, object) pairs with a well visible thing, by (shape, color) indices.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    scenes: list[list[Row]]
    by_kind: dict[tuple[int, int], list[tuple[int, int]]]


def _draw(seed: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8], list[Row]]:
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
    """Draws the training scenes; each takes about 10 ms of one core."""
    images = np.empty((count, IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)
    labels = np.empty((count, IMAGE_SIZE, IMAGE_SIZE), np.uint8)
    scenes: list[list[Row]] = []
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
    """A support picture of the masked thing: prepared as in the paper (section 3.5), or a plain crop."""
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
    """One step: B scenes with P prompts each, of which the last is an image prompt; E scenes without prompts."""

    pixels: Tensor  # (B + E, 3, S, S)
    labels: Tensor  # (B + E, S, S) object labels
    attributes: Tensor  # (B + E, objects + 1, 3): class of each label; 0 is background
    texts: list[str]  # B * (P - 1)
    supports: Tensor  # (B, 3, S, S)
    support_names: list[str]  # B: a text with the meaning of the support picture
    targets: Tensor  # (B, P, S, S)


MAX_OBJECTS = 6


#: What prompts name (shape, color, texture) and how often.
PROMPT_KINDS = (
    ((True, False, False), 0.24),
    ((False, True, False), 0.10),
    ((False, False, True), 0.16),
    ((True, True, False), 0.28),
    ((True, False, True), 0.09),
    ((False, True, True), 0.07),
    ((True, True, True), 0.06),
)


def sample(pool: Pool, rng: np.random.Generator, scenes: int, prompts: int, extra: int) -> Batch:
    """Draws a batch: present and absent things in every degree of detail, one support picture per scene.

    ``extra`` more scenes have no prompts; they train the vision tower only through the patch head.
    """
    colors = list(COLORS)
    kinds, shares = zip(*PROMPT_KINDS, strict=True)
    pixels, supports, support_names, texts, targets, labels = [], [], [], [], [], []
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
            keep = np.array(kinds[rng.choice(len(kinds), p=shares)])
            row = _choose(rows, keep, rng)
            texts.append(phrase(_query(row, keep), rng))
            targets.append(_target(rows, label, row, keep))
        row = rows[rng.integers(len(rows))]
        if rng.random() < 0.4:
            row = (int(rng.integers(len(SHAPES))), int(rng.integers(len(colors))), 0)
        shown = pool.by_kind[(row[0], row[1])]
        j, k = shown[rng.integers(len(shown))]
        support = visual_prompt(pool.images[j], pool.labels[j] == k + 1, rng)
        supports.append(_jitter(np.rot90(support, int(rng.integers(4))), rng))
        both = np.array([True, True, False])
        support_names.append(phrase(_query(row, both), rng))
        targets.append(_target(rows, label, row, both))
    size = (scenes, prompts, IMAGE_SIZE, IMAGE_SIZE)
    return Batch(
        _normalize(pixels), torch.from_numpy(np.stack(labels)), attributes, texts,
        _normalize(supports), support_names, torch.from_numpy(np.stack(targets)).view(size).float(),
    )  # fmt: skip


def _choose(rows: list[Row], keep: NDArray[np.bool_], rng: np.random.Generator) -> Row:
    """The thing that a prompt names: a present one, another one, or a present one with one word changed."""
    row = list(rows[rng.integers(len(rows))])
    other = [int(rng.integers(len(names))) for names in (SHAPES, COLORS, TEXTURES)]
    chance = rng.random()
    if chance < 0.22:  # mostly absent, like most prompts in most images
        row = other
    elif chance < 0.55:
        part = rng.choice(np.flatnonzero(keep))
        row[part] = other[part]
    return row[0], row[1], row[2]


def _query(row: Row, keep: NDArray[np.bool_]) -> Query:
    return Query(
        SHAPES[row[0]] if keep[0] else None,
        list(COLORS)[row[1]] if keep[1] else None,
        TEXTURES[row[2]] if keep[2] else None,
    )


def _target(
    rows: list[Row],
    label: NDArray[np.uint8],
    thing: Row,
    keep: NDArray[np.bool_],
) -> NDArray[np.bool_]:
    table = np.zeros(256, bool)
    for i, row in enumerate(rows):
        table[i + 1] = all(row[a] == thing[a] for a in range(3) if keep[a])
    return table[label]


def _jitter(image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.float32]:
    gain = rng.uniform(0.85, 1.15) * rng.uniform(0.96, 1.04, 3)
    return (image * gain.astype(np.float32)).clip(0, 255)


def _normalize(images: list[NDArray[np.float32]]) -> Tensor:
    stacked: Any = np.stack(images) / np.float32(255)
    stacked = (stacked - np.array(MEAN, np.float32)) / np.array(STD, np.float32)
    return torch.from_numpy(np.ascontiguousarray(stacked.transpose(0, 3, 1, 2)))


class Sampler(IterableDataset[Batch]):
    """An endless stream of batches, drawn in a worker process so that training does not wait for them."""

    def __init__(self, pool: Pool, scenes: int, prompts: int, extra: int) -> None:
        super().__init__()
        self.pool, self.scenes, self.prompts, self.extra = pool, scenes, prompts, extra

    def __iter__(self) -> Iterator[Batch]:
        cv2.setNumThreads(1)
        rng = np.random.default_rng(0)
        while True:
            yield sample(self.pool, rng, self.scenes, self.prompts, self.extra)
