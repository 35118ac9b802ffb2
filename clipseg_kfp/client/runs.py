"""Runs on the cluster: start, get, wait, cancel, retry, read the results."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from itertools import count
from typing import TYPE_CHECKING, Any

from clipseg_kfp.client.api import Api, named
from clipseg_kfp.client.errors import ClusterError, ConflictError, NotFoundError
from clipseg_kfp.client.nodes import tasks_in
from clipseg_kfp.client.packages import Recipe, declared, spec_of
from clipseg_kfp.client.parameters import checked_values
from clipseg_kfp.client.stores import open_place
from clipseg_kfp.client.tasks import ENDS, Task, state_of, tasks_of, why_not_told
from clipseg_kfp.client.upload import DEFAULT_PIPELINE, read_version
from clipseg_kfp.errors import ParameterError, StorageError
from clipseg_kfp.options import value_of

if TYPE_CHECKING:
    from clipseg_kfp.client.client import Client
    from clipseg_kfp.client.logs import Log
    from clipseg_kfp.client.outputs import Artifact
    from clipseg_kfp.results.plan import Progress


DEFAULT_EXPERIMENT = "Default"


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
                    self._spec = spec_of(
                        read_version(self.api, reference.pipeline_id, reference.pipeline_version_id)
                    )
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


@dataclass(frozen=True)
class Round:
    """A run that succeeded, among several over one source.

    Attributes:
        run: the run.
        counts: of its images, from its manifest.
        left: images that are left for other runs; 0 after the last.
    """

    run: Run
    counts: dict[str, int]
    left: int


class Runs:
    """The runs of a namespace: ``client.runs``."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def start(
        self,
        pipeline: Any = DEFAULT_PIPELINE,
        parameters: Mapping[str, Any] | None = None,
        *,
        recipe: Recipe | None = None,
        version: str = "",
        experiment: str = DEFAULT_EXPERIMENT,
        name: str = "",
        service_account: str = "",
        pipeline_root: str = "",
    ) -> Run:
        """Starts a run; nothing is sent unless the parameters fit.

        Args:
            pipeline: name on the cluster, a YAML file, or what ``client.version`` returned.
            parameters: by name; the others keep their defaults.
            recipe: the named pipeline is compiled with it and uploaded first.
            version: name of the version; empty takes the newest.
            experiment: is created if it does not exist.
            name: of the run; empty takes the pipeline's and the time.
            service_account: Kubernetes service account of its pods; empty takes Kubeflow's.
            pipeline_root: where Kubeflow puts artifacts between tasks; empty takes Kubeflow's.

        Raises:
            ParameterError: a parameter is unknown, missing or of the wrong type.
            ClusterError: the backend refused or failed.
        """
        import kfp_server_api as server

        api, namespace = self._client.api, self._client.namespace
        found = self._client.version(pipeline, recipe, version=version)
        spec = spec_of(found)
        values = checked_values(found, parameters or {})
        title = spec.get("pipelineInfo", {}).get("name", "run")
        body = server.V2beta1Run(
            display_name=name or f"{title} {datetime.now():%Y-%m-%d %H-%M-%S}",
            experiment_id=experiment_id(api, experiment, namespace),
            pipeline_version_reference=server.V2beta1PipelineVersionReference(
                pipeline_id=found.pipeline_id, pipeline_version_id=found.pipeline_version_id
            ),
            runtime_config=server.V2beta1RuntimeConfig(
                parameters=values, pipeline_root=pipeline_root or None
            ),
            service_account=service_account or None,
        )
        return Run(api, api.write(api.runs.run_service_create_run, run=body), _spec=spec or None)

    def until_done(
        self,
        pipeline: Any = DEFAULT_PIPELINE,
        parameters: Mapping[str, Any] | None = None,
        *,
        recipe: Recipe | None = None,
        version: str = "",
        endpoint: str = "",
        timeout: float | None = None,
        wait: Callable[[Run, float | None], Any] = Run.wait,
        on_round: Callable[[Round], None] | None = None,
        name: str = "",
        **options: Any,
    ) -> list[Round]:
        """Starts runs one after the other until no images are left, and waits for each.

        A run takes a limited number of images (see docs/results.md). What it leaves is read from its results, so
        their bucket must be reachable from here.

        Args:
            pipeline: as for :meth:`start`.
            parameters: by name; ``outputs.run_id`` must be empty.
            recipe: as for :meth:`start`.
            version: as for :meth:`start`.
            endpoint: URL of the S3 endpoint as seen from here; empty takes ``S3_ENDPOINT``.
            timeout: seconds for all runs together; ``None`` means no limit.
            wait: called with each run and the seconds that are left; raises unless the run succeeded.
            on_round: called with every run that succeeded.
            name: of the runs; from the second on with a number.
            options: ``experiment``, ``service_account``, ``pipeline_root``.

        Returns:
            The runs with their counts.

        Raises:
            RunError: a run ended without success; none is started after it.
            WaitTimeoutError: the latest run has not ended in time; it goes on.
            NoProgressError: images are left, and the last run did none.
            StorageError: the results cannot be read from here. If that shows at once, nothing was started.
            NotFoundError: a run that succeeded has committed nothing.
            ParameterError: as for :meth:`start`, or ``outputs.run_id`` is set.
            ClusterError: the backend refused or failed.
        """
        from clipseg_kfp.client import outputs
        from clipseg_kfp.results.until_done import Rest

        end = None if timeout is None else time.monotonic() + timeout
        found = self._client.version(pipeline, recipe, version=version)
        given = dict(parameters or {})
        whole = {known: one.default for known, one in declared(spec_of(found)).items()} | given
        _check_repeatable(whole, endpoint)
        rest = Rest(bool(value_of(whole, "limits.full")))
        rounds: list[Round] = []
        for number in count(1):
            title = f"{name} {number}" if name and number > 1 else name
            run = self.start(found, given, name=title, **options)
            run.endpoint = endpoint
            wait(run, None if end is None else max(0.0, end - time.monotonic()))
            counts = dict(outputs.results(run, endpoint).manifest["counts"])
            rounds.append(Round(run, counts, rest.after(counts)))
            if on_round is not None:
                on_round(rounds[-1])
            if not rounds[-1].left:
                break
        return rounds

    def get(self, run: str) -> Run:
        """A run by its ID, or the newest of that name.

        Raises:
            NotFoundError: there is none.
        """
        api = self._client.api
        try:
            return Run(api, api.read(api.runs.run_service_get_run, run_id=run))
        except NotFoundError:
            for found in self._pages(filter=named(run)):
                if found.name == run:
                    return found
            raise NotFoundError(
                f"There is no run '{run}'.", "See 'clipseg-kfp runs list'.", code="run_not_found", where=run
            ) from None

    def list(self, most: int = 20, experiment: str = "") -> list[Run]:
        """The newest runs, of all experiments or of one.

        Raises:
            NotFoundError: there is no such experiment.
        """
        if not experiment:
            return [*self._pages(most)]
        found = find_experiment(self._client.api, experiment, self._client.namespace)
        if found is None:
            raise NotFoundError(
                f"There is no experiment '{experiment}'.",
                "Look up its name in the UI.",
                code="experiment_not_found",
                where=experiment,
            )
        return [*self._pages(most, experiment_id=str(found.experiment_id))]

    def wait(self, run: str, timeout: float | None = None, **options: Any) -> Run:
        """Waits for a run, given by ID or name; see :meth:`Run.wait`."""
        return self.get(run).wait(timeout, **options)

    def cancel(self, run: str) -> Run:
        """Cancels a run, given by ID or name; see :meth:`Run.cancel`."""
        return self.get(run).cancel()

    def retry(self, run: str) -> Run:
        """Starts the failed tasks of a run again; see :meth:`Run.retry`."""
        return self.get(run).retry()

    def logs(
        self, run: str, task: str = "", shard: int | None = None, *, drivers: bool = False
    ) -> Iterator[Log]:
        """Streams the logs of a run, given by ID or name; see :meth:`Run.logs`."""
        return self.get(run).logs(task, shard, drivers=drivers)

    def _pages(self, most: int = 0, **more: Any) -> Iterator[Run]:
        api = self._client.api
        where = {} if "experiment_id" in more else {"namespace": self._client.namespace}
        for data in api.pages(
            api.runs.run_service_list_runs, "runs", most, sort_by="created_at desc", **where, **more
        ):
            yield Run(api, data)


def _check_repeatable(parameters: Mapping[str, Any], endpoint: str) -> None:
    from clipseg_kfp.results.commit import configurations

    if used := value_of(parameters, "outputs.run_id"):
        raise ParameterError(
            f"outputs.run_id is '{used}', but each of several runs needs a name of its own.",
            "Leave it empty: every run is named by its ID.",
            code="run_id_repeats",
            where="outputs.run_id",
        )
    output = str(parameters.get("output_uri") or "")
    if not output:
        raise ParameterError(
            "The pipeline has no parameter output_uri: it is not one of this project's.",
            "Start its runs without --until-done.",
            code="pipeline_foreign",
            where="output_uri",
        )
    try:
        configurations(open_place(parameters, output, endpoint))
    except (StorageError, ParameterError) as error:
        raise type(error)(
            f"The results say how many images are left, and they cannot be read from here: {error.message}",
            f"{error.remedy} Nothing was started; without --until-done, start one run after the other.".strip(),
            code=error.code,
            where=error.where,
        ) from error


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
            code="experiment_archived",
            where=name,
        )
    return str(experiment.experiment_id)
