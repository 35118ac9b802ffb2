"""Waits for the end of a run, whatever the end is; kfp's own wait never recognizes a canceled run."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from clipseg_kfp.cluster.errors import RunError, UnavailableError, WaitTimeoutError
from clipseg_kfp.cluster.states import SUCCEEDED

if TYPE_CHECKING:
    from clipseg_kfp.cluster.runs import Run

#: An API that restarts, or a node that moves, is away for minutes; the run does not mind.
PATIENCE_SECONDS = 300.0
POLL_SECONDS = 5.0


def wait(
    run: Run,
    timeout: float | None,
    *,
    check: bool,
    poll: float | None,
    on_change: Callable[[Run], None] | None,
) -> None:
    """See :meth:`clipseg_kfp.cluster.runs.Run.wait`."""
    poll = POLL_SECONDS if poll is None else poll
    end = None if timeout is None else time.monotonic() + timeout
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
        if end is not None and time.monotonic() >= end:
            raise _timed_out(run, timeout)
        time.sleep(poll if end is None else max(0.0, min(poll, end - time.monotonic())))
    if check and run.state != SUCCEEDED:
        raise RunError(run.state, ended_badly(run), f"Logs: {run.logs_hint}")


def _timed_out(run: Run, timeout: float | None) -> WaitTimeoutError:
    return WaitTimeoutError(
        f"The run '{run.name}' has not ended after {timeout:g} s (last seen {run.state}); it goes on.",
        f"Come back with: clipseg-kfp runs watch {run.id}",
    )


def ended_badly(run: Run) -> str:
    """What is known of a run that did not succeed, on one line."""
    failed = [task for task in run.tasks if task.errors or task.state == "FAILED"]
    parts = [
        f"{task.name}: {' '.join(task.errors[0].split())[:300]}" if task.errors else f"{task.name} failed"
        for task in failed
    ]
    reason = "; ".join(parts) or " ".join(run.error.split())[:300]
    return f"The run '{run.name}' ended as {run.state}" + (f": {reason}." if reason else ".")
