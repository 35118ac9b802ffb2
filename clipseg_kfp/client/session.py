"""A connection to a backend, and the pipelines on it: what the calls of the client stand on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from clipseg_kfp.client import upload as uploading
from clipseg_kfp.client.api import Api
from clipseg_kfp.client.login import Login
from clipseg_kfp.client.packages import Recipe, is_file, open_package, spec_of
from clipseg_kfp.client.parameters import Parameter, declared
from clipseg_kfp.client.upload import Uploaded
from clipseg_kfp.errors import ParameterError

DEFAULT_PIPELINE = "batch-segmentation"
DEFAULT_EXPERIMENT = "Default"
SiteSettings = Mapping[str, Any] | Path | str | None


class Session:
    """A login at a backend; arguments as for :class:`clipseg_kfp.client.Client`."""

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
        settings: SiteSettings = None,
        variant: str = "",
        gpu_image: str = "",
        pipeline_name: str = "",
        version_name: str = "",
        shared: bool = False,
    ) -> Uploaded:
        """Uploads a pipeline, unless its content is there already.

        Args:
            source: ``batch-segmentation`` or another name of ``clipseg-kfp compile``, or a compiled YAML file.
            image: container image of all components, for a name.
            settings: a site's settings, or the file that has them, for a name.
            variant: ``cpu`` or ``gpu``, for a name.
            gpu_image: container image of inference, for a name.
            pipeline_name: name on the cluster; empty takes the package's.
            version_name: empty derives it from the content.
            shared: in multi-user Kubeflow, for all users and not for the namespace only.

        Raises:
            ParameterError: no such pipeline or file.
            ClusterError: the backend refused or failed.
        """
        return uploading.upload(
            self.api,
            open_package(source, Recipe(image, settings, variant, gpu_image)),
            namespace="" if shared else self.namespace,
            pipeline_name=pipeline_name,
            version_name=version_name,
        )

    def version(
        self,
        pipeline: str = DEFAULT_PIPELINE,
        *,
        image: str = "",
        version: str = "",
        settings: SiteSettings = None,
        variant: str = "",
        gpu_image: str = "",
    ) -> Any:
        """The version that a run or schedule takes.

        A YAML file, or a name with an image, settings or a variant, is uploaded first; a name alone means the
        newest version on the cluster, or the one that ``version`` names.

        Returns:
            ``V2beta1PipelineVersion``.

        Raises:
            ParameterError: a version is named, and a package that would be another one.
            NotFoundError: no such pipeline or version on the cluster.
        """
        recipe = Recipe(image, settings, variant, gpu_image)
        if is_file(pipeline) or recipe:
            if version:
                raise ParameterError(
                    f"Both a package to upload and the version '{version}' are given.",
                    "Leave out --pipeline-version, or name the pipeline alone.",
                )
            there = self.upload(pipeline, image, settings=settings, variant=variant, gpu_image=gpu_image)
            return self.api.read(
                self.api.pipelines.pipeline_service_get_pipeline_version,
                pipeline_id=there.pipeline_id,
                pipeline_version_id=there.version_id,
            )
        return uploading.find_version(self.api, pipeline, version, self.namespace)

    def parameters(self, pipeline: str = DEFAULT_PIPELINE) -> dict[str, Parameter]:
        """What the newest version of a pipeline on the cluster takes."""
        return declared(spec_of(self.version(pipeline)))
