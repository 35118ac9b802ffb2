"""Memory of an evaluation does not grow with the images."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from clipseg_kfp import records
from clipseg_kfp.steps import evaluate_masks
from clipseg_kfp.truth import GroundTruth

SIDE = 32
IMAGES_A_SHARD = 100


def make_shard(folder: Path, first: int, rng: np.random.Generator) -> Path:
    """A shard as postprocess_masks leaves it: masks, probabilities and ground truth in shapes."""
    rows: list[tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = []
    for i in range(first, first + IMAGES_A_SHARD):
        level = rng.integers(0, 256, (SIDE, SIDE), dtype=np.uint8)
        encoded = coco_mask.encode(np.asfortranarray((level > 127).astype(np.uint8)))["counts"].decode()
        shape = {"size": [SIDE, SIDE], "counts": encoded}
        truth = GroundTruth.of_shapes("cat", "x.json", [shape], (SIDE, SIDE))
        common = {"key": f"{i}.jpg", "version": "1"}
        size = {"width": SIDE, "height": SIDE}
        rows.append(
            (
                {**common, **size, "status": "done", "ground_truth": [vars(truth)]},
                {**common, **size, "prompt": "cat", "rle": encoded},
                {**common, "prompt": "cat", "boxes": [[0, 0, SIDE, SIDE]], "maps": level.tobytes()},
            )
        )
    records.write_parquet(folder / "images.parquet", records.IMAGES, (row[0] for row in rows))
    records.write_parquet(folder / "masks.parquet", records.MASKS, (row[1] for row in rows))
    with records.ArrowWriter(folder / "scores.arrow", records.SCORES, 1, "zstd") as scores:
        for row in rows:
            scores.append(row[2])
    with records.ArrowWriter(folder / "gallery.arrow", records.GALLERY):
        pass  # no pictures
    return folder


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Path]]:
    root, rng = tmp_path_factory.mktemp("shards"), np.random.default_rng(0)
    yield [make_shard(root / f"{i}", i * IMAGES_A_SHARD, rng) for i in range(10)]


def test_memory_does_not_grow_with_the_images(shards: list[Path], tmp_path: Path) -> None:
    evaluate_masks.run(masks=shards[:1], evaluation=tmp_path / "warm")
    peaks = []
    for count in (2, 10):
        tracemalloc.start()
        found = evaluate_masks.run(masks=shards[:count], evaluation=tmp_path / f"{count}")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert found.prompts["cat"].images == count * IMAGES_A_SHARD
        assert found.prompts["cat"].iou == 1
    print(f"peak of 200 pairs {peaks[0]:,} bytes, of 1,000 {peaks[1]:,}")
    assert peaks[1] < 1.5 * peaks[0] + 500_000, "a table's chunk is all that may be larger"
