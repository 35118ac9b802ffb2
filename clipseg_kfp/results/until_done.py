"""Decides whether a bucket needs another run: a run takes the images that fit into it and leaves the rest."""

from __future__ import annotations

from collections.abc import Mapping

from clipseg_kfp.errors import ClipsegKfpError


class NoProgressError(ClipsegKfpError):
    """Images are left, but a run did none of them: another run would not either."""

    code = "no_progress"


class Rest:
    """How many images are left after each of several runs over one source.

    A run takes images that no run has seen before all others, so fewer are left after each run. With ``full``, images
    that were done longest ago come first, and none are left when the runs together have done as many images as there
    were at first.

    Args:
        full: whether the runs take images whatever earlier runs have done.
    """

    def __init__(self, full: bool = False) -> None:
        self._full = full
        self._total: int | None = None
        self._seen = 0

    def after(self, counts: Mapping[str, int]) -> int:
        """Tells how many images are left for other runs.

        Args:
            counts: of the latest run, from its manifest.

        Raises:
            NoProgressError: images are left, but that run did none.
        """
        seen = counts["done"] + counts["quarantined"]
        left = counts.get("left", 0)
        if self._full:
            if self._total is None:
                self._total = counts["listed"] + left
            self._seen += seen
            left = max(0, self._total - self._seen)
        if left and not seen:
            raise NoProgressError(
                f"{left:,} images are left, but the last run did none of them.",
                "See its log and its quarantine: clipseg-kfp results show.",
            )
        return left
