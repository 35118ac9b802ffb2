"""Checks that every listed image came out once, and that not too many were set aside."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipseg_kfp import records
from clipseg_kfp.errors import ClipsegKfpError, ParameterError, StorageError
from clipseg_kfp.results.layout import image_id

NAMED = 5  # images that a message names for each reason


class QuarantineError(ClipsegKfpError):
    """More images were set aside than ``max_quarantined`` allows."""


def most_quarantined(value: str, listed: int) -> int | None:
    """The number of images that may be quarantined in a run.

    Args:
        value: ``max_quarantined``: a number of images ("20"), a share of the listed ones ("5%" or "0.05"),
            or nothing for no bound.
        listed: images of the run, skipped ones included: an hourly run over a bucket that is done takes the
            quarantined images only, and a share of those would always be all of them.

    Returns:
        ``None`` without a bound.

    Raises:
        ParameterError: it is neither.

    >>> most_quarantined("5%", 250), most_quarantined("0.1", 250), most_quarantined("7", 250)
    (12, 25, 7)
    """
    text = value.strip()
    if not text:
        return None
    try:
        if text.isdecimal():
            return int(text)
        share = float(text[:-1]) / 100 if text.endswith("%") else float(text)
    except ValueError:
        share = math.nan
    if not 0 <= share <= 1 or ("." not in text and "%" not in text):
        raise ParameterError(
            f"max_quarantined is {value!r}.",
            "Give a number of images (20), a share (5% or 0.05), or nothing for no bound.",
        )
    return math.floor(round(share * listed, 6))


@dataclass
class Quarantine:
    """Counts reasons of quarantined images, and remembers the first of each."""

    counts: Counter[str] = field(default_factory=Counter)
    first: dict[str, list[str]] = field(default_factory=dict)
    detail: str = ""

    def add(self, row: dict[str, Any]) -> None:
        """Takes a row of ``records.IMAGES``."""
        if row["status"] != "quarantined":
            return
        self.counts[row["reason"]] += 1
        self.detail = self.detail or row["detail"]
        keys = self.first.setdefault(row["reason"], [])
        if len(keys) < NAMED:
            keys.append(row["key"])

    def check(self, max_quarantined: str, listed: int, where: str = "") -> None:
        """Raises ``QuarantineError`` with all reasons where there are too many.

        Args:
            max_quarantined: see ``most_quarantined``.
            listed: images of the run.
            where: for the message, such as " of a shard".
        """
        most, found = most_quarantined(max_quarantined, listed), self.counts.total()
        if most is None or found <= most:
            return
        raise QuarantineError(
            f"{found:,} images{where} were quarantined; max_quarantined={max_quarantined} allows {most:,} "
            f"of {listed:,} listed. {self.reasons()}.",
            "Nothing was committed. Mend or remove these images, or raise max_quarantined.",
        )

    def check_readable(self, done: int, skipped: int) -> None:
        """Raises ``StorageError`` where the store refused all there was to do, and nothing was ever done.

        One image that the store refuses is that image's fault. When it is all of them it is the credentials,
        and a run that says "all quarantined" would hide it. What is refused again in later runs, over a
        bucket of which other images are done, stays in quarantine.
        """
        if not done and not skipped and self.counts and set(self.counts) == {"unreadable"}:
            raise StorageError(
                f"The store refused every image, {self.counts.total():,} of them. The first: {self.detail}",
                "Nothing was committed. Check the credentials' right to read the input.",
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
        listed: tables of ``records.SOURCES``, one a shard.
        reported: tables of ``records.IMAGES``, in any order.

    Raises:
        StorageError: an image is missing, came out twice or was never listed; it and its shard are named.
    """
    before, after = _sorted(listed), _sorted(reported)
    if len(before) == len(after) and bool((before == after).all()):
        return
    expected, found = (dict(zip(*np.unique(ids, return_counts=True), strict=True)) for ids in (before, after))
    problems = []
    for path, images in _named(listed):
        for key, id_ in images:
            surplus = found.get(id_, 0) - expected[id_]
            if surplus:
                problems.append(f"{key} of {path.stem} {'came out twice' if surplus > 0 else 'is missing'}")
    for _, images in _named(reported):
        problems += [f"{key} was never listed" for key, id_ in images if id_ not in expected]
    more = f" and {len(problems) - NAMED:,} more" if len(problems) > NAMED else ""
    raise StorageError(
        f"The shards' outputs do not match the listing: {len(before):,} images were listed, {len(after):,} "
        f"came out: {'; '.join(problems[:NAMED])}{more}.",
        "Nothing was committed. Run again; if it stays, a shard's output is missing or of another run.",
    )


def _sorted(tables: Iterable[Path]) -> NDArray[np.bytes_]:
    data = b"".join(image_id(row["key"], row["version"]) for path in tables for row in _rows(path))
    return np.sort(np.frombuffer(data, "S16"))


def _named(tables: Sequence[Path]) -> Iterator[tuple[Path, list[tuple[str, np.bytes_]]]]:
    for path in tables:
        ids = [(row["key"], image_id(row["key"], row["version"])) for row in _rows(path)]
        yield path, [(key, np.frombuffer(id_, "S16")[0]) for key, id_ in ids]


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    return records.read_parquet(path, columns=["key", "version"])
