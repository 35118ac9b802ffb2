"""The comparison with transformers: time, logits, and the share of the machine's peak."""

from __future__ import annotations

from functools import partial
from statistics import median
from typing import Any

import fullsize
import numpy as np
from contestants import Documented, run_ours
from numpy.typing import NDArray
from PIL import Image
from roofline import encoder_flops, yardsticks
from timing import alternate, ratio

from clipseg_kfp.engine import Engine

COUNTS = (1, 8, 20)
REFERENCE = "transformers"

Engines = dict[str, Engine]
Embeddings = NDArray[np.float32]


def is_float32(engine: Engine) -> bool:
    """Whether an engine's results may be compared with the reference's to the last digits."""
    return engine.backend.precision == "float32"


def measure_times(
    reference: Documented,
    engines: Engines,
    prompts: list[str],
    embeddings: Embeddings,
    rounds: int,
    counts: tuple[int, ...] = COUNTS,
) -> dict[str, dict[str, list[float]]]:
    """Times whole images: seconds an image of each contestant and round, by number of prompts."""
    found = {}
    for count in counts:
        images = {name: fullsize.draw_pictures(engine.batch_size) for name, engine in engines.items()}
        calls: dict[str, Any] = {
            REFERENCE: partial(reference, fullsize.draw_pictures(1)[0], prompts[:count]),
            **{name: partial(run_ours, engine, images[name], embeddings[:count])
               for name, engine in engines.items()},
        }  # fmt: skip
        # OpenVINO prepares kernels for every new shape: each engine has met this number of prompts before.
        for name, engine in engines.items():
            run_ours(engine, images[name][:1], embeddings[:count])
        times = alternate(calls, rounds, warm=count == counts[0])
        found[str(count)] = {
            name: [seconds / len(images.get(name, [None])) for seconds in series]
            for name, series in times.items()
        }
    return found


def ratios(times: dict[str, dict[str, list[float]]], name: str) -> dict[str, float]:
    """How many times faster than transformers a contestant is, by number of prompts."""
    return {count: ratio(series[REFERENCE], series[name]) for count, series in times.items()}


def measure_parity(
    reference: Documented,
    engines: Engines,
    images: list[Image.Image],
    prompts: list[str],
    embeddings: Embeddings,
) -> dict[str, dict[str, float]]:
    """Compares logits with the reference's: the largest difference, and as a share of their deviation."""
    expected = np.stack(
        [reference.logits(reference.prepare([image], prompts)).float().numpy() for image in images]
    )
    pixels, found = fullsize.views_of(images), {}
    for name, engine in engines.items():
        logits = engine.decode(engine.encode(pixels), embeddings)
        largest = float(np.abs(logits - expected).max())
        found[name] = {
            "parity_max_abs": largest,
            "parity_share_of_std": largest / float(expected.std()),
        }
    return found


def measure_encoder(engines: Engines, blocks: int, rounds: int) -> dict[str, Any]:
    """Times the encoders among multiplications of matrices.

    Returns:
        ``encoders``: GFLOP/s of each engine; ``seconds``: an image; ``matmul``: GFLOP/s of each yardstick.
    """
    size = next(iter(engines.values())).backend.size
    views = {
        name: fullsize.views_of(fullsize.draw_pictures(engine.batch_size)) for name, engine in engines.items()
    }
    sticks = yardsticks(size)
    calls: dict[str, Any] = {
        **sticks,
        **{name: partial(engine.encode, views[name]) for name, engine in engines.items()},
    }
    times = {name: median(series) for name, series in alternate(calls, rounds).items()}
    seconds = {name: times[name] / len(views[name]) for name in engines}
    work = encoder_flops(size, blocks)
    return {
        "seconds": seconds,
        "encoders": {name: work / value / 1e9 for name, value in seconds.items()},
        "matmul": {name: stick.flops / times[name] / 1e9 for name, stick in sticks.items()},
    }


def compare(
    reference: Documented, engines: Engines, prompts: list[str], embeddings: Embeddings, *, quick: bool
) -> dict[str, Any]:
    """Measures all of it and sums it up as ``bench.json`` has it."""
    times = measure_times(reference, engines, prompts, embeddings, rounds=1 if quick else 5)
    parity = measure_parity(
        reference, engines, fullsize.draw_pictures(2 if quick else 4), prompts[:8], embeddings[:8]
    )
    blocks = max(reference.model.config.extract_layers) + 1
    encoder = measure_encoder(engines, blocks, rounds=2 if quick else 9)
    roof = max(encoder["matmul"].values())
    backends = {}
    for name, engine in engines.items():
        rate = encoder["encoders"][name]
        backends[name] = {
            **engine.describe(),
            "ratio_vs_transformers": ratios(times, name),
            **parity[name],
            "encode_share": {
                count: encoder["seconds"][name] / median(series[name]) for count, series in times.items()
            },
            # Other precisions have other, higher roofs.
            ("roofline_share_encoder" if is_float32(engine) else "encoder_rate_to_float32_roof"): rate / roof,
        }
    exact = [name for name, engine in engines.items() if is_float32(engine)]
    best = max(exact, key=lambda name: backends[name]["ratio_vs_transformers"]["8"])
    best_encoder = max(exact, key=lambda name: encoder["encoders"][name])
    rates = encoder["encoders"]
    alone = encoder["matmul"]["torch 4096"]
    return {
        "best_float32_backend": best,
        "ratio_vs_transformers": backends[best]["ratio_vs_transformers"],
        "parity_max_abs": backends[best]["parity_max_abs"],
        "parity_share_of_std": backends[best]["parity_share_of_std"],
        "roofline_share_encoder": rates["torch"] / roof,
        "roofline_share_encoder_best_backend": rates[best_encoder] / roof,
        "share_of_torch_4096_matmul_encoder": rates["torch"] / alone,
        "share_of_torch_4096_matmul_encoder_best_backend": rates[best_encoder] / alone,
        "encoder_gflop": encoder_flops(engines[best].backend.size, blocks) / 1e9,
        "matmul_gflops": encoder["matmul"],
        "backends": backends,
        "seconds_an_image": {
            count: {name: median(series) for name, series in of_count.items()}
            for count, of_count in times.items()
        },
    }
