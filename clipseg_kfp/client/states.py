"""The states of runs and tasks, and the exit status that each end of a run has."""

from __future__ import annotations

from itertools import pairwise

SUCCEEDED, FAILED, CANCELED, SKIPPED = "SUCCEEDED", "FAILED", "CANCELED", "SKIPPED"
#: A run in one of these never changes again (but by ``retry``).
ENDS = (SUCCEEDED, FAILED, CANCELED, SKIPPED)

#: Exit status of ``wait``, ``watch`` and ``run --wait``; 1 is an error of the client, 2 wrong usage.
EXIT_STATUS = {SUCCEEDED: 0, FAILED: 3, CANCELED: 4, SKIPPED: 5}
EXIT_TIMEOUT = 6
EXIT_NOT_STARTED = 7
EXIT_INTERRUPTED = 130

STYLES = {
    SUCCEEDED: "green",
    FAILED: "bold red",
    CANCELED: "yellow",
    SKIPPED: "dim",
    "RUNNING": "cyan",
    "PENDING": "dim",
}


def state_of(thing: object) -> str:
    """State of a run or task; one that has not started has none yet.

    The backend ends a canceled run as FAILED; that it was canceled stands in its history only.
    """
    state = str(getattr(thing, "state", None) or "PENDING").upper()
    if state == "RUNTIME_STATE_UNSPECIFIED":
        return "PENDING"
    if state not in (FAILED, "ERROR"):
        return state
    since_start = "".join(f"{one} " for one in history_of(thing)).rpartition("RUNNING ")[2]
    return CANCELED if "CANCELING" in since_start else FAILED


def history_of(thing: object) -> list[str]:
    """The states that a run or task has gone through."""
    return [str(one.state or "PENDING") for one in getattr(thing, "state_history", None) or []]


def was_retried(run: object) -> bool:
    """Whether a run was started again after it had ended."""
    states = history_of(run)
    return any(before in ENDS and after not in ENDS for before, after in pairwise(states))
