"""How time and memory grow with the work, and the picture of it for the README."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

import fullsize
from compare import REFERENCE, Embeddings, Engines
from contestants import Documented, run_ours
from timing import alternate

COUNTS = (1, 2, 4, 8, 16, 32, 64)
REFERENCE_COUNTS = (1, 2, 4, 8)  # beyond, one call takes a minute: measured to here, and drawn to here
COLORS = ("#1f5fbf", "#5b9bd5", "#c0504d")


def measure_growth(
    reference: Documented, engines: Engines, prompts: list[str], embeddings: Embeddings, rounds: int = 3
) -> dict[str, dict[str, float]]:
    """Times whole images with more and more prompts: median seconds an image by contestant and count."""
    images = {name: fullsize.draw_pictures(engine.batch_size) for name, engine in engines.items()}
    calls: dict[tuple[str, int], Callable[[], object]] = {}
    for count in COUNTS:  # all in the same turns: a drift of the machine would bend a curve else
        for name, engine in engines.items():
            calls[name, count] = partial(run_ours, engine, images[name], embeddings[:count])
        if count in REFERENCE_COUNTS:
            picture = fullsize.draw_pictures(1)[0]
            calls[REFERENCE, count] = partial(reference, picture, prompts[:count])
    found: dict[str, dict[str, float]] = {name: {} for name in (*engines, REFERENCE)}
    for (name, count), series in alternate(calls, rounds).items():
        found[name][str(count)] = median(series) / len(images.get(name, [None]))
    return found


def draw_growth(seconds: dict[str, dict[str, float]], memory: dict[str, int], best: str, path: Path) -> None:
    """Draws seconds an image over prompts, and peak memory over images, side by side.

    Args:
        seconds: what ``measure_growth`` returned.
        memory: megabytes by number of images.
        best: the contestant that ``memory`` is about.
        path: of the PNG file.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    plt.rcParams.update({"font.size": 11, "axes.spines.top": False, "axes.spines.right": False})
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.9), dpi=160, facecolor="white")
    names = [best, *(name for name in seconds if name not in (best, REFERENCE)), REFERENCE]
    for name, color, marker in zip(names, COLORS, "os^", strict=False):
        points = seconds[name]
        label = f"{REFERENCE}, documented use" if name == REFERENCE else f"clipseg-kfp, {name}"
        left.plot([int(n) for n in points], list(points.values()), marker=marker, color=color, label=label)
    left.set(xscale="log", yscale="log", xlabel="prompts", ylabel="seconds an image",
             title="Time an image, by prompts")  # fmt: skip
    left.set_xticks(COUNTS, [str(count) for count in COUNTS])
    left.minorticks_off()
    ticks = [0.1, 0.2, 0.5, 1, 2, 5, 10]
    values = [value for points in seconds.values() for value in points.values()]
    shown = [tick for tick in ticks if min(values) / 2 < tick < max(values) * 2]
    left.set_yticks(shown, [f"{tick:g}" for tick in shown])
    left.legend(frameon=False, fontsize=9)
    right.plot([int(n) for n in memory], list(memory.values()), marker="o", color=COLORS[0])
    right.set(xscale="log", xlabel="images in the shard", ylabel="peak memory, MB",
              title="Memory of the inference step", ylim=(0, 1.25 * max(memory.values())))  # fmt: skip
    right.set_xticks([int(n) for n in memory], list(memory))
    right.minorticks_off()
    for axes in (left, right):
        axes.grid(alpha=0.3)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    plt.close(figure)
