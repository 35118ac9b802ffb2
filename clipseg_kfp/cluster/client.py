"""The Python interface to a Kubeflow Pipelines backend."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from functools import cached_property
from typing import Any

from clipseg_kfp.cluster import schedules, uploading
from clipseg_kfp.cluster.api import Api, named
from clipseg_kfp.cluster.errors import NotFoundError
from clipseg_kfp.cluster.login import Login
from clipseg_kfp.cluster.packages import is_file, open_package, spec_of
from clipseg_kfp.cluster.parameters import Parameter, check, declared
from clipseg_kfp.cluster.runs import Run, experiment_id, start
from clipseg_kfp.cluster.timing import cron as six_fields
from clipseg_kfp.cluster.timing import seconds
from clipseg_kfp.cluster.uploading import Uploaded
from clipseg_kfp.errors import ParameterError

DEFAULT_PIPELINE = "batch-segmentation"
DEFAULT_EXPERIMENT = "Default"


class Client:
    """Uploads, runs and schedules the pipelines on a cluster.

        from clipseg_kfp import Client

        client = Client("https://kubeflow.example/pipeline", namespace="team-a")
        client.upload("batch-segmentation", image="registry.example/clipseg-kfp@sha256:…")
        run = client.run("batch-segmentation", {"source_uri": "s3://in/photos", "prompts": ["a cat"]})
        print(run.wait().metrics(), run.url)

    It stands on the official ``kfp.Client``. What only a real backend shows: whether pods start (images,
    quotas, secrets), how long things take, and what the site's proxies do to logins.

    Args:
        host: URL of the API; empty takes ``KFP_ENDPOINT``, and inside a cluster the service itself.
        namespace: the user's namespace in multi-user Kubeflow; empty takes ``KFP_NAMESPACE``.
        login: everything else about the way in, where the environment does not say it.

    Raises:
        ParameterError: no endpoint.
        LoginError: no login where one is begun.
    """

    def __init__(self, host: str = "", namespace: str = "", *, login: Login | None = None) -> None:
        given = login or Login()
        given = replace(given, host=host or given.host, namespace=namespace or given.namespace)
        self.login = given.resolved()
        self.api = Api(self.login)

    def __repr__(self) -> str:
        return f"Client({self.login.host!r}, namespace={self.login.namespace!r}, {self.login.way})"

    @cached_property
    def multi_user(self) -> bool:
        """Whether the backend keeps namespaces of users apart."""
        return bool(self.api.read(self.api.health.healthz_service_get_healthz).multi_user)

    @cached_property
    def namespace(self) -> str:
        """The namespace that calls name: the login's in multi-user Kubeflow, none elsewhere.

        Raises:
            ParameterError: the backend needs one, and none was given.
        """
        if not self.multi_user:
            return ""
        if not self.login.namespace:
            raise ParameterError(
                "This Kubeflow keeps users apart, and no namespace is given.",
                "Give --namespace or set KFP_NAMESPACE; the UI shows yours at the top.",
            )
        return self.login.namespace

    def upload(
        self,
        source: str = DEFAULT_PIPELINE,
        image: str = "",
        *,
        pipeline_name: str = "",
        version_name: str = "",
        shared: bool = False,
    ) -> Uploaded:
        """Uploads a pipeline, unless its content is there already.

        Args:
            source: ``batch-segmentation``, ``one-shot-segmentation`` or a compiled YAML file.
            image: container image of all components, for a name.
            pipeline_name: name on the cluster; empty takes the package's.
            version_name: empty derives it from the content.
            shared: in multi-user Kubeflow, for all users and not for the namespace only.

        Raises:
            ParameterError: no such pipeline or file.
            ClusterError: the backend refused or failed.
        """
        return uploading.upload(
            self.api,
            open_package(source, image),
            namespace="" if shared else self.namespace,
            pipeline_name=pipeline_name,
            version_name=version_name,
        )

    def version(self, pipeline: str = DEFAULT_PIPELINE, *, image: str = "", version: str = "") -> Any:
        """The version that a run or schedule takes.

        A YAML file, or a name with an image, is uploaded first; a name alone means the newest version on the
        cluster, or the one that ``version`` names.

        Returns:
            ``V2beta1PipelineVersion``.
        """
        if is_file(pipeline) or image:
            there = self.upload(pipeline, image)
            return self.api.read(
                self.api.pipelines.pipeline_service_get_pipeline_version,
                pipeline_id=there.pipeline_id,
                pipeline_version_id=there.version_id,
            )
        return uploading.find_version(self.api, pipeline, version, self.namespace)

    def parameters(self, pipeline: str = DEFAULT_PIPELINE) -> dict[str, Parameter]:
        """What the newest version of a pipeline on the cluster takes."""
        return declared(spec_of(self.version(pipeline)))

    def run(
        self,
        pipeline: str = DEFAULT_PIPELINE,
        parameters: Mapping[str, Any] | None = None,
        *,
        image: str = "",
        version: str = "",
        experiment: str = DEFAULT_EXPERIMENT,
        name: str = "",
        service_account: str = "",
        pipeline_root: str = "",
    ) -> Run:
        """Starts a run; nothing is sent before the parameters fit.

        Args:
            pipeline: name on the cluster, or a YAML file, which is uploaded first.
            parameters: by name; the others keep their defaults.
            image: uploads the named pipeline with this image first.
            version: of the pipeline; empty takes the newest.
            experiment: is made where it is not there.
            name: of the run; empty takes the pipeline's and the time.
            service_account: Kubernetes service account of its pods.
            pipeline_root: where Kubeflow puts artifacts between tasks.

        Raises:
            ParameterError: a parameter is unknown, missing or of the wrong type.
            ClusterError: the backend refused or failed.
        """
        return self.run_version(
            self.version(pipeline, image=image, version=version),
            parameters,
            experiment=experiment,
            name=name,
            service_account=service_account,
            pipeline_root=pipeline_root,
        )

    def run_version(
        self,
        version: Any,
        parameters: Mapping[str, Any] | None = None,
        *,
        experiment: str = DEFAULT_EXPERIMENT,
        name: str = "",
        service_account: str = "",
        pipeline_root: str = "",
    ) -> Run:
        """Starts a run of what :meth:`version` returned; arguments as for :meth:`run`."""
        spec = spec_of(version)
        values = check(declared(spec), parameters or {})
        title = spec.get("pipelineInfo", {}).get("name", "run")
        return start(
            self.api,
            version,
            values,
            name=name or f"{title} {datetime.now():%Y-%m-%d %H-%M-%S}",
            experiment=experiment_id(self.api, experiment, self.namespace),
            service_account=service_account,
            pipeline_root=pipeline_root,
        )

    def get_run(self, run: str) -> Run:
        """A run by its ID, or the newest of that name.

        Raises:
            NotFoundError: there is none.
        """
        try:
            return Run(self.api, self.api.read(self.api.runs.run_service_get_run, run_id=run))
        except NotFoundError:
            for found in self._runs(most=0, filter=named(run)):
                if found.name == run:
                    return found
            raise NotFoundError(f"There is no run '{run}'.", "See 'clipseg-kfp runs list'.") from None

    def runs(self, most: int = 20, experiment: str = "") -> list[Run]:
        """The newest runs; of one experiment, where it is named."""
        more = {"experiment_id": experiment_id(self.api, experiment, self.namespace)} if experiment else {}
        return list(self._runs(most=most, **more))

    def _runs(self, most: int, **more: Any) -> Iterator[Run]:
        where = {} if "experiment_id" in more else {"namespace": self.namespace}
        for data in self.api.pages(
            self.api.runs.run_service_list_runs, "runs", most, sort_by="created_at desc", **where, **more
        ):
            yield Run(self.api, data)

    def schedule(
        self,
        name: str,
        pipeline: str = DEFAULT_PIPELINE,
        parameters: Mapping[str, Any] | None = None,
        *,
        cron: str = "",
        every: str | int = "",
        start: datetime | None = None,
        end: datetime | None = None,
        catch_up: bool = False,
        max_concurrency: int = 1,
        enabled: bool = True,
        image: str = "",
        version: str = "",
        experiment: str = DEFAULT_EXPERIMENT,
        service_account: str = "",
        pipeline_root: str = "",
    ) -> schedules.Applied:
        """Makes the schedule of a name be so: creates it, changes it, or leaves it as it is.

        Args:
            name: of the schedule.
            pipeline: as for :meth:`run`. The schedule keeps the version that is the newest now.
            parameters: as for :meth:`run`.
            cron: five fields as in crontab, or six with seconds first; UTC unless the cluster says otherwise.
            every: instead, seconds or a duration such as ``6h``.
            start: no run before; empty starts at once.
            end: no run after.
            catch_up: make up for starts that were missed, one run each. Every run takes all new images,
                so there is nothing to make up for: leave it off.
            max_concurrency: runs at once, 1 to 10.
            enabled: whether it starts runs.
            image: as for :meth:`run`.
            version: as for :meth:`run`.
            experiment: of its runs.
            service_account: of their pods.
            pipeline_root: as for :meth:`run`.

        Raises:
            ParameterError: a parameter, the time or the concurrency does not fit.
            ConflictError: several schedules have the name.
        """
        return self.schedule_version(
            name,
            self.version(pipeline, image=image, version=version),
            parameters,
            cron=cron,
            every=every,
            start=start,
            end=end,
            catch_up=catch_up,
            max_concurrency=max_concurrency,
            enabled=enabled,
            experiment=experiment,
            service_account=service_account,
            pipeline_root=pipeline_root,
        )

    def schedule_version(
        self,
        name: str,
        version: Any,
        parameters: Mapping[str, Any] | None = None,
        *,
        cron: str = "",
        every: str | int = "",
        experiment: str = DEFAULT_EXPERIMENT,
        **more: Any,
    ) -> schedules.Applied:
        """Schedules what :meth:`version` returned; arguments as for :meth:`schedule`."""
        interval = seconds(str(every), "every") if every else 0
        when = six_fields(cron) if cron else ""
        values = check(declared(spec_of(version)), parameters or {})
        schedules.check(cron=when, every=interval, **more)
        wanted = schedules.body(
            name,
            experiment=experiment_id(self.api, experiment, self.namespace),
            pipeline_id=version.pipeline_id,
            version_id=version.pipeline_version_id,
            parameters=values,
            cron=when,
            every=interval,
            namespace=self.namespace,
            **more,
        )
        return schedules.apply(self.api, self.namespace, wanted)

    def update_schedule(
        self,
        name: str,
        parameters: Mapping[str, Any] | None = None,
        *,
        version: Any = None,
        cron: str = "",
        every: str | int = "",
        catch_up: bool | None = None,
        max_concurrency: int | None = None,
    ) -> schedules.Applied:
        """Changes what is given of a schedule and keeps the rest.

        Args:
            name: or ID of the schedule.
            parameters: those to change.
            version: from :meth:`version`; empty keeps the schedule's own.
            cron: as for :meth:`schedule`.
            every: as for :meth:`schedule`.
            catch_up: as for :meth:`schedule`.
            max_concurrency: as for :meth:`schedule`.
        """
        old = self.get_schedule(name)
        version = version or self.scheduled_version(old)
        values = check(declared(spec_of(version)), {**old.parameters, **(parameters or {})})
        wanted = schedules.changed(
            old,
            version=version,
            parameters=values,
            cron=six_fields(cron) if cron else "",
            every=seconds(str(every), "every") if every else 0,
            catch_up=catch_up,
            max_concurrency=max_concurrency,
        )
        return schedules.apply(self.api, self.namespace, wanted)

    def scheduled_version(self, schedule: schedules.Schedule) -> Any:
        """The version that a schedule runs.

        Raises:
            NotFoundError: it was deleted, or the schedule has none.
        """
        reference = schedule.data.pipeline_version_reference
        if not reference or not reference.pipeline_version_id:
            raise NotFoundError(
                f"The schedule '{schedule.name}' runs no uploaded version.", "Name one with --pipeline."
            )
        return self.api.read(
            self.api.pipelines.pipeline_service_get_pipeline_version,
            pipeline_id=reference.pipeline_id,
            pipeline_version_id=reference.pipeline_version_id,
        )

    def schedules(self) -> list[schedules.Schedule]:
        """All schedules, the newest first."""
        return list(schedules.listed(self.api, self.namespace))

    def get_schedule(self, name: str) -> schedules.Schedule:
        """A schedule by name or ID."""
        return schedules.find(self.api, self.namespace, name)

    def enable_schedule(self, name: str, enabled: bool = True) -> bool:
        """Enables or disables a schedule; returns whether that changed anything."""
        return schedules.switch(self.get_schedule(name), enabled)

    def delete_schedule(self, name: str) -> None:
        """Deletes a schedule; its runs stay."""
        schedules.delete(self.api, self.namespace, name)
