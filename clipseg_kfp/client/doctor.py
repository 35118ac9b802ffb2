"""Checks all that a run needs, one after the other, and says what to mend."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from clipseg_kfp.client.client import Client
from clipseg_kfp.client.display import safe
from clipseg_kfp.client.errors import LoginError, NotFoundError
from clipseg_kfp.client.image_checks import images
from clipseg_kfp.client.packages import declared, images_of, spec_of, storage_keys_of
from clipseg_kfp.client.secret_checks import FIELDS, lent, storage_secret
from clipseg_kfp.client.storage_checks import has_credentials, has_endpoint, storage
from clipseg_kfp.errors import ClipsegKfpError

#: Earlier ones do not fill parameters into the resources of a container.
OLDEST = (2, 5)
#: What the packages are made for; kfp-kubernetes sets things that earlier backends leave out.
MADE_FOR = (2, 17)
#: From here on Kubeflow brings SeaweedFS; earlier ones have MinIO, at another address.
SEAWEEDFS_SINCE = (2, 16)
MINIO = "http://minio-service.kubeflow:9000"
DEFAULT_SECRET = "mlpipeline-minio-artifact"
_MARKS = {
    "ok": "[green]ok[/]",
    "warn": "[yellow]warn[/]",
    "fail": "[bold red]fail[/]",
    "unknown": "not checked",
}


@dataclass(frozen=True)
class Asked:
    """What to check.

    Attributes:
        source_uri: images; empty leaves them out.
        output_uri: prefix for results; empty leaves it out.
        model_uri: the checkpoint; empty takes the pipeline's default.
        endpoint: URL of the S3 endpoint as seen from here.
        secret: name of the storage secret; empty takes the pipeline's default.
        pipeline: name on the cluster.
    """

    source_uri: str = ""
    output_uri: str = ""
    model_uri: str = ""
    endpoint: str = ""
    secret: str = ""
    pipeline: str = "batch-segmentation"


@dataclass(frozen=True)
class Finding:
    """One line of the doctor.

    Attributes:
        what: was checked.
        mark: ``ok`` (seen to be so), ``warn``, ``fail``, or ``unknown``: it cannot be told from here.
        detail: what was found, and what to do.
    """

    what: str
    mark: str
    detail: str


def examine(client: Client, asked: Asked) -> list[Finding]:
    """Runs all checks; one that fails does not keep the others from running, where they make sense."""
    findings = list(_backend(client))
    reached = not any(one.mark == "fail" for one in findings)
    version, backend = None, ""
    if reached:
        backend = _told(client)
        findings.append(_version(backend))
        findings += _guarded("namespace", lambda: _namespace(client))
        try:
            version = client.version(asked.pipeline)
        except ClipsegKfpError as error:
            findings.append(Finding("pipeline", "fail", _said(error)))
    place = client.login.namespace or "kubeflow"
    defaults: dict[str, Any] = {}
    if version is not None:
        findings.append(Finding("pipeline", "ok", f"{asked.pipeline}, version {version.display_name}"))
        findings += [Finding(*line) for line in images(images_of(spec_of(version)), place)]
        defaults = {name: one.default for name, one in declared(spec_of(version)).items()}
        findings += _store(backend, str(defaults.get("endpoint") or ""))
    name = str(defaults.get("storage_secret") or DEFAULT_SECRET)
    fields = storage_keys_of(version) if version is not None else {}
    line, keys = storage_secret(place, asked.secret or name, fields or FIELDS)
    findings.append(Finding(*line))
    if has_credentials() or not has_endpoint(asked.endpoint):  # what the user says here counts more
        keys = None
    with lent(keys):
        lines = storage(asked.source_uri, asked.output_uri, asked.endpoint, lent=keys is not None)
        findings += [Finding(*one) for one in lines]
        findings += _model(asked.model_uri or str(defaults.get("model_uri") or ""), asked.endpoint)
    return findings


def table(findings: list[Finding]) -> Table:
    """The findings for a terminal."""
    shown = Table()
    for name in ("check", "", "what was found"):
        shown.add_column(name, overflow="fold")
    for one in findings:
        shown.add_row(safe(one.what), _MARKS[one.mark], safe(one.detail))
    return shown


def _said(error: ClipsegKfpError) -> str:
    return f"{error.message} {error.remedy}".strip()


def _guarded(what: str, check: Callable[[], Iterator[Finding]]) -> list[Finding]:
    try:
        return list(check())
    except ClipsegKfpError as error:
        return [Finding(what, "fail", _said(error))]


def _backend(client: Client) -> Iterator[Finding]:
    """Endpoint, login and version; login is what list calls need, health checks are often open to all."""
    try:
        multi_user = client.multi_user
    except LoginError as error:
        yield Finding("endpoint", "ok", f"{client.login.host} answers")
        yield Finding("login", "fail", _said(error))
        return
    except ClipsegKfpError as error:
        yield Finding("endpoint", "fail", _said(error))
        return
    users = "users kept apart by namespace" if multi_user else "one user"
    yield Finding("endpoint", "ok", f"{client.login.host} answers; {users}")
    try:
        client.api.read(
            client.api.pipelines.pipeline_service_list_pipelines,
            page_size=1,
            namespace=client.login.namespace if multi_user else "",
        )
        yield Finding("login", "ok", f"accepted ({client.login.way})")
    except ClipsegKfpError as error:
        yield Finding("login", "fail", _said(error))


def _told(client: Client) -> str:
    """The backend's version in its own words; empty where it does not tell."""
    try:
        told = client.api.raw("/apis/v1beta1/healthz")  # the v2 answer has no version
        return str(told.get("tag_name") or "") if isinstance(told, dict) else ""
    except ClipsegKfpError:
        return ""


def _numbers(version: str) -> tuple[int, int] | None:
    found = re.match(r"v?(\d+)\.(\d+)", version)
    return (int(found[1]), int(found[2])) if found else None


def _version(name: str) -> Finding:
    numbers = _numbers(name)
    if not numbers:
        return Finding("backend version", "warn", "The backend does not tell; 2.5 or later is needed.")
    if numbers < OLDEST:
        return Finding("backend version", "fail", f"{name}: 2.5 or later is needed. Upgrade the backend.")
    if numbers < MADE_FOR:
        return Finding(
            "backend version",
            "warn",
            f"{name}: packages are made for 2.17 and later; this one leaves out what it does not know, such as "
            "the security context.",
        )
    return Finding("backend version", "ok", name)


def _store(backend: str, endpoint: str) -> Iterator[Finding]:
    """Whether the store that runs take by default comes with this backend."""
    from clipseg_kfp.pipelines.settings import CLUSTER_ENDPOINT

    numbers = _numbers(backend)
    if endpoint == CLUSTER_ENDPOINT and numbers and numbers < SEAWEEDFS_SINCE:
        yield Finding(
            "store",
            "warn",
            f"Runs take {endpoint}, which Kubeflow has since 2.16; this one usually has {MINIO}. Give runs "
            "endpoint, or compile with --endpoint.",
        )


def _namespace(client: Client) -> Iterator[Finding]:
    name = client.namespace
    if not name:
        yield Finding("namespace", "ok", "none needed")
        return
    client.api.read(client.api.experiments.experiment_service_list_experiments, page_size=1, namespace=name)
    yield Finding("namespace", "ok", f"'{name}' is open to this login")


def _model(uri: str, endpoint: str) -> Iterator[Finding]:
    if not uri:
        return
    if uri.startswith("hf://"):
        pinned = "@" in uri.removeprefix("hf://")
        advice = "" if pinned else " Pin a revision: hf://org/name@revision."
        yield Finding(
            "model",
            "unknown" if pinned else "warn",
            f"{uri}: only a pod shows whether it is there. Pods need the way to the Hub; sites without it give an "
            f"s3:// prefix.{advice}",
        )
        return
    if uri.startswith("file:"):
        yield Finding(
            "model", "unknown", f"{uri} is a folder of the pods: only a pod shows whether it is there."
        )
        return
    from clipseg_kfp.storage import open_folder

    try:
        if open_folder(uri, endpoint).stat("config.json") is None:
            raise NotFoundError(
                f"{uri} has no config.json.",
                "Copy all files of the checkpoint there.",
                code="checkpoint_incomplete",
                where=uri,
            )
        yield Finding("model", "ok", f"{uri} holds a checkpoint")
    except ClipsegKfpError as error:
        yield Finding("model", "fail", _said(error))
