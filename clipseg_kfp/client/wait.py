"""Waits for the end of a run, whatever the end is; kfp's own wait never recognizes a canceled run."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from clipseg_kfp.client.errors import (
    NotFoundError,
    RunError,
    StartTimeoutError,
    UnavailableError,
    WaitTimeoutError,
)
from clipseg_kfp.client.logs import Log, kubectl_logs, reasons
from clipseg_kfp.client.tasks import FAILED, SUCCEEDED, has_begun
from clipseg_kfp.errors import ClipsegKfpError

if TYPE_CHECKING:
    from clipseg_kfp.client.runs import Run

#: An API that restarts, or a node that moves, is away for minutes; the run does not mind.
PATIENCE_SECONDS = 300.0
POLL_SECONDS = 5.0
#: As measured on Kubeflow Pipelines 2.17: 25 shards of three tasks ended well, 37 did not.
SHARDS_THAT_FIT = 24


def wait(
    run: Run,
    timeout: float | None,
    start_timeout: float | None = None,
    *,
    check: bool,
    poll: float | None,
    on_change: Callable[[Run], None] | None,
) -> None:
    """See :meth:`clipseg_kfp.client.runs.Run.wait`."""
    poll = POLL_SECONDS if poll is None else poll
    begun = time.monotonic()
    end = None if timeout is None else begun + timeout
    while True:
        left = float("inf") if end is None else max(0.0, end - time.monotonic())
        try:
            run.refresh(patience=min(PATIENCE_SECONDS, left))
        except UnavailableError:
            if left > PATIENCE_SECONDS:
                raise
            raise _timed_out(run, timeout) from None
        if on_change is not None:
            on_change(run)
        if run.ended:
            break
        if start_timeout is not None and has_begun(run.data):
            start_timeout = None
        if start_timeout is not None and time.monotonic() >= begun + start_timeout:
            raise _not_started(run, start_timeout)
        if end is not None and time.monotonic() >= end:
            raise _timed_out(run, timeout)
        time.sleep(poll if end is None else max(0.0, min(poll, end - time.monotonic())))
    if check and run.state != SUCCEEDED:
        raise RunError(run.state, *ended_badly(run))


def _timed_out(run: Run, timeout: float | None) -> WaitTimeoutError:
    return WaitTimeoutError(
        f"The run '{run.name}' has not ended after {timeout:g} s (last seen {run.state}); it goes on.",
        f"Come back with: clipseg-kfp runs watch {run.id}",
        where=run.id,
    )


def _not_started(run: Run, seconds: float) -> StartTimeoutError:
    return StartTimeoutError(
        f"No pod of the run '{run.name}' has begun its work after {seconds:g} s; the run is {run.state} and goes on.",
        f"Why: kubectl describe pod -n {run.namespace} -l pipeline/runid={run.id}. "
        f"End it with: clipseg-kfp runs cancel {run.id}",
        where=run.id,
    )


def ended_badly(run: Run) -> tuple[str, str]:
    """Why a run did not succeed, as far as its logs tell, and what to do about it."""
    head = f"The run '{run.name}' ended as {run.state}"
    if run.state != FAILED:
        return f"{head}.", "Start a new run; it takes over the shards that are done."
    said: list[Log] = []
    try:
        said += run.logs()
    except NotFoundError:
        pass
    except ClipsegKfpError as error:
        failed = ", ".join(task.name for task in run.tasks if task.state == FAILED)
        head += f", in {failed}" if failed else ""
        return (
            f"{head}. Its logs cannot be read: {error.message}",
            f"{error.remedy} Or: {kubectl_logs(run)}".strip(),
        )
    found = reasons(said)
    more = f"Logs: clipseg-kfp runs logs {run.id}"
    if found:
        return f"{head}: {'; '.join(map(str, found))}", " ".join(
            [*dict.fromkeys(one.remedy for one in found if one.remedy), more]
        )
    return _without_a_word(run, head, said)


def _without_a_word(run: Run, head: str, said: list[Log]) -> tuple[str, str]:
    """What to say of a failed run whose logs have no error."""
    from clipseg_kfp.steps.sharding import MAX_SHARDS

    shards = max((log.place.shard + 1 for log in said if log.place.shard is not None), default=0)
    with suppress(ClipsegKfpError):
        progress = run.progress()
        shards = max(shards, len(progress.plan.shards) if progress else 0)
    if "too large" in run.error or (shards > SHARDS_THAT_FIT and run.tasks_note):
        return (
            f"{head}, and no log has an error: with {shards} shards, Kubeflow's record of the run most likely outgrew "
            "the 1 MB that Kubernetes holds for one object (Request entity too large).",
            f"A retry is refused then. Upload the pipeline of this version, whose runs take at most {MAX_SHARDS} "
            "shards and leave the rest for the next, and start a new run; it takes over the shards that were done.",
        )
    message = f"{head}: {' '.join(run.error.split())[:300]}" if run.error else f"{head}, and no log says why"
    return (
        f"{message}. A pod that was lost, or canceled before it began, leaves no log.",
        f"While its pods are there: kubectl describe pod -n {run.namespace} -l pipeline/runid={run.id}",
    )
