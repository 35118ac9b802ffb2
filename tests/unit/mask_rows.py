"""Rows of the results' tables for the tests of formats, made from masks as postprocess_masks makes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from clipseg_kfp import records
from clipseg_kfp.masks.raster import Sums, measure

Mask = NDArray[np.bool_]

HOSTILE = [
    "../../etc/passwd.jpg",
    "a b/ü 猫.JPG",
    "=cmd|' /C calc'!A0.png",
    '-1+2,"quoted"\nnew line.png',
    "images/images/deep.jpg",
    "labels/images.jpg",
    "same.jpg",
    "same.png",
    "SAME.jpg",
    "same.txt/inner.jpg",
    "same.jpg/inner.jpg",
    "same.jpg~/inner.jpg",
    "no suffix",
    ".jpg",
    "dir//empty.jpg",
    "n" * 300 + ".jpg",
    "n" * 299 + "m.jpg",
    "<b>&amp;'\".webp",
]


def image_row(key: str, shape: tuple[int, int], version: str = "v1") -> dict[str, Any]:
    empty = dict.fromkeys(records.IMAGES.names)
    return {
        **empty, "source": f"s3://bucket/{key}", "uri": f"s3://bucket/{key}", "key": key, "version": version,
        "status": "done", "reason": "", "width": shape[1], "height": shape[0],
    }  # fmt: skip


def mask_row(key: str, mask: Mask, category: int = 1, version: str = "v1") -> dict[str, Any]:
    area, filled = int(mask.sum()), bool(mask.any())
    sums = Sums(area, 0.75 * filled, 0.25 + 0.5 * area / mask.size, 0.75 if filled else 0.25)
    found = measure(mask, sums)
    return {
        "source": f"s3://bucket/{key}", "key": key, "version": version, "prompt": f"prompt {category}",
        "category_id": category, "width": mask.shape[1], "height": mask.shape[0], "threshold": 0.5,
        "area": found.area, "coverage": found.area / mask.size, "bbox": list(found.bbox), "rle": found.rle,
        "score": found.score, "mean_probability": found.mean, "max_probability": found.maximum,
        "mask": "masks/x.png", "mask_sha256": "0" * 64, "mask_bytes": 70, "probability": "probabilities/x.png",
        "probability_sha256": "a" * 64, "probability_bytes": 90,
    }  # fmt: skip


def tables(
    masks: Mapping[tuple[str, int], Mask], version: str = "v1"
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Tables of images and masks from masks by key and category."""
    shapes = {key: mask.shape for (key, _), mask in masks.items()}
    images = [image_row(key, shape, version) for key, shape in shapes.items()]
    return images, [mask_row(key, mask, category, version) for (key, category), mask in masks.items()]


def quarantined(key: str) -> dict[str, Any]:
    return {
        **image_row(key, (1, 1)),
        "status": "quarantined",
        "reason": "empty",
        "width": None,
        "height": None,
    }


def blobs(height: int, width: int, cell: int, seed: int = 0, level: float = 0.5) -> Mask:
    """Smooth random regions with holes, ``cell`` pixels wide or so."""
    noise = np.random.default_rng(seed).random((height // cell + 2, width // cell + 2), dtype=np.float32)
    return np.asarray(cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC) > level)


def odd_masks() -> dict[str, Mask]:
    """Shapes at which formats break."""
    one = np.zeros((9, 7), bool)
    one[4, 3] = True
    ring = np.zeros((30, 40), bool)
    ring[3:27, 5:35] = True
    ring[8:20, 12:30] = False
    nested = ring.copy()
    nested[11:17, 16:24] = True
    nested[13, 18:21] = False
    diagonal = np.eye(12, dtype=bool)
    return {
        "empty": np.zeros((5, 6), bool),
        "full": np.ones((5, 6), bool),
        "one pixel": one,
        "one pixel image": np.ones((1, 1), bool),
        "one row": np.array([[0, 1, 1, 0, 1, 0, 0, 1]], bool),
        "one column": np.array([[0, 1, 1, 0, 1, 0, 0, 1]], bool).T,
        "ring": ring,
        "nested": nested,
        "diagonal": diagonal,
        "all but diagonal": ~diagonal,
        "checkers": np.indices((11, 13)).sum(0) % 2 == 0,
        "sieve": ~((np.indices((31, 41)) % 2).all(0)),
        "frame": np.pad(np.zeros((6, 6), bool), 1, constant_values=True),
    }


def iou(first: Mask, second: Mask) -> float:
    union = np.count_nonzero(first | second)
    return float(np.count_nonzero(first & second) / union) if union else 1.0
