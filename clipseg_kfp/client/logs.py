"""What pods of a run have said, from the artifact store: also when the pods are long gone.

The workflow engine archives each pod's whole output when it ends, as Kubeflow sets it up:

    private-artifacts/<namespace>/<workflow>/<year>/<month>/<day>/<pod>/main.log

Where it does not, the launcher has put the step's own output beside the task's artifacts:

    <pipeline root>/<pipeline>/<run>/<task>/<id>/executor-logs-<attempt>
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from clipseg_kfp.client.errors import NotFoundError
from clipseg_kfp.client.nodes import Place, hash_of, is_driver, places, tasks_in, workflow_of
from clipseg_kfp.client.stores import open_from_here
from clipseg_kfp.client.tasks import failed_pods
from clipseg_kfp.runtime.concurrency import ordered_map
from clipseg_kfp.storage import Entry, Folder

if TYPE_CHECKING:
    from clipseg_kfp.client.runs import Run

#: The bucket of Kubeflow's own store.
ARTIFACT_STORE = "s3://mlpipeline"
_READERS = 16
_EXECUTOR_LOG = re.compile(
    r"[^/]+/(?P<run>[^/]+)/(?P<task>[^/]+)/(?P<id>[^/]+)/executor-logs-(?P<attempt>\d+)"
)
#: Lines of kfp's executor and of the launcher, and the JSON that they print.
_NOISE = re.compile(
    r"^(?:\[KFP Executor |I\d{4} )(?:.*\{\n(?: .*\n)*\}\n?|.*\n?(?:\{\n(?: .*\n)*\}\n?)?)", re.MULTILINE
)
_COMPONENT = re.compile(r"Looking for component `(\w+)`")
_SHARD = re.compile(r'": "shard-(\d+)"')
_ERROR = re.compile(r"^error: (?:\w+: )?(.+)(?:\n  remedy: (.+))?", re.MULTILINE)
_TRACEBACK = re.compile(r"^Traceback \(most recent call last\):\n(?:[ \t].*\n|\n)+(\S.*)", re.MULTILINE)
_FATAL = re.compile(r"^F\d{4} \S+ +\d+ \S+\] (.+)", re.MULTILINE)


@dataclass(frozen=True)
class Log:
    """What one pod has said.

    Attributes:
        place: task, shard and attempt; the task is empty where it cannot be told.
        pod: its name; empty for an executor log, which does not tell.
        uri: where it lies.
        text: all of it.
    """

    place: Place
    pod: str
    uri: str
    text: str

    @property
    def own(self) -> str:
        """What the step itself has printed, and errors of the launcher."""
        return _NOISE.sub("", self.text)

    @property
    def failure(self) -> tuple[str, str] | None:
        """Why the pod failed, and the remedy, which may be empty; ``None`` where it did not."""
        if said := list(_ERROR.finditer(self.text)):
            return said[-1][1], said[-1][2] or ""
        fatal = list(_FATAL.finditer(self.text))
        if self.place.driver:
            return (fatal[-1][1], "") if fatal else None
        ended = "publish success." in self.text if self.pod else "Wrote executor output file" in self.text
        if ended and not fatal:
            return None
        if said := list(_TRACEBACK.finditer(self.text)):
            return said[-1][1], ""
        if fatal:
            return fatal[-1][1], ""
        return "It ended in the middle of its work, without a word.", (
            "It was killed or its node was lost: look whether memory ran out ('kubectl describe pod' says OOMKilled), "
            "and raise inference.memory_mb or inference_memory."
        )


@dataclass(frozen=True)
class _Found:
    key: str
    pod: str
    place: Place | None
    entry: Entry


def logs(run: Run, task: str = "", shard: int | None = None, *, drivers: bool = False) -> Iterator[Log]:
    """Streams what pods of a run have said, in the pipeline's order; of each, the last attempt.

    Args:
        run: the run.
        task: only this task's.
        shard: only this iteration's of a loop, from 0.
        drivers: also those of Kubeflow's own pods that went well; what failed is never left out.

    Raises:
        ParameterError: nothing says where the store is.
        NotFoundError: there are no logs, or none of this task and shard.
        StorageError: the store cannot be read.
    """
    order = {name: number for number, name in enumerate(tasks_in(run.spec))}
    if task and order and task not in order:
        raise NotFoundError(
            f"The run '{run.name}' has no task '{task}'.",
            f"Its tasks are {', '.join(order)}.",
            code="task_not_found",
            where=task,
        )
    store = open_from_here(run, run.artifact_store or ARTIFACT_STORE, run.endpoint)
    found = list(_archived(run, store)) or list(_beside_artifacts(run, store))
    wanted = [one for one in found if one.place is None or _asked(one.place, task, shard)]
    wanted.sort(
        key=lambda one: (
            (order.get(one.place.task, -1), -1 if one.place.shard is None else one.place.shard)
            if one.place
            else (len(order), 0),
            one.entry.modified,
        )
    )
    count = 0
    for log in ordered_map(lambda one: _read(store, one), wanted, _READERS):
        if _asked(log.place, task, shard) and (drivers or not log.place.driver or log.failure):
            count += 1
            yield log
    if not count:
        what = f" of {task or 'its tasks'}{'' if shard is None else f', shard {shard},'}" if found else ""
        raise NotFoundError(
            f"No logs{what} of the run '{run.name}' are below {store.uri}.",
            f"A pod's log comes there when it ends. Of pods that run: {kubectl_logs(run)}",
            code="logs_not_found",
            where=task,
        )


def kubectl_logs(run: Run) -> str:
    """The kubectl command that shows logs of a run, while its pods are there."""
    failed = failed_pods(run.data)
    if failed:
        return f"kubectl logs -n {run.namespace} {failed[0]} -c main"
    return f"kubectl logs -n {run.namespace} -l pipeline/runid={run.id} -c main --tail=100 --prefix"


def _asked(place: Place, task: str, shard: int | None) -> bool:
    return (not task or place.task == task) and (shard is None or place.shard == shard)


def _archived(run: Run, store: Folder) -> Iterator[_Found]:
    workflow = workflow_of(run.data)
    if not workflow:
        return
    known = places(run.spec, workflow)
    newest: dict[Place | str, _Found] = {}
    for entry in store.names(f"private-artifacts/{run.namespace}/{workflow}/"):
        folder, _, name = entry.key.rpartition("/")
        if name != "main.log":
            continue
        pod = folder.rpartition("/")[2]
        place = known.get(hash_of(pod)) or (Place("", None, driver=True) if is_driver(pod) else None)
        same = replace(place, attempt=0) if place and place.task else pod
        if same not in newest or newest[same].entry.modified <= entry.modified:
            newest[same] = _Found(entry.key, pod, place, entry)
    yield from newest.values()


def _beside_artifacts(run: Run, store: Folder) -> Iterator[_Found]:
    name = run.spec.get("pipelineInfo", {}).get("name", "")
    root = "v2/artifacts"
    own_root = str((run.data.runtime_config.pipeline_root if run.data.runtime_config else "") or "")
    if own_root.partition("://")[2].partition("/")[0] == store.uri.partition("://")[2].partition("/")[0]:
        root = own_root.partition("://")[2].partition("/")[2].strip("/") or root
    newest: dict[str, _Found] = {}
    for entry in store.names(f"{root}/{name}/{run.id}/"):
        match = _EXECUTOR_LOG.fullmatch(entry.key.removeprefix(f"{root}/"))
        if match:
            newest[match["id"]] = _Found(entry.key, "", None, entry)
    yield from newest.values()


def _read(store: Folder, found: _Found) -> Log:
    text = store.read(found.key).decode("utf-8", "replace")
    place = found.place
    if place is None:
        component, number = _COMPONENT.search(text), _SHARD.search(text)
        place = Place(component[1].replace("_", "-") if component else "", int(number[1]) if number else None)
    return Log(place, found.pod, store.locate(found.key), text)


@dataclass(frozen=True)
class Reason:
    """Why tasks of a run failed.

    Attributes:
        task: name of the task.
        shards: of which shards, where it is in a loop.
        message: what the step, or else Kubeflow's launcher, said last.
        remedy: what to do about it; may be empty.
    """

    task: str
    shards: tuple[int, ...]
    message: str
    remedy: str

    def __str__(self) -> str:
        shown = ", ".join(map(str, self.shards[:5])) + (", …" if len(self.shards) > 5 else "")
        return f"{self.task}{f' (shard {shown})' if shown else ''}: {self.message}"


def reasons(said: Iterable[Log]) -> list[Reason]:
    """Why a run failed, from its logs: a reason of several shards once."""
    same: dict[tuple[str, str, str], list[int]] = {}
    for log in said:
        failure = log.failure
        if failure:
            shards = same.setdefault((log.place.task, *failure), [])
            shards += [] if log.place.shard is None else [log.place.shard]
    return [Reason(task, tuple(shards), *said) for (task, *said), shards in same.items()]
