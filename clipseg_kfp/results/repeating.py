"""Decides whether a bucket needs another run: one takes what fits into it, and leaves the rest for the next."""

from __future__ import annotations

from collections.abc import Mapping

from clipseg_kfp.errors import ClipsegKfpError


class NoProgressError(ClipsegKfpError):
    """A run did no image, though some are left: another one would not either."""


class Rest:
    """How much is left after each of several runs over one source.

    Every run takes images that no run has seen before all others, so what is left shrinks, but for images that come
    in between. With ``full``, images that were done longest ago come first, and it is over when the runs together
    have done as many as there were at first.

    Args:
        full: whether the runs take images whatever earlier runs have done.
    """

    def __init__(self, full: bool = False) -> None:
        self._full = full
        self._wanted: int | None = None
        self._seen = 0

    def after(self, counts: Mapping[str, int]) -> int:
        """Tells how many images are left for other runs; 0 ends it.

        Args:
            counts: of the latest run, from its manifest.

        Raises:
            NoProgressError: that run did nothing, and something is left.
        """
        seen = counts["done"] + counts["quarantined"]
        left = counts.get("left", 0)
        if self._full:
            if self._wanted is None:
                self._wanted = counts["listed"] + left
            self._seen += seen
            left = max(0, self._wanted - self._seen)
        if left and not seen:
            raise NoProgressError(
                f"{left:,} images are left, and the last run did none of them.",
                "See its log and its quarantine: clipseg-kfp results show.",
            )
        return left
