"""The Python interface to a Kubeflow Pipelines backend."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any

from clipseg_kfp.client.api import named
from clipseg_kfp.client.errors import NotFoundError
from clipseg_kfp.client.packages import spec_of
from clipseg_kfp.client.repeating import Round, until_done
from clipseg_kfp.client.runs import Run, experiment_id, find_experiment, start
from clipseg_kfp.client.scheduling import Scheduling
from clipseg_kfp.client.session import DEFAULT_EXPERIMENT, DEFAULT_PIPELINE, SiteSettings
from clipseg_kfp.client.values import checked_values


class Client(Scheduling):
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

    def run(
        self,
        pipeline: str = DEFAULT_PIPELINE,
        parameters: Mapping[str, Any] | None = None,
        *,
        image: str = "",
        settings: SiteSettings = None,
        variant: str = "",
        gpu_image: str = "",
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
            image: uploads the named pipeline with this image first; without ``settings``, no site's are in it.
            settings: as for :meth:`upload`, as are the two next; with any of them it is uploaded first.
            variant: ``cpu`` or ``gpu``.
            gpu_image: container image of inference.
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
            self.version(
                pipeline,
                image=image,
                version=version,
                settings=settings,
                variant=variant,
                gpu_image=gpu_image,
            ),
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
        values = checked_values(version, parameters or {})
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

    def run_until_done(
        self,
        pipeline: str = DEFAULT_PIPELINE,
        parameters: Mapping[str, Any] | None = None,
        *,
        endpoint: str = "",
        timeout: float | None = None,
        on_change: Callable[[Run], None] | None = None,
        on_round: Callable[[Round], None] | None = None,
        image: str = "",
        settings: SiteSettings = None,
        variant: str = "",
        gpu_image: str = "",
        version: str = "",
        **options: str,
    ) -> list[Round]:
        """Starts runs one after the other until no images are left, and waits for each.

        A run takes what fits into it (see docs/results.md). What it leaves is read from its results, so their bucket
        must be reached from here.

        Args:
            pipeline: as for :meth:`run`.
            parameters: by name; ``run_id`` must be empty.
            endpoint: URL of the S3 endpoint as seen from here; empty takes ``S3_ENDPOINT``.
            timeout: seconds for all runs together; ``None`` waits for ever.
            on_change: called with the run after every look.
            on_round: called with every run that succeeded.
            image: as for :meth:`run`, as are all that follow.
            settings: of the site.
            variant: ``cpu`` or ``gpu``.
            gpu_image: container image of inference.
            version: of the pipeline.
            options: ``experiment``, ``name``, ``service_account``, ``pipeline_root``.

        Returns:
            The runs with their counts.

        Raises:
            RunError: a run ended without success; none is started after it.
            WaitTimeoutError: the latest run has not ended in time; it goes on.
            NoProgressError: images are left, and the last run did none.
            StorageError: the results cannot be read from here.
            ParameterError: as for :meth:`run`, or ``run_id`` is set.
            ClusterError: the backend refused or failed.
        """
        found = self.version(
            pipeline, image=image, version=version, settings=settings, variant=variant, gpu_image=gpu_image
        )
        end = None if timeout is None else time.monotonic() + timeout

        def wait(run: Run) -> None:
            run.wait(None if end is None else max(0.0, end - time.monotonic()), on_change=on_change)

        done = []
        for one in until_done(self, found, parameters or {}, wait, endpoint=endpoint, **options):
            done.append(one)
            if on_round is not None:
                on_round(one)
        return done

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
        """The newest runs; of one experiment, where it is named.

        Raises:
            NotFoundError: there is no such experiment.
        """
        if not experiment:
            return list(self._runs(most=most))
        found = find_experiment(self.api, experiment, self.namespace)
        if found is None:
            raise NotFoundError(f"There is no experiment '{experiment}'.", "Look for its name in the UI.")
        return list(self._runs(most=most, experiment_id=str(found.experiment_id)))

    def _runs(self, most: int, **more: Any) -> Iterator[Run]:
        where = {} if "experiment_id" in more else {"namespace": self.namespace}
        for data in self.api.pages(
            self.api.runs.run_service_list_runs, "runs", most, sort_by="created_at desc", **where, **more
        ):
            yield Run(self.api, data)
