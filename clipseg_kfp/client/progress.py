"""How far a run is, from what its steps write into the results' bucket, and what to know while it is followed."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from clipseg_kfp.client.durations import duration
from clipseg_kfp.client.pods import why_waiting
from clipseg_kfp.client.tasks import pods_not_begun
from clipseg_kfp.dataset.ignored import ignored_text
from clipseg_kfp.errors import ClipsegKfpError

if TYPE_CHECKING:
    from clipseg_kfp.client.runs import Run
    from clipseg_kfp.results.plan import Progress

#: Seconds between looks into the bucket, and after one that failed.
_EVERY, _AFTER_FAULT = 10.0, 60.0


class Follower:
    """Tells what a run's own state does not; keeps what costs time for a while."""

    def __init__(self) -> None:
        self._progress, self._next_look = "", 0.0
        self._waiting: dict[str, list[str]] = {}

    def __call__(self, run: Run) -> list[str]:
        """Lines on shards and images, on task details that are not told, and on pods that do not start."""
        if time.monotonic() >= self._next_look:
            self._progress, pause = _told(run)
            self._next_look = time.monotonic() + pause
        return [line for line in (self._progress, run.tasks_note, *self._not_begun(run)) if line]

    def _not_begun(self, run: Run) -> list[str]:
        pods = [] if run.ended or run.tasks_note else pods_not_begun(run.data)
        if not pods:
            return []
        pod, where = pods[0], run.namespace
        if pod not in self._waiting:
            self._waiting[pod] = why_waiting(where, run.id)
        return [
            f"{len(pods)} pod(s) have not started for two minutes or more. Why: kubectl describe pod -n {where} {pod}",
            f"  or: kubectl get events -n {where} --field-selector involvedObject.name={pod}",
            *(f"  {line}" for line in self._waiting[pod]),
        ]


def _told(run: Run) -> tuple[str, float]:
    try:
        progress = run.progress()
    except ClipsegKfpError as error:
        return f"Shards and images are not told: {error.message}", _AFTER_FAULT
    return in_words(progress, run.ended) if progress else "", _EVERY


def in_words(progress: Progress, ended: bool = False) -> str:
    """Such as ``shards 12/24, images 1,200/2,400, 3.4 images/s, 5:52 left``; the time is an estimate."""
    plan, finished = progress.plan, progress.finished
    whole = plan.to_do + plan.taken_over
    parts = [f"shards {len(finished)}/{len(plan.shards)}", f"images {progress.images_done:,}/{whole:,}"]
    made = sum(shard.images for shard in finished)
    took = max((shard.at for shard in finished), default=0.0) - progress.planned_at
    if made and took > 0:
        parts.append(f"{made / took:.1f} images/s")
        if not ended and made < plan.to_do:
            parts.append(f"{duration((plan.to_do - made) * took / made)} left")
    if plan.left:
        parts.append(f"{plan.left:,} left for the next run")
    if plan.ignored:
        parts.append(ignored_text(plan.ignored))
    return ", ".join(parts)
