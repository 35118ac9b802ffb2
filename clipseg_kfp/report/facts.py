"""Names and values that tell what a run was made with, and how long it took."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

CLEANED = 20  # prompts whose cleaning is listed


def facts_of(config: str, body: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    """Model, parameters and software, from the manifest's own fields."""
    model, settings = body["model"], body["settings"]
    views, inference = (settings.get(name, {}) for name in ("views", "inference"))
    tiling = {name.removeprefix("tile_"): value for name, value in views.items() if name.startswith("tile_")}
    return (
        ("Images", body["source_uri"]),
        ("Model", model["uri"]),
        ("Model digest", model["digest"]),
        ("Input size", f"{model['image_size']} px"),
        ("Prompts", f"{len(body['prompts']):,}"),
        ("Thresholds", _thresholds(body["prompts"])),
        ("Cleaning", _cleaning(body["prompts"])),
        ("Tiling", _join(tiling) or "off"),
        *(
            (("Pixel on the ground", f"{views['meters_per_pixel']} m"),)
            if "meters_per_pixel" in views
            else ()
        ),
        ("Average with the mirror image", "on" if views.get("flip") else "off"),
        ("Precision", inference.get("precision", "float32")),
        ("Configuration", config),
        ("Listing", body["dataset_digest"]),
        *(_inference(number, facts) for number, facts in enumerate(body["inference"][:4], 1)),
        ("Software", f"clipseg-kfp {body['software']['clipseg-kfp']}"),
    )


def time_by_step(seconds: Mapping[str, float]) -> tuple[tuple[str, str], ...]:
    """The seconds of each step; empty without any."""
    if not seconds:
        return ()
    steps = ", ".join(f"{step} {_duration(taken)}" for step, taken in seconds.items())
    note = "sums over shards; cached ones as when they were computed; without fetch_model and publish_results"
    return (("Time by step", f"{steps} ({note})"),)


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours} h {rest // 60} min" if hours else f"{rest // 60} min {rest % 60} s"


def _thresholds(prompts: list[dict[str, Any]]) -> str:
    counts = Counter("Otsu" if prompt["otsu"] else f"{prompt['threshold']:.2f}" for prompt in prompts)
    if len(counts) == 1:
        return next(iter(counts))
    return ", ".join(f"{threshold} ({count:,})" for threshold, count in counts.most_common(10))


def _cleaning(prompts: list[dict[str, Any]]) -> str:
    cleaned = [f"{prompt['name']}: {text}" for prompt in prompts if (text := _join(prompt["cleaning"]))]
    more = [f"and {len(cleaned) - CLEANED:,} more"] if len(cleaned) > CLEANED else []
    return "; ".join(cleaned[:CLEANED] + more) or "none"


def _join(values: Mapping[str, Any]) -> str:
    """Lists options that are not off."""
    return ", ".join(
        name.replace("_", " ") if value is True else f"{name.replace('_', ' ')} {value}"
        for name, value in values.items()
        if value not in (0, False, None, "")
    )


def _inference(number: int, facts: dict[str, Any]) -> tuple[str, str]:
    """How shards were computed: parameters of segment_images, and its choices."""
    text = ", ".join(f"{name} {value}" for name, value in facts.items() if value not in ("", None))
    return (f"Inference {number}" if number > 1 else "Inference", text)
