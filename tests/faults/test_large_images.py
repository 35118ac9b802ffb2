"""Images of 200 megapixels stay within what their step may use."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.faults

FINISH_A_LARGE_ONE = """
import io
import sys

import cv2
import numpy as np
from PIL import Image

from clipseg_kfp.masks import raster as masks
from clipseg_kfp.options import Outputs
from clipseg_kfp.prompts import Cleaning, Row
from clipseg_kfp.results import Results
from clipseg_kfp.steps.postprocess_masks import _finish, _Work
from clipseg_kfp.storage import open_folder
from clipseg_kfp.views import plan

cv2.setNumThreads(1)
width, height = 20_000, 10_000
boxes = plan(width, height, tile=1024, overlap=0.25)
rng = np.random.default_rng(0)
cleaning = Cleaning(min_area=500, fill_holes=True, smooth=3)
rows = [Row(str(i), i, "text", "", (), 0.5, False, None, False, cleaning, False, {}) for i in (1, 2)]


def view():
    noise = cv2.GaussianBlur(rng.random((352, 352), np.float32), (0, 0), 8)
    return np.round(255 * (noise - noise.min()) / (noise.max() - noise.min())).astype(np.uint8)


one = np.stack([view() for _ in range(8)])
maps = {row.name: one[rng.integers(0, 8, len(boxes))] for row in rows}
preview = io.BytesIO()
Image.new("RGB", (1024, 512)).save(preview, "JPEG")
image = {"source": "", "key": "a.tif", "version": "v", "width": width, "height": height, "ground_truth": []}
results = Results(open_folder(sys.argv[1]), "c")
colors = dict(enumerate(masks.palette(2), start=1))
work = _Work(0, image, boxes, maps, preview.getvalue())
done = _finish(work, results, rows, Outputs(probability_bits=16), colors)
assert all(0.1 < row["coverage"] < 0.9 for row in done.masks), done.masks
with open("/proc/self/status") as status:
    print(next(line for line in status if line.startswith("VmHWM")).split()[1])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")
def test_200_megapixels_stay_within_the_pods_limit(tmp_path: Path) -> None:
    """With 339 views, a label map, and what takes most memory: cleaning and maps of 16 bits."""
    script = [sys.executable, "-c", FINISH_A_LARGE_ONE, str(tmp_path)]
    done = subprocess.run(script, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) * 1024 < 2 << 30
