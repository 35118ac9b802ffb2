"""How many images a run takes, which, and how they are split into shards.

Argo keeps all nodes of a run in one object of 1 MB, so shards are few; and a shard's views and probabilities pass
through the artifact store and the disks of three pods, so they are bounded, too. What does not fit is left for the
next run.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush, heappushpop
from pathlib import Path

from clipseg_kfp.dataset.sources import Source
from clipseg_kfp.prompts import read_rows
from clipseg_kfp.steps.encode_prompts import TABLE, read_facts_of
from clipseg_kfp.steps.settings import Settings

MAX_SHARDS = 24  # bounded by tests/pipelines/test_node_sizes.py, which computes the object
SHARD_BYTES = 512_000_000  # of views, previews and probabilities, as they are estimated here

_PREVIEW_BYTES = 64_000
_PIXELS_PER_BYTE = 4  # of a file: photographs have 2 to 6, what is stored without loss 1 or less


@dataclass(frozen=True)
class Sizes:
    """Estimates what an image takes in the artifacts of its shard.

    Attributes:
        view: bytes of a view and its maps. A map of smooth probabilities shrinks to a fifth, others to a half.
        tile: pixels of the source that a tile adds to those before it; 0 where nothing is cut.
        most_views: an image with more is set aside.
    """

    view: int
    tile: int = 0
    most_views: int = 1

    @classmethod
    def of(cls, prompts: Path) -> Sizes:
        """Reads what decides it from encode_prompts' output."""
        side, settings = read_facts_of(prompts).image_size, Settings.read(prompts)
        maps = sum(row.expression is None for row in read_rows(prompts / TABLE))
        view = side**2 * 3 + maps * side**2 // 2
        if not settings.tiling.on:
            return cls(view)
        # What files say of their resolution is not known yet: a tile is taken to be as large as the model's input.
        known = settings.tiling.size or settings.meters_per_pixel
        tile = settings.tiling.side(side, settings.meters_per_pixel) if known else side
        step = tile * (1 - settings.tiling.overlap)
        return cls(view, max(1, int(step**2)), settings.tiling.max_tiles + 1)

    def __call__(self, size: int) -> int:
        """Bytes that the image in a file of so many bytes takes."""
        views = 1 + size * _PIXELS_PER_BYTE // self.tile if self.tile else 1
        return _PREVIEW_BYTES + min(views, self.most_views) * self.view

    @property
    def most_images(self) -> int:
        """The most images that a run may take at all."""
        return MAX_SHARDS * max(1, SHARD_BYTES // self(0))


@dataclass
class Selection:
    """The images whose turn comes first, and of these the first that were listed.

    No more are in memory than a run takes.

    Attributes:
        most: images to keep.
        left: images that no run has seen, and for which there is no room.
        waiting: the same for others.
        taken: images that were taken.
        again: of those, images that a run has seen.
    """

    most: int
    left: int = 0
    waiting: int = 0
    taken: int = 0
    again: int = 0
    _kept: list[tuple[int, int, Source]] = field(default_factory=list)  # a heap, the last first
    _seen: int = 0

    def add(self, turn: int, source: Source) -> None:
        """Takes an image; 0 is the first turn, of those that no run has seen."""
        item = (-turn, -self._seen, source)
        self._seen += 1
        if len(self._kept) < self.most:
            heappush(self._kept, item)
        else:
            self._drop(heappushpop(self._kept, item))

    def lower(self, most: int) -> None:
        """Keeps fewer."""
        self.most = most
        while len(self._kept) > most:
            self._drop(heappop(self._kept))

    def _drop(self, item: tuple[int, int, Source]) -> None:
        if item[0]:
            self.waiting += 1
        else:
            self.left += 1

    def take(self, sizes: Sizes) -> list[Source]:
        """The images in order, without those that do not fit into a run's shards."""
        kept = sorted(self._kept, reverse=True)
        fitting = sum(_filled([sizes(item[2].size) for item in kept], len(kept))[:MAX_SHARDS])
        self.lower(fitting)
        self.taken = fitting
        self.again = sum(item[0] < 0 for item in kept[:fitting])
        return [item[2] for item in kept[:fitting]]


def split(sizes: Sequence[int], shard_size: int) -> list[int]:
    """How many images go into each shard: about ``shard_size``, more where shards would be too many.

    Args:
        sizes: estimated bytes of each image; they must fit.
        shard_size: images a shard.

    Returns:
        Counts, as even as sizes allow; a single 0 where there is nothing, since a loop over nothing is an error in
        places.
    """
    count = len(sizes)
    most = max(shard_size, math.ceil(count / MAX_SHARDS), 1)
    while len(shards := _filled(sizes, most)) > MAX_SHARDS:
        most += math.ceil(most / 8)
    even = _filled(sizes, math.ceil(count / max(1, len(shards))))
    return (even if len(even) <= len(shards) else shards) or [0]


def _filled(sizes: Sequence[int], most: int) -> list[int]:
    """Fills shards one after the other, up to a number of images and ``SHARD_BYTES``; none stays empty."""
    shards: list[int] = []
    room = 0
    for size in sizes:
        if not shards or shards[-1] >= most or size > room:
            shards.append(0)
            room = SHARD_BYTES
        shards[-1] += 1
        room -= size
    return shards
