"""Brings packages to the cluster: a new pipeline, a new version, or nothing where the content is there already."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipseg_kfp.client.api import Api, named
from clipseg_kfp.client.errors import ConflictError, NotFoundError
from clipseg_kfp.client.packages import Package
from clipseg_kfp.errors import ParameterError

DEFAULT_PIPELINE = "batch-segmentation"
_DIGEST = "sha256:"


@dataclass(frozen=True)
class Uploaded:
    """What an upload did.

    Attributes:
        action: ``new pipeline``, ``new version`` or ``unchanged``.
        pipeline: name of the pipeline.
        version: name of the version.
        pipeline_id: its ID.
        version_id: the version's ID.
        url: of the version in the UI.
        newest: whether it is what a run takes that names no version.
        images: container images of its components.
    """

    action: str
    pipeline: str
    version: str
    pipeline_id: str
    version_id: str
    url: str
    newest: bool = True
    images: tuple[str, ...] = ()


def upload(
    api: Api, package: Package, *, namespace: str = "", pipeline_name: str = "", version_name: str = ""
) -> Uploaded:
    """Uploads a package once.

    The content's digest is part of the version's name and description; a version with the same digest is taken
    for the same content. A version's name is unique in its pipeline, so two uploads at once make one version.

    Args:
        api: the backend.
        package: what to upload.
        namespace: owner of a new pipeline; empty shares it with all users.
        pipeline_name: name on the cluster; empty takes the package's.
        version_name: name of the version; empty derives it from the content.

    Raises:
        ParameterError: a version of that name has other content.
        ClusterError: the backend refused or failed.
    """
    name = pipeline_name or package.name
    pipeline = find_pipeline(api, name, namespace)
    action = "new version"
    if pipeline is None:
        action = "new pipeline"
        pipeline = _create(api, package, name, namespace)
    wanted = version_name or package.version_name
    version = _same(api, pipeline.pipeline_id, package, version_name)
    if version is not None:
        action = "unchanged"
    else:
        try:
            version = _upload(api, package, pipeline.pipeline_id, wanted)
        except ConflictError:  # another upload was quicker
            version = _same(api, pipeline.pipeline_id, package, version_name)
            if version is None:
                raise _taken(wanted) from None
            action = "unchanged"
    newest = action != "unchanged" or all(
        one.pipeline_version_id == version.pipeline_version_id for one in _versions(api, pipeline.pipeline_id)
    )
    return Uploaded(
        action=action,
        pipeline=name,
        version=version.display_name or version.name,
        pipeline_id=pipeline.pipeline_id,
        version_id=version.pipeline_version_id,
        url=f"{api.login.links}/#/pipelines/details/{pipeline.pipeline_id}/version/{version.pipeline_version_id}",
        newest=newest,
        images=package.images,
    )


def find_pipeline(api: Api, name: str, namespace: str = "") -> Any | None:
    """A pipeline by name: the namespace's own, or none."""
    found = api.pages(
        api.pipelines.pipeline_service_list_pipelines, "pipelines", filter=named(name), namespace=namespace
    )
    return next((one for one in found if one.display_name == name), None)


def find_version(api: Api, name: str, version_name: str = "", namespace: str = "") -> Any:
    """A version of a pipeline on the cluster: the newest, or the one of that name.

    Raises:
        NotFoundError: no such pipeline or version.
    """
    pipeline = find_pipeline(api, name, namespace) or (find_pipeline(api, name) if namespace else None)
    if pipeline is None:
        from clipseg_kfp.site.compile import pipeline_names

        raise NotFoundError(
            f"There is no pipeline '{name}' on the cluster.",
            f"Upload it first: clipseg-kfp upload {name} --image registry/name@sha256:…"
            if name in pipeline_names()
            else f"Check the name; those that 'clipseg-kfp upload' knows are {', '.join(pipeline_names())}.",
            code="pipeline_not_found",
            where=name,
        )
    return named_version(api, pipeline.pipeline_id, version_name, name)


def read_version(api: Api, pipeline_id: str, version_id: str) -> Any:
    """The ``V2beta1PipelineVersion`` with these IDs."""
    return api.read(
        api.pipelines.pipeline_service_get_pipeline_version,
        pipeline_id=pipeline_id,
        pipeline_version_id=version_id,
    )


def named_version(api: Api, pipeline_id: str, version_name: str = "", name: str = "") -> Any:
    """A version of the pipeline with this ID; arguments and errors as for ``find_version``."""
    for version in _versions(api, pipeline_id, version_name):
        return version
    raise NotFoundError(
        f"The pipeline '{name or pipeline_id}' has no version '{version_name}'."
        if version_name
        else f"The pipeline '{name or pipeline_id}' has no version yet.",
        "Upload one with 'clipseg-kfp upload'.",
        code="version_not_found",
        where=version_name,
    )


def _versions(api: Api, pipeline_id: str, name: str = "") -> Iterator[Any]:
    """Versions of a pipeline, the newest first."""
    more = {"filter": named(name)} if name else {}
    yield from api.pages(
        api.pipelines.pipeline_service_list_pipeline_versions,
        "pipeline_versions",
        most=0 if name else 1,
        pipeline_id=pipeline_id,
        sort_by="created_at desc",
        **more,
    )


def _same(api: Api, pipeline_id: str, package: Package, version_name: str) -> Any | None:
    """The version that has the package's content already."""
    if version_name:
        for version in _versions(api, pipeline_id, version_name):
            if f"{_DIGEST}{package.digest}" not in (version.description or ""):
                raise _taken(version_name)
            return version
        return None
    found = api.pages(
        api.pipelines.pipeline_service_list_pipeline_versions,
        "pipeline_versions",
        pipeline_id=pipeline_id,
        filter=named(package.digest[:12], "IS_SUBSTRING"),
    )
    mark = f"{_DIGEST}{package.digest}"
    return next((one for one in found if mark in (one.description or "")), None)


def _taken(version_name: str) -> ParameterError:
    return ParameterError(
        f"The version '{version_name}' exists already, with other content.",
        "Give another --version-name, or none: then it is named after the content.",
        code="version_taken",
        where=version_name,
    )


def _create(api: Api, package: Package, name: str, namespace: str) -> Any:
    import kfp_server_api

    body = kfp_server_api.V2beta1Pipeline(
        display_name=name,  # newer backends take it for the name as well, older ones know no other
        description=package.description,
        namespace=namespace or None,
    )
    try:
        return api.write(api.pipelines.pipeline_service_create_pipeline, pipeline=body)
    except ConflictError:
        pipeline = find_pipeline(api, name, namespace)
        if pipeline is None:
            raise
        return pipeline


def _upload(api: Api, package: Package, pipeline_id: str, version_name: str) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"{package.name}.yaml")
        path.write_text(package.text, "utf-8")
        return api.write(
            api.uploads.upload_pipeline_version,
            uploadfile=str(path),
            name=version_name,
            pipelineid=pipeline_id,
            description=f"Images: {', '.join(package.images)}. Content: {_DIGEST}{package.digest}",
        )
