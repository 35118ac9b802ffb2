"""A run's tasks as people know them: one row a task of the pipeline, however many pods it has.

The backend reports nodes of its workflow engine: drivers, executors, loops and their iterations beside the tasks.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from clipseg_kfp.cluster.states import CANCELED, FAILED, SKIPPED, SUCCEEDED, state_of

#: The worst decides what a row of several pods shows.
_ORDER = (FAILED, CANCELED, "CANCELING", "RUNNING", "PAUSED", "PENDING", SUCCEEDED, SKIPPED)

#: What the workflow engine appends to the name of a repeated node.
_INSTANCE = re.compile(r"\(\d+.*\)$", re.DOTALL)


@dataclass
class Task:
    """A task of the pipeline within a run.

    Attributes:
        name: as in the pipeline.
        states: how many of its instances (one a shard, in a loop) are in each state.
        started: the first start.
        ended: the last end; ``None`` while one is going on.
        errors: messages of those that failed.
        pods: names of the pods of those that failed.
    """

    name: str
    states: Counter[str] = field(default_factory=Counter)
    started: datetime | None = None
    ended: datetime | None = None
    errors: list[str] = field(default_factory=list)
    pods: list[str] = field(default_factory=list)

    @property
    def state(self) -> str:
        """The state of the worst instance."""
        return next((state for state in _ORDER if self.states[state]), "PENDING")

    @property
    def instances(self) -> int:
        """How many the backend has reported so far."""
        return sum(self.states.values())

    @property
    def seconds(self) -> float | None:
        """From the first start to the last end, or to now."""
        if self.started is None:
            return None
        return ((self.ended or datetime.now(UTC)) - self.started).total_seconds()


def tasks_of(run: Any, order: list[str]) -> list[Task]:
    """Groups what a run reports by the pipeline's tasks.

    Args:
        run: ``V2beta1Run``.
        order: names of the pipeline's tasks; those not reported yet are pending.
    """
    details = list((run.run_details.task_details if run.run_details else None) or [])
    if not order:  # a pipeline whose specification is not known
        order = list(
            dict.fromkeys(one.display_name for one in details if not _engine(one.display_name or ""))
        )
    found = {name: Task(name) for name in order}
    pods = {one.task_id: one.pod_name for one in details if one.pod_name}
    open_ends: set[str] = set()
    for one in details:
        task = found.get(_INSTANCE.sub("", one.display_name or ""))
        if task is None:
            continue
        state = state_of(one)
        task.states[state] += 1
        started, ended = _time(one.start_time or one.create_time), _time(one.end_time)
        if started and (task.started is None or started < task.started):
            task.started = started
        if ended is None:
            open_ends.add(task.name)
        elif task.ended is None or ended > task.ended:
            task.ended = ended
        if state == FAILED:
            if one.error and one.error.message:
                task.errors.append(one.error.message)
            children = [child.pod_name or pods.get(child.task_id) for child in one.child_tasks or []]
            task.pods += [pod for pod in (one.pod_name, *children) if pod]
    for name in open_ends:
        found[name].ended = None
    return list(found.values())


def names_in(spec: dict[str, Any]) -> list[str]:
    """Names of all tasks of a pipeline that run something, each after those it depends on."""
    components = spec.get("components", {})
    names: list[str] = []

    def walk(dag: dict[str, Any]) -> None:
        waiting = dict(dag.get("tasks", {}))
        done: set[str] = set()
        while waiting:
            ready = [key for key, task in waiting.items() if set(task.get("dependentTasks", ())) <= done]
            for key in ready or list(waiting):
                task = waiting.pop(key)
                done.add(key)
                inner = components.get(task.get("componentRef", {}).get("name", ""), {})
                if "dag" in inner:
                    walk(inner["dag"])
                else:
                    names.append(task.get("taskInfo", {}).get("name", key))

    walk(spec.get("root", {}).get("dag", {}))
    return list(dict.fromkeys(names))


def _engine(name: str) -> bool:
    return (
        name in ("root", "executor")
        or name.endswith(("-driver", "-executor"))
        or name.startswith("iteration-")
    )


def _time(value: Any) -> datetime | None:
    """A time of the API; the year 1970 or 1 stands for none."""
    if not isinstance(value, datetime) or value.year <= 1970:
        return None
    return value if value.tzinfo else value.replace(tzinfo=UTC)
