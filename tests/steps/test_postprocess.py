"""postprocess_masks: every pixel as a slow reference has it, in memory that does not grow with the shard."""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from encoded import write_encoded
from numpy.typing import NDArray
from PIL import Image

from clipseg_kfp import records
from clipseg_kfp.engine.checkpoint import ModelFacts
from clipseg_kfp.images.decode import preview_jpeg
from clipseg_kfp.masks.raster import decode_rle, upsample
from clipseg_kfp.steps import postprocess_masks
from clipseg_kfp.steps.artifacts import PackedViews, Probabilities, ShardMasks

SIDE = 48
SIZES = [(200, 150), (31, 97), (200, 150), (SIDE, SIDE), (1, 1), (640, 3), (600, 700)]
THRESHOLDS = [0.5, 0.3, 0.5, 0.95, 0.1]


def draw_maps(seed: int) -> NDArray[np.uint8]:
    """Of five prompts: some blobs, everything, nothing, a few pixels, noise."""
    rng = np.random.default_rng(seed)
    blobs = cv2.resize(rng.random((5, 5), dtype=np.float32), (SIDE, SIDE), interpolation=cv2.INTER_LINEAR)
    noise = rng.random((SIDE, SIDE), dtype=np.float32)
    maps = [blobs, 0.31 + 0.5 * noise, 0.49 * noise, noise, 0.2 * noise]
    return np.asarray(np.round(255 * np.asarray(maps)), dtype=np.uint8)


def write_prompts(folder: Path, thresholds: list[float], side: int = SIDE) -> Path:
    facts = ModelFacts("digest", side, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), 4)
    prompts = [
        {"name": f"thing {i}", "text": "thing", "threshold": value} for i, value in enumerate(thresholds)
    ]
    return write_encoded(folder, facts, prompts)


def write_shard(folder: Path, sizes: list[tuple[int, int]]) -> Path:
    """What preprocess_images leaves of images of these sizes."""
    rows = [
        {"source": f"{i}.png", "key": f"{i}.png", "uri": f"{i}.png", "version": "v", "size": 1,
         "ground_truth": [], "status": "done", "reason": "", "detail": "", "width": width,
         "height": height, "label_map": "", "overlay": ""}
        for i, (width, height) in enumerate(sizes)
    ]  # fmt: skip
    packed = PackedViews(folder)
    records.write_parquet(packed.images_path, records.IMAGES, rows)
    with records.ArrowWriter(packed.previews_path, records.PREVIEWS) as previews:
        for i, size in enumerate(sizes):
            previews.append({"image": i, "jpeg": preview_jpeg(Image.new("RGB", size, "gray"))})
    with records.ArrowWriter(packed.views_path, records.VIEWS) as views:
        for i, size in enumerate(sizes):
            views.append({"image": i, "box": (0, 0, *size), "pixels": b""})
    return folder


def test_every_pixel_and_every_measure(tmp_path: Path) -> None:
    prompts, views = write_prompts(tmp_path / "prompts", THRESHOLDS), write_shard(tmp_path / "views", SIZES)
    with records.ArrowWriter(Probabilities(tmp_path).maps_path, records.PROBABILITIES, 7) as writer:
        for i in range(len(SIZES)):
            for prompt, probability in enumerate(draw_maps(i)):
                writer.append({"image": i, "box": (0, 0, *SIZES[i]), "prompt": prompt,
                               "probability": records.pack_map(probability)})  # fmt: skip
    Probabilities(tmp_path).write_engine({})
    out = tmp_path / "out"
    count = postprocess_masks.run(
        views=views, probabilities=tmp_path, encoded_prompts=prompts, masks=tmp_path / "target",
        output_uri=str(out),
    )  # fmt: skip
    made = ShardMasks(tmp_path / "target")
    rows, images = list(made.masks()), list(made.images())
    assert count == len(rows) == len(SIZES) * len(THRESHOLDS)
    assert [row["key"] for row in rows[:: len(THRESHOLDS)]] == [image["key"] for image in images]
    for i, ((width, height), image) in enumerate(zip(SIZES, images, strict=True)):
        full = np.stack([upsample(small, width, height) for small in draw_maps(i)])
        expected = full >= np.float32(THRESHOLDS)[:, None, None]
        for prompt in range(len(THRESHOLDS)):
            row = rows[i * len(THRESHOLDS) + prompt]
            data = (out / "config" / row["mask"]).read_bytes()
            mask = expected[prompt]
            assert (np.asarray(Image.open(io.BytesIO(data))) == mask * np.uint8(255)).all()
            assert hashlib.sha256(data).hexdigest() == row["mask_sha256"]
            assert (decode_rle(row["rle"], width, height) == mask).all()
            exact = full[prompt].astype(np.float64)
            assert row["area"] == mask.sum()
            assert row["mean_probability"] == pytest.approx(exact.mean(), rel=1e-6)
            assert row["max_probability"] == exact.max()
            assert row["score"] == pytest.approx(exact[mask].mean() if mask.any() else 0, rel=1e-6)
        masked = np.where(expected, full, 0)
        labels = np.where(masked.max(0) > 0, masked.argmax(0) + 1, 0)
        assert (np.asarray(Image.open(out / "config" / image["label_map"])) == labels).all()
        with Image.open(out / "config" / image["overlay"]) as overlay:
            assert max(overlay.size) == min(512, max(width, height))


PEAK = """
import sys
from pathlib import Path
from clipseg_kfp.options import Outputs
from clipseg_kfp.steps import postprocess_masks

work = Path(sys.argv[1])
postprocess_masks.run(
    views=work, probabilities=work, encoded_prompts=Path(sys.argv[2]), masks=work / "target",
    output_uri=str(work / "out"), outputs=Outputs(label_maps=False, overlays=False),
)
# Of this program alone; ru_maxrss would begin with what the parent had.
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM:")))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's account of memory")
def test_memory_does_not_grow_with_the_shard(tmp_path: Path) -> None:
    """60 and 300 images with 30 and 150 MB of maps."""
    side, peaks = 704, []
    prompts = write_prompts(tmp_path / "prompts", [0.5], side)
    pixels = records.pack_map(np.random.default_rng(0).integers(0, 256, (side, side), dtype=np.uint8))
    for count in (60, 300):
        work = write_shard(tmp_path / str(count), [(20, 20)] * count)
        with records.ArrowWriter(Probabilities(work).maps_path, records.PROBABILITIES, 16) as writer:
            for i in range(count):
                writer.append({"image": i, "box": (0, 0, 20, 20), "prompt": 0, "probability": pixels})
        Probabilities(work).write_engine({})
        done = subprocess.run(
            [sys.executable, "-c", PEAK, str(work), str(prompts)],
            capture_output=True, text=True, timeout=60, check=True,
        )  # fmt: skip
        peaks.append(int(done.stdout.splitlines()[-1]))
    assert peaks[1] < 1.1 * peaks[0], peaks
