"""A run's tasks as people know them: one row a task of the pipeline, however many nodes the engine has for it.

The API lists nodes of the workflow engine side by side, each with its attempts as further nodes named ``…(0)``.
It reads them from an object that the engine compresses once it is large; from then on they stand still, whatever
the run does. So they are shown only while nothing speaks against them.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

from clipseg_kfp.client.nodes import details_of, pod_of, workflow_of

SUCCEEDED, FAILED, CANCELED, SKIPPED = "SUCCEEDED", "FAILED", "CANCELED", "SKIPPED"
#: A run in one of these never changes again (but by ``retry``).
ENDS = (SUCCEEDED, FAILED, CANCELED, SKIPPED)
#: The worst decides what a row of several instances shows.
_ORDER = (FAILED, CANCELED, "CANCELING", "RUNNING", "PAUSED", "PENDING", SUCCEEDED, SKIPPED)
_ATTEMPT = re.compile(r"(?P<name>.+)\(\d+\)")
#: A pod that has not begun by then is worth a word; details of a loop that have not changed are not trusted.
QUIET = timedelta(minutes=2)
#: The engine looks every 10 s: what is newer than its nodes by more was not noted by it.
_BEHIND = timedelta(seconds=30)


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


@dataclass
class Task:
    """A task of the pipeline within a run.

    Attributes:
        name: as in the pipeline.
        states: how many of its instances (one a shard, in a loop) are in each state.
        instances: how many there are; in a loop, as far as the engine has begun with it.
        started: the first start.
        ended: the last end; ``None`` while one is going on.
    """

    name: str
    states: Counter[str] = field(default_factory=Counter)
    instances: int = 0
    started: datetime | None = None
    ended: datetime | None = None

    @property
    def state(self) -> str:
        """The state of the worst instance."""
        return next((state for state in _ORDER if self.states[state]), "PENDING")

    @property
    def done(self) -> int:
        """How many instances have nothing left to do."""
        return self.states[SUCCEEDED] + self.states[SKIPPED]

    @property
    def seconds(self) -> float | None:
        """From the first start to the last end, or to now."""
        if self.started is None:
            return None
        return ((self.ended or datetime.now(UTC)) - self.started).total_seconds()


def tasks_of(run: Any, order: dict[str, bool]) -> list[Task]:
    """Groups what a run reports by the pipeline's tasks, whether it is fresh or not.

    Args:
        run: ``V2beta1Run``.
        order: names of the pipeline's tasks, and whether they are in a loop; those not reported yet are pending.
    """
    details = [one for one in details_of(run) if one.display_name]
    if not order:  # a pipeline whose specification is not known
        workflow = workflow_of(run)
        names = {one.display_name.partition("(")[0]: False for one in details}
        order = {name: False for name in names if name != workflow and not _engine(name)}
    shards = max(
        (len(_children(one)) for one in details if one.display_name == "iteration-iterations"), default=0
    )
    found = {name: Task(name) for name in order}
    for name, nodes in _by_name(details).items():
        if name not in found:
            continue
        task = found[name]
        task.states.update(node_state(one) for one in nodes)
        task.started = min(filter(None, (_time(one.start_time) for one in nodes)), default=None)
        ends = [_time(one.end_time) for one in nodes]
        task.ended = max((end for end in ends if end), default=None) if all(ends) else None
    for name, task in found.items():
        task.instances = max(task.states.total(), shards if order[name] else 0)
        task.states["PENDING"] += task.instances - task.states.total()
        if not task.instances and state_of(run) in ENDS:  # not reached
            task.states[SKIPPED] += 1
    return list(found.values())


def why_not_told(run: Any, now: datetime | None = None) -> str:
    """Why the API's task details are not to be trusted; empty where they are plainly fresh."""
    details = [one for one in details_of(run) if one.display_name]
    state, states = state_of(run), {node_state(one) for one in details}
    if not details:
        return ""
    moved = max(map(_moved, details))
    still = f"The API's task details stand still since {moved:%H:%M:%S} UTC"
    if state in ENDS and not states <= set(ENDS):
        return f"{still}; what they say of tasks is not true."
    if was_retried(run) and states - {SUCCEEDED, SKIPPED}:
        return "The run was retried, and the API mixes task details of before and after."
    if state in ENDS or not any(one.display_name.startswith("iteration-") for one in details):
        return ""  # nodes are few until a loop begins, and are not compressed
    unnamed = [_moved(one) for one in details_of(run) if not one.display_name]
    if max(unnamed, default=moved) > moved + _BEHIND or (now or datetime.now(UTC)) > moved + QUIET:
        return f"{still}; they do in runs of several shards, whatever the shards do."
    return ""


def failed_pods(run: Any) -> list[str]:
    """Pods of tasks that failed, by their real names; the API tells IDs of nodes."""
    return [
        pod_of(child)
        for one in details_of(run)
        if one.display_name == "executor" and node_state(one) == FAILED
        for child in _children(one)
    ]


def pods_not_begun(run: Any, now: datetime | None = None) -> list[str]:
    """Pods of tasks that wait for their start for two minutes, by their real names."""
    details = details_of(run)
    since = (now or datetime.now(UTC)) - QUIET
    # Nodes do not tell their own ID, their parents do; a parent begins in the same second.
    late = {
        one.start_time
        for one in details
        if re.fullmatch(r"executor\(\d+\)", one.display_name or "")
        and node_state(one) == "PENDING"
        and (_time(one.start_time) or since) < since
    }
    return [
        pod_of(child)
        for one in details
        if one.display_name == "executor" and one.start_time in late and node_state(one) not in ENDS
        for child in _children(one)[-1:]
    ]


def has_begun(run: Any) -> bool:
    """Whether a pod of a task has done something; Kubeflow's own pods, which have another image, do not count."""
    return state_of(run) in ENDS or any(
        not one.display_name  # a pod's own report
        or (
            one.display_name.startswith("executor")
            and not _children(one)
            and node_state(one) not in ("PENDING", SKIPPED)
        )
        for one in details_of(run)
    )


def node_state(node: Any) -> str:
    """State of a node; one that has an end and no state was left out, since something before it failed."""
    return SKIPPED if not node.state and _time(node.end_time) else state_of(node)


def _by_name(details: list[Any]) -> dict[str, list[Any]]:
    """Nodes by name, without their attempts."""
    names: dict[str, list[Any]] = {}
    for one in details:
        names.setdefault(one.display_name, []).append(one)
    attempts = {name: match["name"] for name in names if (match := _ATTEMPT.fullmatch(name))}
    return {name: nodes for name, nodes in names.items() if attempts.get(name) not in names}


def _children(node: Any) -> list[str]:
    return [child.pod_name for child in node.child_tasks or [] if child.pod_name]


def _engine(name: str) -> bool:
    return (
        name in ("root", "executor")
        or name.endswith("-driver")
        or name.startswith(("iteration-", "for-loop-"))
    )


def _moved(node: Any) -> datetime:
    """When a node last changed."""
    times = [node.create_time, node.start_time, node.end_time]
    times += [one.update_time for one in node.state_history or []]
    return max(filter(None, map(_time, times)), default=datetime.min.replace(tzinfo=UTC))


def _time(value: Any) -> datetime | None:
    """A time of the API; the year 1970 or 1 stands for none."""
    if not isinstance(value, datetime) or value.year <= 1970:
        return None
    return value if value.tzinfo else value.replace(tzinfo=UTC)
