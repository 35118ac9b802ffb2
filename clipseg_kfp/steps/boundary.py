"""Where one image ends and its neighbors begin: what a single image raises costs that image and nothing else."""

from __future__ import annotations

from typing import Any

from clipseg_kfp.errors import ClipsegKfpError
from clipseg_kfp.naming import printable, spell_out
from clipseg_kfp.runtime.progress import say

#: What is no image's fault: the suite's own errors (a store out of reach, a wrong model), a full disk, and steps whose
#: files do not fit together.
NOT_OF_ONE_IMAGE = (ClipsegKfpError, OSError, AssertionError)


def quarantined(row: dict[str, Any], reason: str, detail: str) -> dict[str, Any]:
    """The row of an image that is set aside.

    Args:
        row: of ``records.IMAGES``.
        reason: a short code.
        detail: a sentence for people.
    """
    nothing = {"width": 0, "height": 0, "label_map": "", "overlay": ""}
    facts = dict.fromkeys(name for name in row if name.endswith(("_sha256", "_bytes")))
    return {**row, **nothing, **facts, "status": "quarantined", "reason": reason, "detail": spell_out(detail)}


def failure(row: dict[str, Any], step: str, error: Exception) -> dict[str, Any]:
    """The row of an image that a step could not work on, and says so.

    Args:
        row: of ``records.IMAGES``.
        step: its name.
        error: what the image raised; none of ``NOT_OF_ONE_IMAGE``.
    """
    reason = "too_large" if isinstance(error, MemoryError) else "failed"
    words = printable(" ".join(str(error).split()))[:200] or type(error).__name__
    set_aside = quarantined(row, reason, f"{step} cannot do this image of {size(row)}: {words}")
    say(step, f"quarantined {row['key']}: {reason}, {set_aside['detail']}")
    return set_aside


def size(row: dict[str, Any]) -> str:
    """Width and height of an image, for people."""
    return f"{row['width']} x {row['height']} pixels"
