"""Runs on the cluster: start, look, wait, cancel, read what came out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from clipseg_kfp.cluster.api import Api, named
from clipseg_kfp.cluster.errors import ClusterError, ConflictError
from clipseg_kfp.cluster.packages import spec_of
from clipseg_kfp.cluster.parameters import declared
from clipseg_kfp.cluster.states import ENDS, state_of
from clipseg_kfp.cluster.tasks import Task, names_in, tasks_of

if TYPE_CHECKING:
    from clipseg_kfp.cluster.outputs import Artifact


@dataclass
class Run:
    """A run on the cluster; :meth:`refresh` reads it anew.

    Attributes:
        api: the backend.
        data: ``V2beta1Run`` as last read.
    """

    api: Api = field(repr=False)
    data: Any = field(repr=False)
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
    def tasks(self) -> list[Task]:
        """The pipeline's tasks in order, as last read."""
        return tasks_of(self.data, names_in(self.spec))

    @property
    def logs_hint(self) -> str:
        """The kubectl command that shows the logs of the run's pods."""
        where = f" -n {self.api.login.namespace}" if self.api.login.namespace else " -n kubeflow"
        failed = next((pod for task in self.tasks for pod in task.pods), "")
        if failed:
            return f"kubectl logs{where} {failed} -c main"
        return f"kubectl logs{where} -l pipeline/runid={self.id} -c main --tail=100 --prefix"

    def refresh(self, patience: float | None = None) -> Run:
        """Reads it anew; passing faults of the API are waited out for ``patience`` seconds."""
        self.data = self.api.read(self.api.runs.run_service_get_run, patience, run_id=self.id)
        return self

    def wait(
        self,
        timeout: float | None = None,
        *,
        check: bool = True,
        poll: float | None = None,
        on_change: Callable[[Run], None] | None = None,
    ) -> Run:
        """Waits until it has ended; an API that is away for some minutes is waited for.

        Args:
            timeout: seconds; ``None`` waits for ever.
            check: whether another end than success is an error.
            poll: seconds between looks; ``None`` takes 5.
            on_change: called with the run after every look.

        Raises:
            WaitTimeoutError: it has not ended in time; it goes on.
            RunError: it ended without success, and ``check`` is on.
            ClusterError: the API refused, or was away for too long.
        """
        from clipseg_kfp.cluster.waiting import wait

        wait(self, timeout, check=check, poll=poll, on_change=on_change)
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
        from clipseg_kfp.cluster.outputs import artifacts

        return artifacts(self, endpoint)

    def metrics(self, endpoint: str = "") -> dict[str, Any]:
        """The run's ``metrics.json`` from the bucket: counts, and IoU where there is ground truth.

        Args:
            endpoint: as for :meth:`artifacts`.

        Raises:
            NotFoundError: no committed results of this run are in its output.
            StorageError: the bucket cannot be read.
        """
        from clipseg_kfp.cluster.outputs import metrics

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
    return Run(api, api.write(api.runs.run_service_create_run, run=body), spec_of(version) or None)
