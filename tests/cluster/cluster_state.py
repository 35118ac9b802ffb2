"""What the stand-in for the Kubeflow Pipelines backend remembers, and the rules by which it changes.

Rules are those of the v2beta1 API server as its source states them: unique names, checked packages, checked
parameters, bounds of schedules, states that only move on. Every object is one of the official model classes.

Runs end, and tell of their nodes, as was recorded on a real backend (cluster_workflow.py).

What only a real backend would show, and this does not: whether a compiled package becomes pods that start (images,
quotas, secrets, node pools), when a schedule really fires (time zone, controller), Istio's and Dex's own pages,
RBAC beyond "this token has these namespaces", ML Metadata, and the time that anything takes.
"""

from __future__ import annotations

import json
import re
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import kfp_server_api as server
import yaml
from cluster_workflow import COMPRESSED_FROM, Workflow, report_of_a_pod
from google.protobuf import json_format
from kfp.pipeline_spec import pipeline_spec_pb2

ENDS = ("SUCCEEDED", "FAILED", "SKIPPED")  # a canceled run ends as FAILED
#: Where pods run in single-user mode.
POD_NAMESPACE = "kubeflow"
CRON = re.compile(r"^(@(yearly|annually|monthly|weekly|daily|midnight|hourly)|\S+( \S+){5})$")


#: gRPC's codes by the HTTP status that they become.
CODES = {400: 3, 401: 16, 403: 7, 404: 5, 409: 6, 500: 13}


class RefusedError(Exception):
    """An answer that is an error: what was asked for before its cause, and the cause alone in the details."""

    def __init__(self, status: int, message: str, before: str = "", detail: str = "") -> None:
        self.status, self.message = status, before + message
        self.code = CODES.get(status, 2)
        self.detail = detail or message
        super().__init__(self.message)

    def body(self) -> dict[str, Any]:
        """The JSON of the answer."""
        status = "type.googleapis.com/google.rpc.Status"
        detail = {"@type": status, "code": self.code, "message": self.detail}
        return {"code": self.code, "message": self.message, "details": [detail]}


@dataclass
class State:
    """Everything on the pretended cluster; ``ending`` is how runs will end, ``steps`` after how many looks."""

    multi_user: bool = False
    ending: str = "SUCCEEDED"
    steps: int = 3
    shards: int = 2
    fails: str = ""  # the task that fails where runs fail; empty takes the last
    unpullable: bool = False  # pods of tasks never start, and nothing in the API says so
    artifact_store: Path | None = None
    said: dict[str, str] = field(default_factory=dict)  # what a task prints when it fails
    frozen: dict[str, list[Any]] = field(default_factory=dict)
    version: str = "2.17.0"
    stuck: str = ""  # a node that the workflow engine takes for running after the end: no retry
    pipelines: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, Any] = field(default_factory=dict)
    experiments: dict[str, Any] = field(default_factory=dict)
    runs: dict[str, Any] = field(default_factory=dict)
    looks: dict[str, int] = field(default_factory=dict)
    endings: dict[str, str] = field(default_factory=dict)
    recurring: dict[str, Any] = field(default_factory=dict)
    _clock: datetime = field(default_factory=lambda: datetime.now(UTC) - timedelta(seconds=90))

    def now(self) -> datetime:
        """Moves on by a second each time, so that the newest is well defined."""
        self._clock += timedelta(seconds=1)
        return self._clock

    def need(self, kind: dict[str, Any], key: str, what: str) -> Any:
        if key not in kind:
            raise RefusedError(404, f"{what} {key} not found")
        return kind[key]

    # Pipelines and versions

    def create_pipeline(self, body: Any) -> Any:
        if not (body.name or body.display_name):
            raise RefusedError(400, "Pipeline's name is empty")
        name = body.name or body.display_name
        if any((one.name, one.namespace) == (name, body.namespace) for one in self.pipelines.values()):
            raise RefusedError(409, f"The name {name} already exists in namespace")
        body.pipeline_id, body.created_at, body.name = str(uuid.uuid4()), self.now(), name
        self.pipelines[body.pipeline_id] = body
        return body

    def upload_version(self, pipeline_id: str, name: str, description: str, text: str) -> Any:
        self.need(self.pipelines, pipeline_id, "Pipeline")
        if not name or len(name) > 127:
            raise RefusedError(400, "PipelineVersion.Name length must be 1 to 127")
        documents = list(yaml.load_all(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader)))
        try:
            spec = json_format.ParseDict(documents[0], pipeline_spec_pb2.PipelineSpec())
            for one in documents[1:]:
                json_format.ParseDict(one, pipeline_spec_pb2.PlatformSpec())
        except json_format.Error as error:
            raise RefusedError(400, f"invalid v2 pipeline spec: {error}") from None
        if spec.schema_version != "2.1.0" or not spec.pipeline_info.name or not spec.HasField("root"):
            raise RefusedError(400, "KFP only supports schema version 2.1.0 with a name and a root")
        same = [one for one in self.versions.values() if (one.pipeline_id, one.name) == (pipeline_id, name)]
        if same:
            raise RefusedError(409, "Failed to create a pipeline version")
        kept: Any = json_format.MessageToDict(spec)
        if len(documents) > 1:
            kept = {"pipeline_spec": kept, "platform_spec": documents[1]}
        version = server.V2beta1PipelineVersion(
            pipeline_id=pipeline_id,
            pipeline_version_id=str(uuid.uuid4()),
            name=name,
            display_name=name,
            description=description,
            created_at=self.now(),
            pipeline_spec=kept,
        )
        self.versions[version.pipeline_version_id] = version
        return version

    # Experiments

    def create_experiment(self, body: Any) -> Any:
        if self.multi_user and not body.namespace:
            raise RefusedError(
                400, "Invalid input error: Experiment's namespace cannot be empty in multi-user mode"
            )
        if any(
            (one.display_name, one.namespace) == (body.display_name, body.namespace)
            for one in self.experiments.values()
        ):
            raise RefusedError(409, f"Experiment {body.display_name} already exists")
        body.experiment_id, body.created_at = str(uuid.uuid4()), self.now()
        body.storage_state = "AVAILABLE"
        self.experiments[body.experiment_id] = body
        return body

    # Runs

    def _checked(self, body: Any, doing: str = "create a new run") -> dict[str, Any]:
        before = (
            f"Failed to {doing}: Failed to generate the ExecutionSpec: invalid pipeline job inputs: "
            "Invalid input error: "
        )
        spec = self._spec_of(body)
        declared = spec["root"].get("inputDefinitions", {}).get("parameters", {})
        given = (body.runtime_config.parameters if body.runtime_config else None) or {}
        kinds = {
            "STRING": str,
            "BOOLEAN": bool,
            "LIST": list,
            "STRUCT": dict,
            "NUMBER_INTEGER": (int, float),
            "NUMBER_DOUBLE": (int, float),
        }
        for name, value in given.items():
            if name not in declared:
                raise RefusedError(400, f"parameter(s) provided are not required by pipeline: {name}", before)
            kind = declared[name]["parameterType"]
            if not isinstance(value, kinds[kind]) or (isinstance(value, bool) and kind != "BOOLEAN"):
                raise RefusedError(400, f"input parameter {name} requires type {kind.lower()}", before)
            literals = declared[name].get("literals")
            if literals and value not in literals:
                allowed = " ".join(f'string_value:"{one}"' for one in literals)
                raise RefusedError(
                    400,
                    f'input parameter "{name}" value string_value:"{value}" does not match any of the allowed '
                    f"literal values: [{allowed}]",
                    before,
                )
        for name, one in declared.items():
            if name not in given and "defaultValue" not in one and not one.get("isOptional"):
                raise RefusedError(
                    400, f"parameter {name} is not optional, yet has neither default value", before
                )
        return spec

    def _spec_of(self, body: Any) -> Any:
        """The specification that comes along, as the plain SDK sends it, or that of an uploaded version."""
        if body.pipeline_spec is not None and not body.pipeline_version_reference:
            spec = body.pipeline_spec.get("pipeline_spec", body.pipeline_spec)
            try:
                json_format.ParseDict(spec, pipeline_spec_pb2.PipelineSpec())
            except json_format.Error as error:
                raise RefusedError(400, f"invalid v2 pipeline spec: {error}") from None
            return spec
        reference = body.pipeline_version_reference
        if not reference or not reference.pipeline_version_id or not reference.pipeline_id:
            raise RefusedError(400, "pipeline version reference needs pipeline_id and pipeline_version_id")
        version = self.need(self.versions, reference.pipeline_version_id, "PipelineVersion")
        if version.pipeline_id != reference.pipeline_id:
            raise RefusedError(400, "the version belongs to another pipeline")
        return version.pipeline_spec.get("pipeline_spec", version.pipeline_spec)

    def create_run(self, body: Any) -> Any:
        if not body.display_name:
            raise RefusedError(400, "The run name is empty")
        self.need(self.experiments, body.experiment_id, "Experiment")
        self._checked(body)
        body.run_id, body.created_at = str(uuid.uuid4()), self.now()
        body.storage_state = "AVAILABLE"
        self._becomes(body, "PENDING")
        self.runs[body.run_id] = body
        self.looks[body.run_id] = 0
        self.endings[body.run_id] = self.ending
        return body

    def look(self, run_id: str) -> Any:
        """Returns a run; each look finds it one step further."""
        run = self.need(self.runs, run_id, "Run")
        step = self.looks[run_id]
        self.looks[run_id] += 1
        if run.state in ENDS:
            return run
        if run.state == "CANCELING":
            self._becomes(run, "FAILED")  # as the real one ends those that were canceled
        elif step >= self.steps and self.endings[run_id] == "CANCELED":
            self.terminate(run_id)
        elif step >= self.steps:
            self._becomes(run, self.endings[run_id])
        elif step > 0:
            self._becomes(run, "RUNNING")
        if step:
            run.run_details = server.V2beta1RunDetails(task_details=self._details(run, step))
        return run

    def _becomes(self, run: Any, state: str) -> None:
        if run.state == state and run.state_history:
            return
        run.state = state
        run.finished_at = self.now() if state in ENDS else None
        now = server.V2beta1RuntimeStatus(update_time=self.now(), state=state)
        run.state_history = [*(run.state_history or []), now]

    def _details(self, run: Any, step: int) -> list[Any]:
        """What the API tells of the workflow's nodes: in large runs, and after a retry, what it once was."""
        workflow = Workflow(
            self._spec_of(run),
            run,
            self.shards,
            f"batch-segmentation-{run.run_id[:5]}",
            self.fails,
            self.unpullable,
        ).at(step, self.steps)
        if self.artifact_store:
            workflow.archive(self.artifact_store, self.said, POD_NAMESPACE)
        frozen = self.frozen.get(run.run_id)
        if frozen is not None:
            frozen.append(report_of_a_pod(run, self.now() + timedelta(minutes=len(frozen))))
            return list(frozen)
        if (self.shards >= COMPRESSED_FROM and workflow.in_loop and run.state not in ENDS) or (
            run.state in ENDS and run.state != "SUCCEEDED"  # it may be retried
        ):
            self.frozen[run.run_id] = list(workflow.details)
        return workflow.details

    def load(self, recorded: dict[str, Any], version: Any) -> Any:
        """Puts a run there as a real backend answered; its pipeline is ``version``."""
        details = recorded.pop("task_details")
        run = server.ApiClient(server.Configuration()).deserialize(
            SimpleNamespace(data=json.dumps({**recorded, "run_details": {"task_details": details}})),
            "V2beta1Run",
        )
        run.pipeline_version_reference.pipeline_id = version.pipeline_id
        run.pipeline_version_reference.pipeline_version_id = version.pipeline_version_id
        self.runs[run.run_id], self.looks[run.run_id] = run, 0
        if run.state not in ENDS:
            self.look = self.runs.__getitem__  # type: ignore[method-assign]  # it stays as it is
        return run

    def terminate(self, run_id: str) -> None:
        run = self.need(self.runs, run_id, "Run")
        if run.state in ENDS:
            raise RefusedError(400, f"Failed to terminate run {run_id}: it has ended")
        self._becomes(run, "CANCELING")

    def retry(self, run_id: str) -> None:
        run = self.need(self.runs, run_id, "Run")
        if run.state != "FAILED":
            raise RefusedError(400, f"Failed to retry run {run_id}: state {run.state}")
        if self.stuck:
            raise RefusedError(
                500,
                f"Failed to retry run {run_id}: InternalServerError: Workflow cannot be retried with node "
                f"{self.stuck} in Running phase: workflow cannot be retried",
                "Failed to retry a run: ",
                "Internal Server Error",
            )
        self._becomes(run, "RUNNING")
        self.looks[run_id], self.endings[run_id], self.fails = 1, "SUCCEEDED", ""

    # Recurring runs

    def create_recurring(self, body: Any) -> Any:
        owner = self.need(self.experiments, body.experiment_id, "Experiment").namespace or ""
        if body.namespace and body.namespace != owner:
            raise RefusedError(
                400,
                f"Experiment {body.experiment_id} belongs to namespace '{owner}' instead of '{body.namespace}'",
                "Failed to create a recurring run: Failed to create a recurring run due to invalid experimentId "
                "and namespace combination: Invalid input error: ",
            )
        self._checked(body, "create a recurring run")
        if not 1 <= int(body.max_concurrency or 0) <= 10:
            raise RefusedError(400, "The max concurrency of the recurring run is out of range. Support 1-10.")
        cron, periodic = body.trigger.cron_schedule, body.trigger.periodic_schedule
        if bool(cron) == bool(periodic):
            raise RefusedError(400, "one trigger is needed")
        if cron and not CRON.match(cron.cron or ""):
            raise RefusedError(
                400, "Schedule cron is not a supported format(https://godoc.org/github.com/robfig/cron)"
            )
        if periodic and int(periodic.interval_second or 0) < 1:
            raise RefusedError(400, "Found invalid period schedule interval")
        if body.mode not in ("ENABLE", "DISABLE"):
            raise RefusedError(400, f"no such mode: {body.mode}")
        body.namespace = owner or POD_NAMESPACE  # in single-user mode the experiment has none, and this has
        body.recurring_run_id, body.created_at = str(uuid.uuid4()), self.now()
        body.status = f"{body.mode}D"
        self.recurring[body.recurring_run_id] = body
        return body

    def switch(self, key: str, mode: str) -> None:
        one = self.need(self.recurring, key, "RecurringRun")
        one.mode, one.status = mode, f"{mode}D"

    def fire(self) -> list[Any]:
        """What the controller does when a time has come: a run of each that is enabled and has room."""
        started = []
        for one in self.recurring.values():
            going = [
                run
                for run in self.runs.values()
                if run.recurring_run_id == one.recurring_run_id and run.state not in ENDS
            ]
            if one.mode == "ENABLE" and len(going) < int(one.max_concurrency):
                body = server.V2beta1Run(
                    display_name=f"{one.display_name} {self.now():%H%M%S}",
                    experiment_id=one.experiment_id,
                    pipeline_version_reference=one.pipeline_version_reference,
                    runtime_config=one.runtime_config,
                    recurring_run_id=one.recurring_run_id,
                )
                started.append(self.create_run(body))
        return started
