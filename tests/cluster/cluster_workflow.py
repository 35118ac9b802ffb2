"""The workflow engine (Argo) of the stand-in: nodes, pods and logs under the names that a real backend gives them.

Rules are those of a real Kubeflow Pipelines 2.17 with its stock settings; what was recorded there lies in
``recorded/``, and tests compare these nodes with it. Every node comes twice, as ``name`` and as its attempt
``name(0)``. The API tells no node's own ID; parents list those of their children as ``pod_name``.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import kfp_server_api as server

NEVER = datetime(1, 1, 1, tzinfo=UTC)
TOOK = timedelta(seconds=75)
#: From so many shards on, nodes are compressed, and task details stand still.
COMPRESSED_FROM = 3
HEADER = """\
I1130 17:34:11.393607      16 main.go:139] Setting log level to: '1'
[KFP Executor 2026-11-30 17:34:11,493 INFO]: Looking for component `{component}` in --component_module_path `/tmp/e.py`
[KFP Executor 2026-11-30 17:34:11,493 INFO]: Got executor_input:
{{
    "inputs": {{
        "parameterValues": {{
            "shard": "shard-{number:03d}"
        }}
    }}
}}
"""
WENT_WELL = """\
[{component}] took 3.7 s
[KFP Executor 2026-11-30 17:34:12,350 INFO]: Wrote executor output file to /tmp/output_metadata.json.
I1130 17:34:12.551062      16 launcher_v2.go:1230] ExecutorOutput: {{
  "parameterValues": {{
    "Output": []
  }}
}}
I1130 17:34:12.596769      16 launcher_v2.go:206] publish success.
"""


def node_id(workflow: str, name: str) -> str:
    """Argo's ID of a node."""
    return f"{workflow}-{_fnv(name)}"


def _fnv(name: str) -> int:
    value = 2166136261
    for byte in name.encode():
        value = (value ^ byte) * 16777619 % 2**32
    return value


@dataclass
class Pod:
    """A pod of a task; Kubeflow's drivers are pods as well, and have logs of their own."""

    task: str
    shard: int | None
    name: str
    state: str


@dataclass
class Workflow:
    """What the engine has of a run at one moment.

    Attributes:
        spec: the pipeline's.
        run: ``V2beta1Run``.
        shards: iterations of a loop.
        name: of the workflow.
        fails: the task that fails, in its first shard, where the run fails.
        unpullable: whether the image of tasks cannot be had: their pods stay pending.
    """

    spec: dict[str, Any]
    run: Any
    shards: int
    name: str
    fails: str = ""
    unpullable: bool = False
    details: list[Any] = field(default_factory=list)
    pods: list[Pod] = field(default_factory=list)

    def at(self, step: int, steps: int) -> Workflow:
        """Makes the nodes that are there after a step of so many."""
        order, state = self._order(self.spec["root"]["dag"]), self.run.state
        ended = state in ("SUCCEEDED", "FAILED")
        reached = len(order) if ended else max(1, len(order) * step // (steps + 1))
        if self.unpullable:
            reached = 1
        if state == "FAILED":
            holds = [self.fails == key or self.fails in self._inner(key).get("tasks", {}) for key in order]
            reached = holds.index(True) + 1 if True in holds else reached
        self._pod("", f"{self.name}(0).root-driver", "SUCCEEDED", None, "system-dag-driver")
        kids = []
        for number, key in enumerate(order):
            path = f"{self.name}(0).root(0)"
            now = "SUCCEEDED" if number < reached - 1 or state == "SUCCEEDED" else state
            if number < reached:
                kids.append(self._task(path, key, self._inner(key), "RUNNING" if now == "CANCELING" else now))
            elif ended:
                self._omitted(key, alone=bool(self._inner(key)))
        self._dag(f"{self.name}(0).root", state, kids)
        self._dag(self.name, state, [f"{self.name}(0).root"])
        return self

    @property
    def in_loop(self) -> bool:
        return any((one.display_name or "").startswith("iteration-") for one in self.details)

    def archive(self, store: Path, said: dict[str, str], namespace: str) -> None:
        """Puts the output of every pod that has ended into the artifact store."""
        for pod in self.pods:
            if pod.state in ("SUCCEEDED", "FAILED"):
                component = pod.task.replace("-", "_")
                text = HEADER.format(component=component, number=pod.shard or 0)
                if pod.state == "FAILED":
                    text += said.get(pod.task, "")
                else:
                    text += WENT_WELL.format(component=component)
                if "-driver-" in pod.name:
                    text = "I1130 17:34:11.393607      16 main.go:108] Driver\n"
                path = store / f"private-artifacts/{namespace}/{self.name}/{self.run.created_at:%Y/%m/%d}"
                (path / pod.name).mkdir(parents=True, exist_ok=True)
                (path / pod.name / "main.log").write_text(text, "utf-8")

    def _inner(self, key: str) -> dict[str, Any]:
        task = self.spec["root"]["dag"]["tasks"][key]
        found: dict[str, Any] = self.spec["components"][task["componentRef"]["name"]].get("dag", {})
        return found

    def _order(self, dag: dict[str, Any]) -> list[str]:
        order: list[str] = []
        tasks = dict(dag["tasks"])
        while tasks:
            key = next(key for key, one in tasks.items() if set(one.get("dependentTasks", ())) <= set(order))
            order.append(key)
            del tasks[key]
        return order

    def _task(self, path: str, key: str, inner: dict[str, Any], state: str, shard: int | None = None) -> str:
        """A task, or a loop over shards; returns its name."""
        own = f"{path}.{key}"
        if not inner:
            self._pod(key, f"{own}-driver", "SUCCEEDED", shard, "system-container-driver")
            pod = "PENDING" if self.unpullable and state == "RUNNING" else state
            self._dag(own, state, [self._pod(key, f"{own}(0).executor", pod, shard, "system-container-impl")])
            return own
        self._pod(key, f"{own}(0).iteration-driver", "SUCCEEDED", None, "system-dag-driver")
        iterations = []
        for number in range(self.shards):
            one = f"{own}(0).iteration-iterations({number}:{number})"
            self._pod(key, f"{one}(0).iteration-item-driver", "SUCCEEDED", number, "system-dag-driver")
            begun, kids = True, []
            for task in self._order(inner):
                now = state
                if state == "FAILED":
                    fails = number == 0 and task == (self.fails if self.fails in inner["tasks"] else task)
                    now = "FAILED" if fails else "SUCCEEDED"
                if begun:
                    kids.append(self._task(f"{one}(0).iteration-item(0)", task, {}, now, number))
                elif self.run.state == "FAILED":
                    self._omitted(task)
                begun = begun and now == "SUCCEEDED"
            whole = state if begun or state != "FAILED" else "FAILED"
            self._dag(f"{one}(0).iteration-item", whole, kids)
            self._dag(one, whole, [f"{one}(0).iteration-item"])
            iterations.append(one)
        self._node("iteration-iterations", state, iterations)
        self._dag(own, state, [f"{own}(0).iteration-iterations"])
        return own

    def _dag(self, name: str, state: str, kids: list[str]) -> None:
        shown = name.rpartition(".")[2]
        self._node(shown, state, [f"{name}(0)"])
        self._node(f"{shown}(0)", state, kids)

    def _pod(self, task: str, name: str, state: str, shard: int | None, template: str) -> str:
        shown = name.rpartition(".")[2]
        self._node(shown, "RUNNING" if state == "PENDING" else state, [f"{name}(0)"])
        self._node(f"{shown}(0)", state, [])
        pod = f"{self.name}-{template}-{_fnv(f'{name}(0)')}"
        self.pods.append(Pod(task, shard, pod, state))
        return name

    def _omitted(self, key: str, *, alone: bool = False) -> None:
        for name in [key] if alone else [f"{key}-driver", key]:
            node = self._node(name, "SUCCEEDED", [])
            node.state, node.start_time = None, node.end_time
            node.state_history[-1].state = None

    def _node(self, shown: str, state: str, kids: list[str]) -> Any:
        start = self.run.created_at
        end = start + TOOK if state in ("SUCCEEDED", "FAILED") else NEVER
        node = server.V2beta1PipelineTaskDetail(
            run_id=self.run.run_id,
            task_id=str(uuid.uuid4()),
            display_name=shown,
            create_time=start,
            start_time=start,
            end_time=end,
            state=state,
            state_history=[server.V2beta1RuntimeStatus(update_time=max(start, end), state=state)],
            child_tasks=[
                server.PipelineTaskDetailChildTask(pod_name=node_id(self.name, one)) for one in kids
            ],
        )
        self.details.append(node)
        return node


def report_of_a_pod(run: Any, at: datetime) -> Any:
    """What a pod reports itself reaches the API, compressed nodes or not: without a name and a state."""
    return server.V2beta1PipelineTaskDetail(
        run_id=run.run_id,
        task_id=str(uuid.uuid4()),
        create_time=at,
        start_time=at,
        end_time=at,
        execution_id=str(uuid.uuid4().int % 1000),
    )
