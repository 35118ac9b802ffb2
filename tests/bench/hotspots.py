"""Where an engine's time goes: torch's profiler, and OpenVINO's own counters."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from compare import Embeddings
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from clipseg_kfp.engine import Engine
from clipseg_kfp.engine.checkpoint import read_facts
from clipseg_kfp.runtime.resources import cpu_limit

ROWS = 12

Views = NDArray[np.uint8]


def show_profile(
    console: Console, folder: Path, engines: dict[str, Engine], views: Views, embeddings: Embeddings
) -> None:
    """Prints what takes the time of the float32 engines, the longest first.

    Args:
        console: to print on.
        folder: of the checkpoint.
        engines: as ``contestants.load_engines`` names them.
        views: encoded at once.
        embeddings: decoded for each.
    """
    console.print(f"{len(views)} views, {len(embeddings)} prompts")
    console.print(*profile_torch(engines["torch"], views, embeddings))
    if "openvino" in engines:
        console.print(*profile_openvino(folder, views, embeddings))


def profile_torch(engine: Engine, views: Views, embeddings: Embeddings) -> list[Table]:
    """Returns tables of both halves' own time by operator."""
    activations = engine.encode(views)  # warm, and what decoding needs
    return [
        _tabulate("torch, encode", _operators(lambda: engine.encode(views))),
        _tabulate("torch, decode", _operators(lambda: engine.decode(activations, embeddings))),
    ]


def profile_openvino(folder: Path, views: Views, embeddings: Embeddings) -> list[Table]:
    """Returns tables of both halves' time by operation and kernel."""
    import openvino as ov

    from clipseg_kfp.engine.openvino_backend import read_converted

    encoder, decoder, _ = read_converted(folder, read_facts(folder))
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": cpu_limit(),
        "INFERENCE_PRECISION_HINT": "f32",
        "PERF_COUNT": True,
    }
    inputs: list[Any] = [views]
    tables = []
    for title, half in (("OpenVINO, encode", encoder), ("OpenVINO, decode", decoder)):
        request = ov.Core().compile_model(half, "CPU", settings).create_infer_request()
        for _ in range(2):  # the first one allocates
            outputs = request.infer(inputs)
        nodes = request.profiling_info
        tables.append(
            _tabulate(
                title,
                ((f"{n.node_type}, {n.exec_type}", n.real_time.total_seconds() * 1000) for n in nodes),
            )
        )
        inputs = [embeddings, *(outputs[i] for i in range(len(outputs)))]
    return tables


def _operators(call: Callable[[], object]) -> list[tuple[str, float]]:
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU]) as found:
        call()
    return [(event.key, event.self_cpu_time_total / 1000) for event in found.key_averages()]


def _tabulate(title: str, parts: Iterable[tuple[str, float]]) -> Table:
    milliseconds: dict[str, float] = defaultdict(float)
    for name, value in parts:
        milliseconds[name] += value
    total = sum(milliseconds.values())
    table = Table(title=title, title_justify="left")
    table.add_column("operation")
    for column in ("ms", "share"):
        table.add_column(column, justify="right")
    for name, value in sorted(milliseconds.items(), key=lambda item: -item[1])[:ROWS]:
        table.add_row(name, f"{value:.1f}", f"{value / total:.1%}")
    return table
