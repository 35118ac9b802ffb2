"""The Python interface to a Kubeflow Pipelines backend."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import Any

from clipseg_kfp.client import upload as uploads
from clipseg_kfp.client.api import Api
from clipseg_kfp.client.login import Login
from clipseg_kfp.client.packages import Parameter, Recipe, declared, is_file, open_package, spec_of
from clipseg_kfp.client.runs import Runs
from clipseg_kfp.client.schedules import Schedules
from clipseg_kfp.client.upload import DEFAULT_PIPELINE, Uploaded
from clipseg_kfp.errors import ParameterError


class Client:
    """Uploads, runs and schedules the pipelines on a cluster.

        from clipseg_kfp import Client, Recipe

        client = Client("https://kubeflow.example/pipeline", namespace="team-a")
        client.upload("batch-segmentation", Recipe("registry.example/clipseg-kfp@sha256:…"))
        run = client.runs.start("batch-segmentation", {"source_uri": "s3://in/photos", "prompts": ["a cat"]})
        print(run.wait().metrics(), run.url)

    It builds on the official ``kfp.Client``, which is there as ``client.api.kfp``.

    Args:
        host: URL of the API; empty takes ``KFP_ENDPOINT``, and inside a cluster the service itself.
        namespace: the user's namespace in multi-user Kubeflow; empty takes ``KFP_NAMESPACE``.
        login: everything else about the login that the environment does not give.

    Attributes:
        runs: start, get, list, follow, cancel and retry runs.
        schedules: create, change and delete recurring runs.

    Raises:
        ParameterError: there is no endpoint.
        LoginError: Dex refused the login.
    """

    def __init__(self, host: str = "", namespace: str = "", *, login: Login | None = None) -> None:
        given = login or Login()
        given = replace(given, host=host or given.host, namespace=namespace or given.namespace)
        self.login = given.resolved()
        self.api = Api(self.login)
        self.runs = Runs(self)
        self.schedules = Schedules(self)

    def __repr__(self) -> str:
        return f"Client({self.login.host!r}, namespace={self.login.namespace!r}, {self.login.way})"

    @cached_property
    def multi_user(self) -> bool:
        """Whether the backend separates users by namespace."""
        return bool(self.api.read(self.api.health.healthz_service_get_healthz).multi_user)

    @cached_property
    def namespace(self) -> str:
        """The namespace that API calls name: the login's in multi-user Kubeflow, otherwise empty.

        Raises:
            ParameterError: the backend needs one, and none was given.
        """
        if self.multi_user and not self.login.namespace:
            raise ParameterError(
                "This Kubeflow separates users by namespace, and no namespace is given.",
                "Give --namespace or set KFP_NAMESPACE; the UI shows yours at the top.",
                code="namespace_missing",
                where="namespace",
            )
        return self.login.namespace if self.multi_user else ""

    def upload(
        self,
        source: str = DEFAULT_PIPELINE,
        recipe: Recipe | None = None,
        *,
        pipeline_name: str = "",
        version_name: str = "",
        shared: bool = False,
    ) -> Uploaded:
        """Uploads a pipeline, unless the same content is already there.

        Args:
            source: ``batch-segmentation`` or another name of ``clipseg-kfp compile``, or a compiled YAML file.
            recipe: what a name is compiled with.
            pipeline_name: name on the cluster; empty takes the package's.
            version_name: empty derives it from the content.
            shared: in multi-user Kubeflow, for all users instead of the namespace.

        Raises:
            ParameterError: there is no such pipeline or file.
            ClusterError: the backend refused or failed.
        """
        package = open_package(source, recipe or Recipe())
        namespace = "" if shared else self.namespace
        return uploads.upload(
            self.api, package, namespace=namespace, pipeline_name=pipeline_name, version_name=version_name
        )

    def version(
        self, pipeline: Any = DEFAULT_PIPELINE, recipe: Recipe | None = None, *, version: str = ""
    ) -> Any:
        """The pipeline version that a run or schedule takes.

        A YAML file, or a name with a recipe, is uploaded first. A name alone means the newest version on the
        cluster, or the one that ``version`` names. What this method returned is returned as it is.

        Returns:
            ``V2beta1PipelineVersion``.

        Raises:
            ParameterError: both a package to upload and a version are given.
            NotFoundError: the cluster has no such pipeline or version.
        """
        if not isinstance(pipeline, str):
            return pipeline
        if not is_file(pipeline) and not recipe:
            return uploads.find_version(self.api, pipeline, version, self.namespace)
        if version:
            raise ParameterError(
                f"Both a package to upload and the version '{version}' are given.",
                "Leave out --pipeline-version, or name the pipeline alone.",
                code="version_and_package",
                where="version",
            )
        uploaded = self.upload(pipeline, recipe)
        return uploads.read_version(self.api, uploaded.pipeline_id, uploaded.version_id)

    def parameters(self, pipeline: str = DEFAULT_PIPELINE) -> dict[str, Parameter]:
        """What the newest version of a pipeline on the cluster takes, by name."""
        return declared(spec_of(self.version(pipeline)))
