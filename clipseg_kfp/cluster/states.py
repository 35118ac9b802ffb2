"""The states of runs and tasks, and the exit status that each end of a run has."""

from __future__ import annotations

SUCCEEDED, FAILED, CANCELED, SKIPPED = "SUCCEEDED", "FAILED", "CANCELED", "SKIPPED"
#: A run in one of these never changes again (but by ``retry``).
ENDS = (SUCCEEDED, FAILED, CANCELED, SKIPPED)

#: Exit status of ``wait``, ``watch`` and ``run --wait``; 1 is an error of the client, 2 wrong usage.
EXIT_STATUS = {SUCCEEDED: 0, FAILED: 3, CANCELED: 4, SKIPPED: 5}
EXIT_TIMEOUT = 6
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
    """State of a run or task; one that has not started has none yet."""
    state = str(getattr(thing, "state", None) or "PENDING").upper()
    if state == "RUNTIME_STATE_UNSPECIFIED":
        return "PENDING"
    return FAILED if state == "ERROR" else state
