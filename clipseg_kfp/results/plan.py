"""The progress of a run, written to the bucket while it goes on: who can read the results can follow it there.

    runs/<run>/plan.<content>.json               from fetch_dataset: what there is to do, shard by shard
    runs/<run>/shards/<shard>.<content>.json     from postprocess_masks, after the shard's part: it is done

With the content in their names no object is overwritten with other bytes. The only time in them is the plan's own: a
shard was done when the store got its record. Of several plans (an attempt was killed and started again) the newest
counts, with the shards that were done since. No manifest names these files and no step reads them.
"""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from clipseg_kfp.errors import ObjectChangedError
from clipseg_kfp.naming import safe_segment
from clipseg_kfp.results.commit import READERS, Results, configurations
from clipseg_kfp.results.layout import MANIFEST, content_key, json_bytes, now, run_key
from clipseg_kfp.runtime.concurrency import ordered_map
from clipseg_kfp.storage import Entry, Folder

_PLAN = re.compile(r"plan\.[0-9a-f]{12}\.json")
_SHARD = re.compile(r"shards/(?P<shard>[^/]+)\.[0-9a-f]{12}\.json")
T = TypeVar("T")


@dataclass(frozen=True)
class PlannedShard:
    """A shard and how many images are in it."""

    name: str
    images: int


@dataclass(frozen=True)
class Plan:
    """What a run is about to do; counts are of images.

    Attributes:
        run: the run's name in the results.
        source_uri: what was listed.
        listed: what the run takes: ``skipped`` + ``taken_over`` + ``to_do`` + ``quarantined_before``.
        skipped: done by earlier committed runs.
        taken_over: done by an earlier attempt that was not committed; this run commits them.
        left: found as well, and left for the next run.
        to_do: in ``shards``.
        shards: in order; one without images where nothing is to do.
        created: when it was written, ISO 8601.
        quarantined_before: by earlier committed runs, and not tried again.
        ignored: objects that are no images to segment, by kind; ``None`` where a version did not count them.
    """

    run: str
    source_uri: str
    listed: int
    skipped: int
    taken_over: int
    left: int
    to_do: int
    shards: tuple[PlannedShard, ...]
    created: str = ""
    quarantined_before: int = 0
    ignored: dict[str, int] | None = None


@dataclass(frozen=True)
class FinishedShard:
    """A shard whose masks are all written.

    Attributes:
        shard: its name in the plan.
        images: that it had.
        done: images with masks.
        quarantined: images set aside.
        masks: that were written.
        part: key of its rows below the configuration's folder; empty where it has none.
        at: when the store got the record, in seconds since 1970; not in the record.
    """

    shard: str
    images: int
    done: int
    quarantined: int
    masks: int
    part: str
    at: float = 0.0


@dataclass(frozen=True)
class Progress:
    """The progress of a run.

    Attributes:
        config: digest of the configuration that the run belongs to.
        plan: the newest.
        planned_at: when the store got the plan, in seconds since 1970.
        finished: shards of the plan that are done, in its order.
        committed: whether the run's manifest is there.
    """

    config: str
    plan: Plan
    planned_at: float
    finished: tuple[FinishedShard, ...]
    committed: bool

    @property
    def images_done(self) -> int:
        """Images of finished shards, quarantined ones among them, and those that were taken over."""
        return self.plan.taken_over + sum(shard.images for shard in self.finished)


def write_plan(results: Results, plan: Plan) -> None:
    """Writes what a run is about to do; sets ``created``."""
    data = json_bytes({**asdict(plan), "created": now()})
    results.write(content_key(run_key(plan.run, "plan"), data, ".json"), data)


def write_finished(results: Results, run: str, shard: FinishedShard) -> None:
    """Writes that a shard is done; a repeated attempt writes the same bytes."""
    record = asdict(shard)
    del record["at"]
    data = json_bytes(record)
    results.write(content_key(run_key(run, f"shards/{safe_segment(shard.shard)}"), data, ".json"), data)


def is_progress(run: str, key: str) -> bool:
    """Says whether a key below the configuration's folder is a plan or a finished shard of a run."""
    name = key.removeprefix(run_key(run, ""))
    return any(pattern.fullmatch(name) for pattern in (_PLAN, _SHARD))


def read_progress(output: Folder, run: str) -> Progress | None:
    """Looks up the progress of a run.

    Args:
        output: the output prefix; the configuration that has the run is found there.
        run: its name in the results: its option ``outputs.run_id``, or else the ID that the backend gave it.

    Returns:
        ``None`` where no plan of the run is (still) there. Where several configurations have a run of this name, the
        one with the newest plan.

    Raises:
        StorageError: the output cannot be read.
    """
    runs = (_progress(Results(output, config), run) for config in configurations(output))
    return max((run for run in runs if run), key=lambda run: run.planned_at, default=None)


def _progress(results: Results, run: str) -> Progress | None:
    place = run_key(run, "")
    entries = {entry.key.removeprefix(place): entry for entry in results.folder.names(place)}
    plans = sorted((entry for name, entry in entries.items() if _PLAN.fullmatch(name)), key=_age)
    for entry in plans:
        plan = _read(results, entry, Plan)
        if plan is None:
            continue
        newest: dict[str, Entry] = {}
        for name, other in sorted(entries.items(), key=lambda item: _age(item[1]), reverse=True):
            if (match := _SHARD.fullmatch(name)) and other.modified >= entry.modified:
                newest[match["shard"]] = other
        chosen = (newest[name] for shard in plan.shards if (name := safe_segment(shard.name)) in newest)
        read = ordered_map(lambda entry: _finished(results, entry), chosen, READERS)
        finished = tuple(shard for shard in read if shard is not None)
        return Progress(results.config, plan, entry.modified, finished, MANIFEST in entries)
    return None


def _age(entry: Entry) -> tuple[float, str]:
    """Sorts the newest first; the key decides between two of the same time, so that all readers agree."""
    return -entry.modified, entry.key


def _finished(results: Results, entry: Entry) -> FinishedShard | None:
    shard = _read(results, entry, FinishedShard)
    return replace(shard, at=entry.modified) if shard else None


def _read(results: Results, entry: Entry, kind: type[T]) -> T | None:
    """What an object holds; ``None`` where it is gone, damaged or of another version."""
    with suppress(ObjectChangedError, ValidationError):
        return TypeAdapter(kind).validate_json(results.folder.read(entry.key))
    return None
