"""Which images a run takes, and how they are split into shards.

Argo keeps all nodes of a run in one object of 1 MB, so the number of shards is bounded; a shard's views and
probabilities pass through the artifact store and the disks of three pods, so their size is bounded, too. Images that
do not fit are left for the next run.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush

from clipseg_kfp.dataset.listing import Source
from clipseg_kfp.steps.artifacts import EncodedPrompts
from clipseg_kfp.views.tiles import MAX_TILES, tile_side

MAX_SHARDS = 24  # bounded by tests/pipelines/test_node_sizes.py, which computes the object
SHARD_BYTES = 512_000_000  # of views, previews and probabilities, as they are estimated here

_PREVIEW_BYTES = 64_000
_PIXELS_PER_BYTE = 4  # of a file: photographs have 2 to 6, lossless formats 1 or less


@dataclass(frozen=True)
class Sizes:
    """Estimates the bytes of an image in the artifacts of its shard.

    Attributes:
        view: bytes of a view and its maps. A map of smooth probabilities shrinks to a fifth, others to a half.
        tile: pixels of the source that a tile adds to those before it; 0 without tiles.
        most_views: an image with more is quarantined.
    """

    view: int
    tile: int = 0
    most_views: int = 1

    @classmethod
    def of(cls, prompts: EncodedPrompts) -> Sizes:
        """Estimates from the model's input size, the prompts and the options."""
        side, views = prompts.facts().image_size, prompts.views()
        maps = sum(row.expression is None for row in prompts.rows())
        view = side**2 * 3 + maps * side**2 // 2
        if not views.tiled:
            return cls(view)
        # The resolution that files name is not known yet: a tile is assumed to be as large as the model's input.
        known = views.tile_size or views.meters_per_pixel
        step = (tile_side(views, side) if known else side) * (1 - views.tile_overlap)
        return cls(view, max(1, int(step**2)), MAX_TILES + 1)

    def __call__(self, size: int) -> int:
        """Bytes of an image whose file has ``size`` bytes."""
        views = 1 + size * _PIXELS_PER_BYTE // self.tile if self.tile else 1
        return _PREVIEW_BYTES + min(views, self.most_views) * self.view

    @property
    def most_images(self) -> int:
        """The most images that a run may take at all."""
        return MAX_SHARDS * max(1, SHARD_BYTES // self(0))


@dataclass
class Selection:
    """The images of the lowest turns, and of these the first that were listed; only those are in memory.

    Attributes:
        most: images to keep.
        left: images that no run has seen, and for which there is no room.
        waiting: the same for images that a run has seen.
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
        """Adds an image; 0 is the first turn, of images that no run has seen."""
        heappush(self._kept, (-turn, -self._seen, source))
        self._seen += 1
        self.lower(self.most)

    def lower(self, most: int) -> None:
        """Keeps at most so many."""
        self.most = most
        while len(self._kept) > most:
            turn, _, _ = heappop(self._kept)
            self.waiting += turn != 0
            self.left += turn == 0

    def take(self, sizes: Sizes) -> list[Source]:
        """The images in order, without those that do not fit into a run's shards."""
        kept = sorted(self._kept, reverse=True)
        self.taken = sum(_filled([sizes(source.size) for _, _, source in kept], len(kept))[:MAX_SHARDS])
        self.lower(self.taken)
        self.again = sum(turn < 0 for turn, _, _ in kept[: self.taken])
        return [source for _, _, source in kept[: self.taken]]


def split(sizes: Sequence[int], shard_size: int) -> list[int]:
    """The number of images of each shard: about ``shard_size``, more where there would be too many shards.

    Args:
        sizes: estimated bytes of each image; they must fit.
        shard_size: images per shard.

    Returns:
        Counts, as even as sizes allow; a single 0 without images, since an empty loop is an error in places.
    """
    count = len(sizes)
    most = max(shard_size, math.ceil(count / MAX_SHARDS), 1)
    while len(shards := _filled(sizes, most)) > MAX_SHARDS:
        most += math.ceil(most / 8)
    even = _filled(sizes, math.ceil(count / max(1, len(shards))))
    return (even if len(even) <= len(shards) else shards) or [0]


def _filled(sizes: Sequence[int], most: int) -> list[int]:
    """Fills shards one after the other, up to ``most`` images and ``SHARD_BYTES``; none stays empty."""
    shards: list[int] = []
    room = 0
    for size in sizes:
        if not shards or shards[-1] >= most or size > room:
            shards.append(0)
            room = SHARD_BYTES
        shards[-1] += 1
        room -= size
    return shards
