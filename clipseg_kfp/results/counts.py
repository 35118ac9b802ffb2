"""Checks that every listed image came out once, and that not too many were quarantined."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from clipseg_kfp import records
from clipseg_kfp.errors import ClipsegKfpError, StorageError
from clipseg_kfp.options import Limits
from clipseg_kfp.results.layout import image_id
from clipseg_kfp.results.ledger import Ids, ids_of

NAMED = 5  # images that a message names for each reason


class QuarantineError(ClipsegKfpError):
    """More images were quarantined than ``max_quarantined`` allows."""

    code = "too_many_quarantined"


@dataclass
class Quarantine:
    """Counts quarantined images by reason, and keeps the first keys of each."""

    counts: Counter[str] = field(default_factory=Counter)
    first: dict[str, list[str]] = field(default_factory=dict)
    detail: str = ""

    def add(self, row: dict[str, Any]) -> None:
        """Counts a row of ``records.IMAGES``."""
        if row["status"] != "quarantined":
            return
        self.counts[row["reason"]] += 1
        self.detail = self.detail or row["detail"]
        keys = self.first.setdefault(row["reason"], [])
        if len(keys) < NAMED:
            keys.append(row["key"])

    def check(self, limits: Limits, listed: int, where: str = "") -> None:
        """Raises ``QuarantineError`` with all reasons where there are too many.

        Args:
            limits: of the run.
            listed: images of the run.
            where: for the message, such as " of a shard".
        """
        most, count = limits.most_quarantined(listed), self.counts.total()
        if most is None or count <= most:
            return
        raise QuarantineError(
            f"{count:,} images{where} were quarantined; limits.max_quarantined={limits.max_quarantined} allows "
            f"{most:,} of {listed:,} listed. {self.reasons()}.",
            "Nothing was committed. Repair or remove these images, or raise limits.max_quarantined.",
            where="limits.max_quarantined",
        )

    def check_readable(self, done: int, skipped: int) -> None:
        """Raises ``StorageError`` where the store refused all images, and none was ever done.

        Then the credentials are wrong, not the images, and "all quarantined" would hide that.
        """
        if not done and not skipped and self.counts and set(self.counts) == {"unreadable"}:
            raise StorageError(
                f"The store refused every image, {self.counts.total():,} of them. The first: {self.detail}",
                "Nothing was committed. Check that the credentials may read the input.",
                code="store_refuses_all",
            )

    def reasons(self) -> str:
        """Each reason with its count and first images, the most frequent first."""
        return "; ".join(
            f"{reason}: {count:,} ({', '.join(self.first[reason])}{', …' if count > NAMED else ''})"
            for reason, count in self.counts.most_common()
        )


def reconcile(listed: Sequence[Path], reported: Sequence[Path]) -> None:
    """Compares the images of shards before and after the work, one by one.

    Args:
        listed: tables of ``records.SOURCES``, one per shard.
        reported: tables of ``records.IMAGES``, in any order.

    Raises:
        StorageError: an image is missing, came out twice or was never listed; names it and its shard.
    """
    before, after = (
        np.sort(np.concatenate([ids_of(()), *map(_ids, tables)])) for tables in (listed, reported)
    )
    if len(before) == len(after) and bool((before == after).all()):
        return
    expected, actual = Counter(before.tolist()), Counter(after.tolist())
    problems: list[tuple[str, str]] = []  # key, and what is wrong
    for path in listed:
        for row, id_ in zip(_rows(path), _ids(path).tolist(), strict=True):
            if surplus := actual[id_] - expected[id_]:
                outcome = "came out twice" if surplus > 0 else "is missing"
                problems.append((row["key"], f"of {path.stem} {outcome}"))
    for path in reported:
        ids = zip(_rows(path), _ids(path).tolist(), strict=True)
        problems += [(row["key"], "was never listed") for row, id_ in ids if not expected[id_]]
    more = f" and {len(problems) - NAMED:,} more" if len(problems) > NAMED else ""
    raise StorageError(
        f"The shards' outputs do not match the listing: {len(before):,} images were listed, {len(after):,} "
        f"came out: {'; '.join(map(' '.join, problems[:NAMED]))}{more}.",
        "Nothing was committed. Run again. If that does not help, a shard's output is missing or of another run.",
        code="images_do_not_match",
        where=problems[0][0],
    )


def _ids(path: Path) -> Ids:
    return ids_of(image_id(row["key"], row["version"]) for row in _rows(path))


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    return records.read_parquet(path, columns=["key", "version"])
