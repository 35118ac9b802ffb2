"""Runs on the cluster: start, look, wait, cancel, read what came out."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from clipseg_kfp.client.api import Api, named
from clipseg_kfp.client.errors import ClusterError, ConflictError
from clipseg_kfp.client.nodes import tasks_in
from clipseg_kfp.client.packages import spec_of
from clipseg_kfp.client.parameters import declared
from clipseg_kfp.client.states import ENDS, state_of
from clipseg_kfp.client.tasks import Task, tasks_of, why_not_told

if TYPE_CHECKING:
    from clipseg_kfp.client.logs import Log
    from clipseg_kfp.client.outputs import Artifact
    from clipseg_kfp.results.plan import Progress


@dataclass
class Run:
    """A run on the cluster; :meth:`refresh` reads it anew.

    Attributes:
        api: the backend.
        data: ``V2beta1Run`` as last read.
        endpoint: URL of the S3 endpoint as seen from here; empty takes ``S3_ENDPOINT``.
        artifact_store: where Kubeflow keeps logs; empty takes ``KFP_ARTIFACT_STORE``, or else ``s3://mlpipeline``.
    """

    api: Api = field(repr=False)
    data: Any = field(repr=False)
    endpoint: str = field(default="", repr=False)
    artifact_store: str = field(default_factory=lambda: os.environ.get("KFP_ARTIFACT_STORE", ""), repr=False)
    _spec: dict[str, Any] | None = field(default=None, repr=False)

    @property
    def id(self) -> str:
        """The run's ID."""
        return str(self.data.run_id)

    @property
    def name(self) -> str:
        """The name that the UI shows."""
        return str(self.data.display_name)

    @property
    def state(self) -> str:
        """PENDING, RUNNING, SUCCEEDED, FAILED, CANCELED, …, as last read."""
        return state_of(self.data)

    @property
    def ended(self) -> bool:
        """Whether it will not change any more."""
        return self.state in ENDS

    @property
    def url(self) -> str:
        """The run in the Kubeflow UI."""
        return f"{self.api.login.links}/#/runs/details/{self.id}"

    @property
    def created(self) -> datetime | None:
        """When it was made."""
        value = self.data.created_at
        return value if isinstance(value, datetime) else None

    @property
    def error(self) -> str:
        """What the backend says went wrong; often empty."""
        return str(self.data.error.message or "") if self.data.error else ""

    @property
    def spec(self) -> dict[str, Any]:
        """The pipeline specification that it runs; empty where the version was deleted."""
        if self._spec is None:
            self._spec = spec_of(self.data)
            reference = self.data.pipeline_version_reference
            if not self._spec and reference and reference.pipeline_version_id:
                try:
                    version = self.api.read(
                        self.api.pipelines.pipeline_service_get_pipeline_version,
                        pipeline_id=reference.pipeline_id,
                        pipeline_version_id=reference.pipeline_version_id,
                    )
                    self._spec = spec_of(version)
                except ClusterError:  # its version was deleted, or is not ours to see: the run is still shown
                    self._spec = {}
        return self._spec

    @property
    def parameters(self) -> dict[str, Any]:
        """All parameters: what was given, and the defaults of the others."""
        config = self.data.runtime_config
        given = dict((config.parameters if config else None) or {})
        return {name: one.default for name, one in declared(self.spec).items()} | given

    @property
    def namespace(self) -> str:
        """Where its pods are: the login's namespace, or Kubeflow's own where users are not kept apart."""
        return self.api.login.namespace or "kubeflow"

    @property
    def tasks(self) -> list[Task]:
        """The pipeline's tasks in order, as last read; empty where the API's details are not fresh."""
        return [] if self.tasks_note else tasks_of(self.data, tasks_in(self.spec))

    @property
    def tasks_note(self) -> str:
        """Why there are no tasks to tell of; empty where there are."""
        return why_not_told(self.data)

    def progress(self) -> Progress | None:
        """How far it is, by what its steps have written into the results' bucket; ``None`` before they have.

        Raises:
            ParameterError: nothing says where the bucket is for this machine.
            StorageError: it cannot be read.
        """
        from clipseg_kfp.client.stores import open_from_here, place_of
        from clipseg_kfp.results.plan import read_progress

        output, name = place_of(self)
        return read_progress(open_from_here(self, output, self.endpoint), name) if output else None

    def logs(self, task: str = "", shard: int | None = None, *, drivers: bool = False) -> Iterator[Log]:
        """Streams what its pods have said, from Kubeflow's artifact store; of pods that have ended.

        Args:
            task: only this task's.
            shard: only this shard's, from 0.
            drivers: also those of Kubeflow's own pods that went well.

        Raises:
            NotFoundError: there is none.
            ParameterError: nothing says where the store is for this machine.
            StorageError: it cannot be read.
        """
        from clipseg_kfp.client.logs import logs

        return logs(self, task, shard, drivers=drivers)

    def refresh(self, patience: float | None = None) -> Run:
        """Reads it anew; passing faults of the API are waited out for ``patience`` seconds."""
        self.data = self.api.read(self.api.runs.run_service_get_run, patience, run_id=self.id)
        return self

    def wait(
        self,
        timeout: float | None = None,
        *,
        start_timeout: float | None = None,
        check: bool = True,
        poll: float | None = None,
        on_change: Callable[[Run], None] | None = None,
    ) -> Run:
        """Waits until it has ended; an API that is away for some minutes is waited for.

        Args:
            timeout: seconds; ``None`` waits for ever.
            start_timeout: seconds until the first pod of a task does something; ``None`` waits for ever. A pod whose
                image cannot be had never does, and the run says RUNNING all the time.
            check: whether another end than success is an error.
            poll: seconds between looks; ``None`` takes 5.
            on_change: called with the run after every look.

        Raises:
            StartTimeoutError: no pod of a task has begun in time; the run is not canceled.
            WaitTimeoutError: it has not ended in time; it goes on.
            RunError: it ended without success, and ``check`` is on.
            ClusterError: the API refused, or was away for too long.
        """
        from clipseg_kfp.client.wait import wait

        wait(self, timeout, start_timeout, check=check, poll=poll, on_change=on_change)
        return self

    def cancel(self) -> Run:
        """Asks the backend to end it; a run that has ended stays as it is."""
        if self.refresh().ended:
            return self
        try:
            self.api.read(self.api.runs.run_service_terminate_run, run_id=self.id)
        except ClusterError:
            if not self.refresh().ended:  # else it ended in between
                raise
        return self.refresh()

    def retry(self) -> Run:
        """Starts the failed tasks again, in the same run; what succeeded is kept."""
        self.api.write(self.api.runs.run_service_retry_run, run_id=self.id)
        return self.refresh()

    def artifacts(self, endpoint: str = "") -> list[Artifact]:
        """What came out: files of the committed run in the bucket, and artifacts that the API names.

        Args:
            endpoint: URL of the S3 endpoint as seen from here; empty takes ``S3_ENDPOINT``.
        """
        from clipseg_kfp.client.outputs import artifacts

        return artifacts(self, endpoint)

    def metrics(self, endpoint: str = "") -> dict[str, Any]:
        """The run's ``metrics.json`` from the bucket: counts, and IoU where there is ground truth.

        Args:
            endpoint: as for :meth:`artifacts`.

        Raises:
            NotFoundError: no committed results of this run are in its output.
            StorageError: the bucket cannot be read.
        """
        from clipseg_kfp.client.outputs import metrics

        return metrics(self, endpoint)


def find_experiment(api: Api, name: str, namespace: str) -> Any | None:
    """An experiment by name; ``None`` where there is none."""
    found = api.pages(
        api.experiments.experiment_service_list_experiments,
        "experiments",
        filter=named(name),
        namespace=namespace,
    )
    return next((one for one in found if one.display_name == name), None)


def experiment_id(api: Api, name: str, namespace: str) -> str:
    """The ID of an experiment, which is made where it is not there."""
    import kfp_server_api

    experiment = find_experiment(api, name, namespace)
    if experiment is None:
        body = kfp_server_api.V2beta1Experiment(display_name=name, namespace=namespace or None)
        try:
            experiment = api.write(api.experiments.experiment_service_create_experiment, experiment=body)
        except ConflictError:  # made by another in between
            experiment = find_experiment(api, name, namespace)
            if experiment is None:
                raise
    elif experiment.storage_state == "ARCHIVED":
        raise ConflictError(
            f"The experiment '{name}' is archived.",
            "Restore it in the UI, or name another with --experiment.",
        )
    return str(experiment.experiment_id)


def start(
    api: Api,
    version: Any,
    parameters: dict[str, Any],
    *,
    name: str,
    experiment: str,
    service_account: str = "",
    pipeline_root: str = "",
) -> Run:
    """Creates a run of a version.

    Args:
        api: the backend.
        version: ``V2beta1PipelineVersion``.
        parameters: checked.
        name: shown in the UI.
        experiment: ID of the experiment.
        service_account: Kubernetes service account of its pods; empty takes Kubeflow's.
        pipeline_root: where Kubeflow puts the artifacts between tasks; empty takes Kubeflow's.
    """
    import kfp_server_api

    body = kfp_server_api.V2beta1Run(
        display_name=name,
        experiment_id=experiment,
        pipeline_version_reference=kfp_server_api.V2beta1PipelineVersionReference(
            pipeline_id=version.pipeline_id, pipeline_version_id=version.pipeline_version_id
        ),
        runtime_config=kfp_server_api.V2beta1RuntimeConfig(
            parameters=parameters, pipeline_root=pipeline_root or None
        ),
        service_account=service_account or None,
    )
    return Run(api, api.write(api.runs.run_service_create_run, run=body), _spec=spec_of(version) or None)
