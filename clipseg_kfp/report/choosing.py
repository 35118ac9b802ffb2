"""Which images a gallery shows: such as tell something, and some taken at random."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import zip_longest
from typing import Any

from clipseg_kfp.naming import digest

Name = tuple[str, str]  # key and version
GALLERY_ITEMS = 24
BEST, WORST, UNCERTAIN, RANDOM = "Best IoU", "Worst IoU", "Most uncertain", "At random"


def margin(row: dict[str, Any]) -> float:
    """How clearly a prompt was found in an image, or was not.

    The distance of the image's highest probability from the threshold: near 0 the prompt was barely found, or
    barely missed.

    Args:
        row: of ``records.MASKS``.
    """
    return abs(float(row["max_probability"] - row["threshold"]))


def lot(name: Name) -> str:
    """A number drawn for an image, equal in every attempt."""
    return digest(list(name))


def choose(
    margins: Mapping[Name, float], ious: Mapping[Name, float], most: int = GALLERY_ITEMS
) -> dict[Name, str]:
    """Chooses images in equal parts of each kind, and fills up at random.

    Args:
        margins: of the images that there are pictures of: the smallest ``margin`` over prompts.
        ious: mean IoU over prompts, of images with ground truth.
        most: how many.

    Returns:
        Why each was chosen: worst, uncertain, best and taken at random in turn.
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
    # Of a small run no image is both among the best and among the worst.
    limits = {WORST: min(part, len(measured) // 2), BEST: min(part, (len(measured) + 1) // 2)}
    for kind in (WORST, BEST, UNCERTAIN, RANDOM):
        left = most - len(chosen) if kind == RANDOM else limits.get(kind, min(part, len(margins) // 2))
        for name in kinds[kind]:
            if left <= 0:
                break
            if name not in chosen:
                chosen[name] = kind
                left -= 1
    # One of each kind in turn: a page with no room for all of them still shows all kinds.
    members = [[name for name in chosen if chosen[name] == kind] for kind in kinds]
    turns = (name for turn in zip_longest(*members) for name in turn if name is not None)
    return {name: chosen[name] for name in turns}


class Shortlist:
    """Keeps pictures of a shard that a gallery may want: barely found ones, and some at random.

    Images with ground truth come first among those at random: only they can turn out best or worst.

    Args:
        most: how many, at any time.
    """

    def __init__(self, most: int = GALLERY_ITEMS) -> None:
        self._half = most // 2
        self._count = 0
        self._unclear: list[tuple[float, int]] = []
        self._random: list[tuple[bool, str, int]] = []
        self._kept: dict[int, dict[str, Any]] = {}

    def add(self, row: dict[str, Any], margin: float, *, truth: bool) -> None:
        """Considers the row of an image; what falls out is forgotten.

        Args:
            row: of ``records.GALLERY``.
            margin: the smallest over prompts.
            truth: whether there is ground truth of it.
        """
        self._kept[self._count] = row
        self._unclear = sorted([*self._unclear, (margin, self._count)])[: self._half]
        self._random = sorted([*self._random, (not truth, lot((row["key"], row["version"])), self._count)])
        self._random = self._random[: 2 * self._half]
        self._count += 1
        wanted = self._places()
        self._kept = {place: row for place, row in self._kept.items() if place in wanted}

    def _places(self) -> set[int]:
        chosen = {place for _, place in self._unclear}
        for *_, place in self._random:
            if len(chosen) == 2 * self._half:
                break
            chosen.add(place)
        return chosen

    def rows(self) -> list[dict[str, Any]]:
        """Those that are left, in the order in which they came."""
        return [row for _, row in sorted(self._kept.items())]


def choice_of(
    galleries: Iterable[dict[str, Any]], masks: Iterable[dict[str, Any]], per_image: Iterable[dict[str, Any]]
) -> dict[Name, str]:
    """Chooses of the pictures that there are; memory grows with these only.

    Args:
        galleries: ``key`` and ``version`` of the pictures.
        masks: rows of ``records.MASKS``, at least ``key``, ``version``, ``threshold`` and ``max_probability``.
        per_image: rows of ``records.PER_IMAGE``, at least ``key``, ``version``, ``iou``, ``tp``, ``fp`` and ``fn``.
    """
    there = {(row["key"], row["version"]) for row in galleries}
    margins: dict[Name, float] = {}
    for row in masks:
        name = (row["key"], row["version"])
        if name in there:
            margins[name] = min(margin(row), margins.get(name, 1.0))
    found: dict[Name, list[float]] = {}
    for row in per_image:
        name = (row["key"], row["version"])
        # Nothing found where nothing is agrees, but is no picture of how well things are found.
        if name in margins and row["tp"] + row["fp"] + row["fn"]:
            found.setdefault(name, []).append(row["iou"])
    return choose(margins, {name: sum(ious) / len(ious) for name, ious in found.items()})
