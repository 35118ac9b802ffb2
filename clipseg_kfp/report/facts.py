"""What a run was made with, and how long it took, as names and values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

CLEANED = 20  # prompts whose cleaning is told


def facts_of(config: str, body: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    """Model, parameters and software, of the manifest's own fields."""
    model, settings = body["model"], body["settings"]
    return (
        ("Images", body["source_uri"]),
        ("Model", model["uri"]),
        ("Model digest", model["digest"]),
        ("Input size", f"{model['image_size']} px"),
        ("Prompts", f"{len(body['prompts']):,}"),
        ("Thresholds", _thresholds(body["prompts"])),
        ("Cleaning", _cleaning(body["prompts"])),
        ("Tiling", _said(settings.get("tiling", {})) or "off"),
        *(
            (("Pixel on the ground", f"{settings['meters_per_pixel']} m"),)
            if "meters_per_pixel" in settings
            else ()
        ),
        ("Average with the mirror image", "on" if settings.get("flip") else "off"),
        ("Precision", settings.get("precision", "float32")),
        ("Configuration", config),
        ("Listing", body["dataset_digest"]),
        *(_way(number, facts) for number, facts in enumerate(body["inference"][:4], 1)),
        ("Software", f"clipseg-kfp {body['software']['clipseg-kfp']}"),
    )


def time_by_step(seconds: Mapping[str, float]) -> tuple[tuple[str, str], ...]:
    """How long each step took; empty where no step said it."""
    if not seconds:
        return ()
    said = ", ".join(f"{step} {_duration(taken)}" for step, taken in seconds.items())
    note = "shards added up, cached ones as when they were computed; without fetch_model and publish_results"
    return (("Time by step", f"{said} ({note})"),)


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours} h {rest // 60} min" if hours else f"{rest // 60} min {rest % 60} s"


def _thresholds(prompts: list[dict[str, Any]]) -> str:
    counts = Counter("Otsu" if one["otsu"] else f"{one['threshold']:.2f}" for one in prompts)
    if len(counts) == 1:
        return next(iter(counts))
    return ", ".join(f"{threshold} ({count:,})" for threshold, count in counts.most_common(10))


def _cleaning(prompts: list[dict[str, Any]]) -> str:
    found = [(one["name"], text) for one in prompts if (text := _said(one["cleaning"]))]
    shown = "; ".join(f"{name}: {text}" for name, text in found[:CLEANED])
    return shown + (f"; and {len(found) - CLEANED:,} more" if len(found) > CLEANED else "") or "none"


def _said(values: Mapping[str, Any]) -> str:
    """What is not off."""
    return ", ".join(
        name.replace("_", " ") if value is True else f"{name.replace('_', ' ')} {value}"
        for name, value in values.items()
        if value not in (0, False, None, "")
    )


def _way(number: int, facts: dict[str, Any]) -> tuple[str, str]:
    """How shards were computed: parameters of segment_images, and what it chose."""
    said = ", ".join(f"{name} {value}" for name, value in facts.items() if value not in ("", None))
    return (f"Inference {number}" if number > 1 else "Inference", said)
