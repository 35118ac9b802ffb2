"""How far a run is, told in the bucket while it goes on: who reaches the results can follow it there.

    runs/<run>/plan.<content>.json               from fetch_dataset: what there is to do, shard by shard
    runs/<run>/shards/<shard>.<content>.json     from postprocess_masks, behind the shard's part: it is done

With the content in their names no object is ever overwritten with other bytes. They hold no times but the
plan's own: when a shard was done is when the store got its record. Of several plans (an attempt that was killed and
started again) the newest counts, and only with what was done since. No manifest names them and no step reads them:
where they are missing, nothing is known, and nothing else is lost.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from clipseg_kfp.errors import ObjectChangedError
from clipseg_kfp.naming import safe_segment
from clipseg_kfp.results.commit import READERS, Results, configurations
from clipseg_kfp.results.layout import MANIFEST, content_key, json_bytes, now, run_key
from clipseg_kfp.runtime.concurrency import ordered_map
from clipseg_kfp.storage import Entry, Folder

_PLAN = re.compile(r"plan\.[0-9a-f]{12}\.json")
_SHARD = re.compile(r"shards/(?P<shard>[^/]+)\.[0-9a-f]{12}\.json")


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
        listed: what the run takes: ``skipped`` + ``taken_over`` + ``to_do``.
        skipped: done by earlier committed runs.
        taken_over: done by an earlier attempt that was not committed; this run commits them.
        left: found as well, and left for the next run.
        to_do: in ``shards``.
        shards: in order; one without images where nothing is to do.
        created: when it was written, ISO 8601.
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
    """How far a run is.

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
    """Tells what a run is about to do; ``created`` is filled in."""
    data = json_bytes({**asdict(plan), "created": now()})
    results.write(content_key(run_key(plan.run, "plan"), data, ".json"), data)


def write_finished(results: Results, run: str, shard: FinishedShard) -> None:
    """Tells that a shard is done; a repeated attempt writes the same bytes."""
    record = asdict(shard)
    del record["at"]
    data = json_bytes(record)
    results.write(content_key(run_key(run, f"shards/{safe_segment(shard.shard)}"), data, ".json"), data)


def is_progress(run: str, key: str) -> bool:
    """Says whether a key below the configuration's folder is a plan or a finished shard of a run."""
    name = key.removeprefix(run_key(run, ""))
    return any(pattern.fullmatch(name) for pattern in (_PLAN, _SHARD))


def read_progress(output: Folder, run: str) -> Progress | None:
    """Looks up how far a run is.

    Args:
        output: the output prefix; the configuration that has the run is found there.
        run: its name in the results: its parameter ``run_id``, or else the ID that the backend gave it.

    Returns:
        ``None`` where no plan of the run is (still) there. Where several configurations have a run of this name, the
        one with the newest plan.

    Raises:
        StorageError: the output cannot be read.
    """
    found = (_progress(Results(output, config), run) for config in configurations(output))
    return max((one for one in found if one), key=lambda one: one.planned_at, default=None)


def _progress(results: Results, run: str) -> Progress | None:
    place = run_key(run, "")
    entries = {entry.key.removeprefix(place): entry for entry in results.folder.names(place)}
    plans = sorted((entry for name, entry in entries.items() if _PLAN.fullmatch(name)), key=_age)
    for entry in plans:
        value = _read(results, entry)
        try:
            shards = tuple(PlannedShard(**shard) for shard in value.pop("shards"))
            plan = Plan(**value, shards=shards)
        except (KeyError, TypeError):  # gone since, or of another version
            continue
        newest: dict[str, Entry] = {}
        for name, other in sorted(entries.items(), key=lambda item: _age(item[1]), reverse=True):
            if (match := _SHARD.fullmatch(name)) and other.modified >= entry.modified:
                newest[match["shard"]] = other
        chosen = (newest[name] for shard in shards if (name := safe_segment(shard.name)) in newest)
        finished = tuple(_finished(results, chosen))
        return Progress(results.config, plan, entry.modified, finished, MANIFEST in entries)
    return None


def _age(entry: Entry) -> tuple[float, str]:
    """For sorting, the newest first; the key decides between two of one instant, so that all readers agree."""
    return -entry.modified, entry.key


def _finished(results: Results, entries: Iterable[Entry]) -> Iterable[FinishedShard]:
    def read(entry: Entry) -> tuple[dict[str, Any], float]:
        return _read(results, entry), entry.modified

    for value, at in ordered_map(read, entries, READERS):
        try:
            yield FinishedShard(**value, at=at)
        except TypeError:
            continue


def _read(results: Results, entry: Entry) -> dict[str, Any]:
    """The object's JSON; empty where it is gone, or no JSON object."""
    try:
        value = json.loads(results.folder.read(entry.key))
    except (ObjectChangedError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
