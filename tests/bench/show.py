"""The tables that ``bench.py`` prints."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table


def show(console: Console, found: dict[str, Any]) -> None:
    """Prints what was measured.

    Args:
        console: to print on.
        found: as ``bench.json`` has it; parts that were not measured are left out.
    """
    console.print(_backends(found), _roof(found))
    for table in (_steps(found), _memory(found), _growth(found), _gpu(found)):
        if table:
            console.print(table)


def _table(title: str, first: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column(first)
    for column in columns:
        table.add_column(column, justify="right")
    return table


def _backends(found: dict[str, Any]) -> Table:
    counts = list(found["ratio_vs_transformers"])
    table = _table(
        "Times as fast as the documented use of transformers (float32), by number of prompts",
        "engine",
        *(f"{count} prompt{'s' * (count != '1')}" for count in counts),
        "largest logit difference",
        "of deviation",
        "encoder, of float32 roof",
    )
    for name, facts in found["backends"].items():
        share = facts.get("roofline_share_encoder") or facts["encoder_rate_to_float32_roof"]
        table.add_row(
            name,
            *(f"{facts['ratio_vs_transformers'][count]:.1f} x" for count in counts),
            f"{facts['parity_max_abs']:.1e}",
            f"{facts['parity_share_of_std']:.1e}",
            f"{share:.0%}",
        )
    return table


def _roof(found: dict[str, Any]) -> Table:
    table = _table("Matrix multiplications of float32 beside it", "", "GFLOP/s")
    for name, rate in found["matmul_gflops"].items():
        table.add_row(name, f"{rate:.0f}")
    return table


def _steps(found: dict[str, Any]) -> Table | None:
    steps = found.get("steps")
    if not steps:
        return None
    table = _table(
        f"Whole steps: {steps['images']} photos of 2 megapixels, {steps['prompts']} prompts, with the store",
        "",
        "of the engine alone",
    )
    seconds = steps["seconds_an_image"]
    for name, value in seconds.items():
        table.add_row(name, f"{value / seconds['engine']:.2f}")
    table.add_section()
    for name, key in (("masks of blobs", ""), ("fragmented masks", "_fragmented")):
        share = steps[f"coverage{key}"]
        row = f"all steps, {name} ({share:.0%} foreground)"
        table.add_row(row, f"{found[f'overhead_vs_engine{key}']:.2f}")
    return table


def _memory(found: dict[str, Any]) -> Table | None:
    if "peak_rss_mb" not in found:
        return None
    table = _table("Peak memory of segment_images", "", "images", "MB")
    for key, name in (("", "as it is"), ("_conversion", "converting the model first"), ("_torch", "torch")):
        for count, value in found.get(f"peak_rss_mb{key}", {}).items():
            table.add_row(name, count, f"{value:,}")
    return table


def _growth(found: dict[str, Any]) -> Table | None:
    if "seconds_by_prompts" not in found:
        return None
    growth = found["seconds_by_prompts"]
    counts = list(max(growth.values(), key=len))
    table = _table("Seconds an image, by number of prompts", "", *counts)
    for name, values in growth.items():
        table.add_row(name, *(f"{values[count]:.2f}" if count in values else "" for count in counts))
    return table


def _gpu(found: dict[str, Any]) -> Table | None:
    if "cuda" not in found:
        return None
    rates = found["cuda"]["images_a_second"]
    table = _table(
        "On the GPU: times the documented use at the same precision, by number of prompts", "", *rates
    )
    for name in next(iter(rates.values())):
        precision = next(word for word in name.replace(",", "").split() if "float" in word)
        base = f"transformers {precision}"
        table.add_row(name, *(f"{values[name] / values[base]:.1f} x" for values in rates.values()))
    return table
