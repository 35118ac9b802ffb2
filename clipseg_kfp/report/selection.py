"""Which images a gallery shows: such as tell something, and some taken at random."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from itertools import zip_longest
from typing import Any

from clipseg_kfp.naming import digest

Name = tuple[str, str]  # key and version
GALLERY_ITEMS = 24
HEATS = 4  # of an image: each takes about 4 kB of the page
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

    def add(self, name: Name, row: Callable[[], dict[str, Any]], margin: float, *, truth: bool) -> None:
        """Considers an image; what falls out is forgotten.

        Args:
            name: of the image.
            row: makes that of ``records.GALLERY``; not called for what is not kept.
            margin: the smallest over prompts.
            truth: whether there is ground truth of it.
        """
        self._unclear = sorted([*self._unclear, (margin, self._count)])[: self._half]
        self._random = sorted([*self._random, (not truth, lot(name), self._count)])
        self._random = self._random[: 2 * self._half]
        wanted = self._places()
        if self._count in wanted:
            self._kept[self._count] = row()
        self._count += 1
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


class HeatChoice:
    """Chooses the few prompts of an image whose probabilities are worth a look.

    The one that was found most clearly, the one that was barely found or missed, and those with ground truth: one of
    these is why the gallery has the image.

    Args:
        truths: names of the prompts that there is ground truth of.
        most: how many.
    """

    def __init__(self, truths: Collection[str], most: int = HEATS) -> None:
        self._truths, self._most = truths, most
        self._clear: list[tuple[float, str]] = []
        self._unclear: list[tuple[float, str]] = []
        self._measured: list[tuple[float, str]] = []
        self._kept: dict[str, Any] = {}

    def add(self, row: dict[str, Any], what: Callable[[], Any]) -> None:
        """Considers a prompt.

        Args:
            row: of ``records.MASKS``.
            what: makes what is kept of it; not called for what is not.
        """
        name, unclear = row["prompt"], margin(row)
        self._clear = sorted([*self._clear, (-row["max_probability"], name)])[:1]
        self._unclear = sorted([*self._unclear, (unclear, name)])[:1]
        if name in self._truths:
            self._measured = sorted([*self._measured, (unclear, name)])[: self._most]
        wanted = self._ranked()  # all of it: who is fifth now moves up when the first two become one
        if name in wanted:
            self._kept[name] = what()
        self._kept = {name: kept for name, kept in self._kept.items() if name in wanted}

    def _ranked(self) -> list[str]:
        return list(dict.fromkeys(name for _, name in (*self._clear, *self._unclear, *self._measured)))

    def chosen(self) -> list[tuple[str, Any]]:
        """Names with what was kept, the clearest first."""
        return [(name, self._kept[name]) for name in self._ranked()[: self._most]]


def first_heat(reason: str, tiles: Mapping[str, tuple[float, float | None, float]], heats: list[str]) -> str:
    """Whose probabilities a card shows first: the prompt that the image was chosen for.

    Args:
        reason: why it was chosen.
        tiles: margin, IoU and coverage by prompt.
        heats: the prompts to choose from, the clearest first.
    """
    ious = {name: iou for name in heats if (iou := tiles[name][1]) is not None}
    if reason == UNCERTAIN:
        return min(heats, key=lambda name: tiles[name][0])
    if reason == WORST and ious:
        return min(ious, key=lambda name: (ious[name], -tiles[name][2]))
    found = [name for name in ious if tiles[name][2] > 0]
    if reason == BEST and found:
        return max(found, key=lambda name: ious[name])
    return heats[0]


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
