"""Measures the engine side by side with the documented use of transformers, and the steps around it.

    .venv/bin/python tests/bench/bench.py [--quick] [--profile] [--out bench.json] [--picture engine.png]

Everything is compared in turns within one process, and only ratios are claimed (``timing``). The model has
the size of CIDAS/clipseg-rd64-refined and random weights (``fullsize``); it and what is converted from it
stay in ``.bench/``. A quick run takes less than five minutes on two cores, a full one half an hour.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import fullsize

# Before anything converts a model: nothing of this belongs into the user's cache.
os.environ["CLIPSEG_KFP_CACHE"] = str(fullsize.WORK / "cache")

import torch
from chain import measure_chain
from compare import compare
from contestants import Documented, load_engines
from gpu import measure_gpu
from growth import draw_growth, measure_growth
from hotspots import show_profile
from memory import measure_memory
from rich.console import Console
from show import show

from clipseg_kfp.runtime.progress import say
from clipseg_kfp.runtime.resources import cpu_limit

PACKAGES = ("torch", "transformers", "openvino", "nncf", "numpy")
PROMPTS = 64


def describe_machine() -> dict[str, Any]:
    """What the figures were taken on."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        cpu = names[0].partition(":")[2].strip() if names else cpu
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {"cpu": cpu, "threads": cpu_limit(), "load_before": os.getloadavg()[0], "versions": versions}


class Stopwatch:
    """Says what is next, and remembers how long each part took."""

    def __init__(self) -> None:
        self.minutes: dict[str, float] = {}
        self._begun, self._part = time.monotonic(), ""

    def next(self, part: str) -> None:
        """Ends a part and begins another one; an empty name begins none."""
        now = time.monotonic()
        if self._part:
            self.minutes[self._part] = round((now - self._begun) / 60, 2)
        self._begun, self._part = now, part
        if part:
            say("bench", part)


def measure(quick: bool, picture: Path | None, profile: bool, console: Console) -> dict[str, Any]:
    """Does all of it.

    Args:
        quick: fewer rounds, images and prompts, and no picture.
        picture: where to draw how cost grows.
        profile: print where the time goes, too.
        console: for that.

    Returns:
        What ``bench.json`` holds.
    """
    found: dict[str, Any] = {"quick": quick, "machine": describe_machine()}
    watch = Stopwatch()
    watch.next("loading and converting")
    folder = fullsize.build_model()
    prompts = fullsize.word_prompts(20 if quick else PROMPTS)
    reference = Documented(folder)
    embeddings = reference.embed(prompts)
    engines = load_engines(folder, embeddings, calibration=4 if quick else 16)
    if profile:
        watch.next("profile")
        engine = engines["torch"]
        views = fullsize.views_of(fullsize.draw_pictures(engine.batch_size))
        show_profile(console, folder, engines, views, embeddings[:8])
    watch.next("comparing with transformers")
    found |= compare(reference, engines, prompts, embeddings, quick=quick)
    best = found["best_float32_backend"]
    watch.next("running the steps")
    images, rounds = (8, 1) if quick else (24, 5)
    found |= measure_chain(folder, engines[best], prompts, images=images, rounds=rounds)
    if not quick:
        watch.next("adding prompts")
        chosen = {name: engines[name] for name in dict.fromkeys((best, "torch"))}
        found["seconds_by_prompts"] = measure_growth(reference, chosen, prompts, embeddings)
    if torch.cuda.is_available():
        watch.next("measuring the GPU")
        found["cuda"] = measure_gpu(folder, prompts, embeddings, rounds=3 if quick else 7)
    del reference, engines  # the next part is about other processes' memory
    watch.next("measuring memory")
    counts = (25, 100) if quick else (25, 100, 300, 1000)
    found |= measure_memory(folder, counts, torch_count=0 if quick else 100)
    watch.next("")
    if picture and not quick:
        draw_growth(found["seconds_by_prompts"], found["peak_rss_mb"], best, picture)
    return found | {"minutes": watch.minutes}


def main() -> None:
    """Reads the command line, measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--quick",
        action="store_true",
        default=os.environ.get("QUICK", "") not in ("", "0"),
        help="end within five minutes; QUICK=1 in the environment does the same",
    )
    parser.add_argument("--out", type=Path, default=Path("bench.json"), help="(bench.json)")
    parser.add_argument("--picture", type=Path, help="draw how cost grows, in a full run")
    parser.add_argument("--profile", action="store_true", help="print where the time goes, too")
    options = parser.parse_args()
    if options.quick and options.picture:
        parser.error("--picture needs a full run: leave --quick or QUICK=1 away")
    console = Console()
    found = measure(options.quick, options.picture, options.profile, console)
    options.out.write_text(json.dumps(found, indent=2) + "\n", "utf-8")
    show(console, found)
    console.print(f"All figures: {options.out}")


if __name__ == "__main__":
    main()
