"""Which images a gallery shows: telling ones, and some at random."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from itertools import zip_longest
from typing import Any

from clipseg_kfp.naming import digest

Name = tuple[str, str]  # key and version
GALLERY_ITEMS = 24
HEATS = 4  # per image; each takes about 4 kB of the page
BEST, WORST, UNCERTAIN, RANDOM = "Best IoU", "Worst IoU", "Most uncertain", "At random"


def margin(row: dict[str, Any]) -> float:
    """The distance of an image's highest probability from the threshold; near 0 the decision was uncertain.

    Args:
        row: of ``records.MASKS``.
    """
    return abs(float(row["max_probability"] - row["threshold"]))


def lot(name: Name) -> str:
    """A random number for an image, the same in every attempt."""
    return digest(list(name))


def choose(
    margins: Mapping[Name, float], ious: Mapping[Name, float], most: int = GALLERY_ITEMS
) -> dict[Name, str]:
    """Chooses equally many images of each kind, and fills up at random.

    Args:
        margins: the smallest ``margin`` over prompts, by image; of all images with pictures.
        ious: mean IoU over prompts, by image with ground truth.
        most: the largest number of images.

    Returns:
        The reason by image: worst, uncertain, best and random in turn.
    """
    measured = sorted((ious[name], name) for name in margins if name in ious)
    kinds: dict[str, Iterable[Name]] = {
        WORST: [name for _, name in measured],
        UNCERTAIN: sorted(margins, key=lambda name: (margins[name], name)),
        BEST: [name for _, name in reversed(measured)],
        RANDOM: sorted(margins, key=lot),
    }
    part = most // (4 if measured else 2)
    chosen: dict[Name, str] = {}
    # In a small run no image is both among the best and among the worst.
    limits = {WORST: min(part, len(measured) // 2), BEST: min(part, (len(measured) + 1) // 2)}
    for kind in (WORST, BEST, UNCERTAIN, RANDOM):
        left = most - len(chosen) if kind == RANDOM else limits.get(kind, min(part, len(margins) // 2))
        for name in kinds[kind]:
            if left <= 0:
                break
            if name not in chosen:
                chosen[name] = kind
                left -= 1
    # One of each kind in turn: a page without room for all images still shows all kinds.
    members = [[name for name in chosen if chosen[name] == kind] for kind in kinds]
    turns = (name for turn in zip_longest(*members) for name in turn if name is not None)
    return {name: chosen[name] for name in turns}


class Shortlist:
    """Keeps pictures of a shard for the gallery: uncertain ones, and some at random.

    Among those at random, images with ground truth come first: only they can turn out best or worst.

    Args:
        most: the largest number at any time.
    """

    def __init__(self, most: int = GALLERY_ITEMS) -> None:
        self._half = most // 2
        self._count = 0
        self._unclear: list[tuple[float, int]] = []
        self._random: list[tuple[bool, str, int]] = []
        self._kept: dict[int, dict[str, Any]] = {}

    def add(self, name: Name, row: Callable[[], dict[str, Any]], margin: float, *, truth: bool) -> None:
        """Considers an image.

        Args:
            name: of the image.
            row: makes its row of ``records.GALLERY``; called only where that is kept.
            margin: the smallest over prompts.
            truth: whether it has ground truth.
        """
        self._unclear = sorted([*self._unclear, (margin, self._count)])[: self._half]
        self._random = sorted([*self._random, (not truth, lot(name), self._count)])
        self._random = self._random[: 2 * self._half]
        numbers = self._numbers()
        if self._count in numbers:
            self._kept[self._count] = row()
        self._count += 1
        self._kept = {number: row for number, row in self._kept.items() if number in numbers}

    def _numbers(self) -> set[int]:
        chosen = {number for _, number in self._unclear}
        for *_, number in self._random:
            if len(chosen) == 2 * self._half:
                break
            chosen.add(number)
        return chosen

    def rows(self) -> list[dict[str, Any]]:
        """The rows that are left, in their original order."""
        return [row for _, row in sorted(self._kept.items())]


class HeatChoice:
    """Chooses the few prompts of an image whose heat maps are kept.

    These are the clearest one, the most uncertain one, and those with ground truth: one of them is the reason why the
    gallery has the image.

    Args:
        truths: names of the prompts with ground truth.
        most: the largest number.
    """

    def __init__(self, truths: Collection[str], most: int = HEATS) -> None:
        self._truths, self._most = truths, most
        self._clear: list[tuple[float, str]] = []
        self._unclear: list[tuple[float, str]] = []
        self._measured: list[tuple[float, str]] = []
        self._kept: dict[str, Any] = {}

    def add(self, row: dict[str, Any], heat: Callable[[], Any]) -> None:
        """Considers a prompt.

        Args:
            row: of ``records.MASKS``.
            heat: makes its heat map; called only where that is kept.
        """
        name, unclear = row["prompt"], margin(row)
        self._clear = sorted([*self._clear, (-row["max_probability"], name)])[:1]
        self._unclear = sorted([*self._unclear, (unclear, name)])[:1]
        if name in self._truths:
            self._measured = sorted([*self._measured, (unclear, name)])[: self._most]
        ranked = self._ranked()  # all of it: the fifth moves up when the first two become the same
        if name in ranked:
            self._kept[name] = heat()
        self._kept = {name: kept for name, kept in self._kept.items() if name in ranked}

    def _ranked(self) -> list[str]:
        return list(dict.fromkeys(name for _, name in (*self._clear, *self._unclear, *self._measured)))

    def chosen(self) -> list[tuple[str, Any]]:
        """Names with their heat maps, the clearest first."""
        return [(name, self._kept[name]) for name in self._ranked()[: self._most]]


def first_heat(reason: str, tiles: Mapping[str, tuple[float, float | None, float]], heats: list[str]) -> str:
    """The prompt that an image was chosen for: a card shows its heat map first.

    Args:
        reason: why the image was chosen.
        tiles: margin, IoU and coverage by prompt.
        heats: the prompts to choose from, the clearest first.
    """
    ious = {name: iou for name in heats if (iou := tiles[name][1]) is not None}
    if reason == UNCERTAIN:
        return min(heats, key=lambda name: tiles[name][0])
    if reason == WORST and ious:
        return min(ious, key=lambda name: (ious[name], -tiles[name][2]))
    masked = [name for name in ious if tiles[name][2] > 0]
    if reason == BEST and masked:
        return max(masked, key=lambda name: ious[name])
    return heats[0]


def choice_of(
    galleries: Iterable[dict[str, Any]], masks: Iterable[dict[str, Any]], per_image: Iterable[dict[str, Any]]
) -> dict[Name, str]:
    """Chooses among the existing pictures; memory grows only with their number.

    Args:
        galleries: ``key`` and ``version`` of the pictures.
        masks: rows of ``records.MASKS``, at least ``key``, ``version``, ``threshold`` and ``max_probability``.
        per_image: rows of ``records.PER_IMAGE``, at least ``key``, ``version``, ``iou``, ``tp``, ``fp`` and ``fn``.
    """
    pictures = {(row["key"], row["version"]) for row in galleries}
    margins: dict[Name, float] = {}
    for row in masks:
        name = (row["key"], row["version"])
        if name in pictures:
            margins[name] = min(margin(row), margins.get(name, 1.0))
    ious: dict[Name, list[float]] = {}
    for row in per_image:
        name = (row["key"], row["version"])
        # An empty mask of empty ground truth agrees, but tells nothing about how well things are found.
        if name in margins and row["tp"] + row["fp"] + row["fn"]:
            ious.setdefault(name, []).append(row["iou"])
    return choose(margins, {name: sum(values) / len(values) for name, values in ious.items()})
