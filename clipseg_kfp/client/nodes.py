"""How the workflow engine (Argo) names what a run is made of, and whose a name is.

A node's name is its place in the pipeline: ``workflow(0).root(0).for-loop-1(0).iteration-iterations(2:2)(0).
iteration-item(0).segment-images(0).executor(0)``, with a ``(0)`` for the attempt at each level where the engine
repeats nodes, as it does by Kubeflow's own settings. IDs and pods carry only the FNV-1a hash of it:

    node ID    <workflow>-<hash>               what the API calls pod_name
    pod        <workflow>-<template>-<hash>    template: system-container-impl, system-container-driver, …

So whose pod it is can be told from the pipeline's specification alone, also when the pod is long gone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

#: Iterations of a loop and attempts of a pod that names are computed for.
ITERATIONS, ATTEMPTS = 256, 3
_POD = re.compile(r"(?P<workflow>.+)-(?:retry-)?system-(?P<kind>container-impl|[a-z-]*driver)-(?P<hash>\d+)")


@dataclass(frozen=True)
class Place:
    """Where in a pipeline a pod belongs.

    Attributes:
        task: name of the task.
        shard: number of the loop's iteration, from 0; ``None`` outside loops.
        attempt: 0, or more where the engine has started the pod again.
        driver: whether it is Kubeflow's pod that prepares the task, and not the task's own.
    """

    task: str
    shard: int | None
    attempt: int = 0
    driver: bool = False


def tasks_in(spec: dict[str, Any]) -> dict[str, bool]:
    """Names of all tasks that run something, each after those it depends on, and whether they are in a loop."""
    return {name: looped for name, looped, _ in _walk(spec, spec.get("root", {}).get("dag", {}), False)}


def _walk(spec: dict[str, Any], dag: dict[str, Any], looped: bool) -> Iterator[tuple[str, bool, Any]]:
    waiting, done = dict(dag.get("tasks", {})), set[str]()
    while waiting:
        ready = [key for key, task in waiting.items() if set(task.get("dependentTasks", ())) <= done]
        for key in ready or list(waiting):
            task = waiting.pop(key)
            done.add(key)
            inner = _component(spec, task).get("dag")
            if inner is None:
                yield key, looped, task
            else:
                yield from _walk(spec, inner, looped or _loops(task))


def places(spec: dict[str, Any], workflow: str) -> dict[int, Place]:
    """Every pod that a run of this specification may have, by the hash in its name."""
    found: dict[int, Place] = {}

    def pods(start: int, name: str, again: str, place: Place) -> None:
        for attempt in range(ATTEMPTS if again else 1):
            suffix = f"({attempt})" if again else ""
            found[fnv1a(name + suffix, start)] = Place(place.task, place.shard, attempt, place.driver)

    def walk(dag: dict[str, Any], start: int, again: str, shard: int | None) -> None:
        for key, task in dag.get("tasks", {}).items():
            if not _loops(task):
                pods(start, f".{key}-driver", again, Place(key, shard, driver=True))
            own, inner = fnv1a(f".{key}{again}", start), _component(spec, task).get("dag")
            if inner is None:
                pods(own, ".executor", again, Place(key, shard))
            elif not _loops(task):
                walk(inner, own, again, shard)
            else:
                pods(own, ".iteration-driver", again, Place(key, None, driver=True))
                for number in range(ITERATIONS):
                    one = fnv1a(f".iteration-iterations({number}:{number}){again}", own)
                    pods(one, ".iteration-item-driver", again, Place(key, number, driver=True))
                    walk(inner, fnv1a(f".iteration-item{again}", one), again, number)

    for again in ("(0)", ""):
        top = fnv1a(f"{workflow}{again}")
        pods(top, ".root-driver", again, Place("root", None, driver=True))
        walk(spec.get("root", {}).get("dag", {}), fnv1a(f".root{again}", top), again, None)
    return found


def fnv1a(text: str, start: int = 0x811C9DC5) -> int:
    """FNV-1a of 32 bits; ``start`` is the hash of what stands before."""
    value = start
    for byte in text.encode():
        value = ((value ^ byte) * 0x01000193) & 0xFFFFFFFF
    return value


def hash_of(name: str) -> int:
    """The hash at the end of a node ID or pod; -1 where there is none."""
    tail = name.rpartition("-")[2]
    return int(tail) if tail.isdigit() else -1


def pod_of(node_id: str) -> str:
    """The pod of an executor's node ID."""
    workflow, _, number = node_id.rpartition("-")
    return f"{workflow}-system-container-impl-{number}"


def is_driver(pod: str) -> bool:
    """Whether a pod is one of Kubeflow's own, by its name."""
    match = _POD.fullmatch(pod)
    return bool(match and match["kind"] != "container-impl")


def workflow_of(run: Any) -> str:
    """The workflow's name, from the node IDs that the API tells; empty while it tells none."""
    for detail in details_of(run):
        for child in detail.child_tasks or []:
            if child.pod_name and hash_of(child.pod_name) >= 0:
                return str(child.pod_name).rpartition("-")[0]
    return ""


def details_of(run: Any) -> list[Any]:
    """What the API reports of a run's nodes, those without a name as well."""
    return list((run.run_details.task_details if run.run_details else None) or [])


def _component(spec: dict[str, Any], task: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = spec.get("components", {}).get(task.get("componentRef", {}).get("name", ""), {})
    return found


def _loops(task: dict[str, Any]) -> bool:
    return "parameterIterator" in task or "artifactIterator" in task
