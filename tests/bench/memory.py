"""Peak memory of the real inference step: one process each, on files of drawn views.

Run as a program it is that process: ``memory.py VIEWS PROMPTS MODEL TARGET BACKEND`` runs
``segment_images.run`` and prints its peaks as JSON.

The figure is the kernel's high-water mark of this very process (``VmHWM``). ``ru_maxrss``, the usual source,
starts at what the *parent* had when it started the program, and is taken only where there is no /proc.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from clipseg_kfp.options import Inference
from clipseg_kfp.steps import segment_images

DISTINCT = 16
FEW = 4  # views behind a conversion, which is what its peak comes from
TEXTS = ("a red circle", "the striped stars")


def peak_mb() -> float:
    """Returns the largest resident set of this process so far, megabytes (1e6 bytes)."""
    try:
        lines = Path("/proc/self/status").read_text("ascii").splitlines()
    except OSError:
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
    return next(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("VmHWM"))


def write_views(target: Path, count: int) -> None:
    """Writes drawn views as preprocess_images does."""
    import fullsize

    from clipseg_kfp import records
    from clipseg_kfp.steps.artifacts import PackedViews

    width, height = fullsize.PICTURE
    views = fullsize.views_of(fullsize.draw_pictures(min(DISTINCT, count)))
    with records.ArrowWriter(PackedViews(target).views_path, records.VIEWS) as writer:
        for i in range(count):
            pixels = views[i % len(views)].tobytes()
            writer.append({"image": i, "box": (0, 0, width, height), "pixels": pixels})


class Peaks:
    """Peaks of the step on some numbers of views.

    Args:
        work: an empty folder.
        model: checkpoint folder.
    """

    def __init__(self, work: Path, model: Path) -> None:
        from clipseg_kfp.steps import encode_prompts

        self.work, self.model, self.prompts = work, model, work / "prompts"
        self.prompts.mkdir()
        encode_prompts.run(model=model, encoded_prompts=self.prompts, prompts=list(TEXTS))

    def measure(self, count: int, backend: str = "auto", *, cold: bool = False) -> int:
        """Runs the step once in a process of its own.

        Args:
            count: views.
            backend: as the step takes it.
            cold: with an empty cache, so that it converts the model.

        Returns:
            Megabytes at the peak.
        """
        views = self.work / f"views-{count}"
        if not views.exists():
            write_views(views, count)
        # What the step writes goes with the folder: a thousand views have a quarter of a gigabyte of maps.
        with tempfile.TemporaryDirectory(dir=self.work) as folder:
            environment = {**os.environ, **({"CLIPSEG_KFP_CACHE": f"{folder}/cache"} if cold else {})}
            command = [sys.executable, __file__, views, self.prompts, self.model, f"{folder}/maps", backend]
            done = subprocess.run(
                [str(part) for part in command], env=environment, check=False, capture_output=True, text=True
            )
        if done.returncode:
            raise RuntimeError(f"segment_images failed on {count} views:\n{done.stdout}\n{done.stderr}")
        return round(float(json.loads(done.stdout.splitlines()[-1])["peak_rss_mb"]))


def measure_memory(model: Path, counts: tuple[int, ...], torch_count: int = 0) -> dict[str, Any]:
    """Measures the step with the backend that it takes by itself, converting, and with torch.

    Args:
        model: checkpoint folder; already converted in this process's cache, where OpenVINO is installed.
        counts: numbers of views, smallest first.
        torch_count: views for torch; 0 measures neither torch nor the conversion.
    """
    with tempfile.TemporaryDirectory(prefix="clipseg-bench-") as folder:
        peaks = Peaks(Path(folder), model)
        found = {"peak_rss_mb": {str(count): peaks.measure(count) for count in counts}}
        if not torch_count:
            return found
        return found | {
            "peak_rss_mb_conversion": {str(FEW): peaks.measure(FEW, cold=True)},
            "peak_rss_mb_torch": {str(torch_count): peaks.measure(torch_count, "torch")},
        }


def _run_step() -> None:
    views, prompts, model, target = (Path(argument) for argument in sys.argv[1:5])
    segment_images.run(
        views=views,
        encoded_prompts=prompts,
        model=model,
        probabilities=target,
        inference=Inference.read({"backend": sys.argv[5], "device": "cpu"}),
    )
    # A conversion runs in a process of its own, while this one holds next to nothing.
    child = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 / 1e6
    print(json.dumps({"peak_rss_mb": max(peak_mb(), child)}))


if __name__ == "__main__":
    _run_step()
