"""Checks the bucket as the pods will use it: list and read the images; list, read and write the results."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import suppress

from clipseg_kfp.errors import ClipsegKfpError, ParameterError
from clipseg_kfp.storage import (
    ConditionUnsupportedError,
    Folder,
    ObjectTooLargeError,
    is_web,
    open_folder,
    open_object,
)
from clipseg_kfp.storage.s3 import S3Folder

PROBE = ".clipseg-kfp-probe-"
_CREDENTIALS = ("AWS_ACCESS_KEY_ID", "MINIO_ACCESS_KEY", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_PROFILE")

Line = tuple[str, str, str]  # what, mark, detail


def has_credentials() -> bool:
    """Whether the environment says who asks the store."""
    return any(os.environ.get(name) for name in _CREDENTIALS)


def has_endpoint(endpoint: str) -> bool:
    """Whether the store has been named; without, it would be AWS."""
    return bool(endpoint or os.environ.get("S3_ENDPOINT") or os.environ.get("AWS_ENDPOINT_URL"))


def storage(source_uri: str, output_uri: str, endpoint: str, *, lent: bool = False) -> Iterator[Line]:
    """Checks both prefixes with the credentials of the environment.

    Args:
        source_uri: prefix of the images; empty is not checked.
        output_uri: prefix for results; empty is not checked.
        endpoint: URL of the S3 endpoint as seen from here.
        lent: the credentials are those of the storage secret.
    """
    if not source_uri and not output_uri:
        yield (
            "bucket",
            "warn",
            "Not checked: give --source-uri and --output-uri, and --endpoint as seen from here. The keys are those "
            "of the storage secret, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.",
        )
        return
    if lent:
        yield "bucket", "ok", "checked with the keys of the storage secret, as pods have them"
    elif not has_credentials():
        yield (
            "bucket",
            "warn",
            "No S3 credentials are in the environment; ~/.aws/credentials are tried. The keys of the storage secret "
            "serve where Kubernetes shows them and --endpoint is given.",
        )
    if source_uri:
        yield from _source(source_uri, endpoint)
    if output_uri:
        yield from _output(output_uri, endpoint)


def _source(uri: str, endpoint: str) -> Iterator[Line]:
    try:
        if is_web(uri):
            yield _web(uri)
            return
        folder = _s3(uri, endpoint)
        first = None
        if not uri.endswith("/"):
            above, key = open_object(uri, endpoint)
            if above.stat(key) is not None:  # a manifest, an archive or one image
                folder, first = above, key
        if first is None:
            entry = next(iter(folder.entries()), None)
            if entry is None:
                yield "images", "warn", f"{uri} can be listed, and is empty."
                return
            first = entry.key
        with suppress(ObjectTooLargeError):  # the store hands it out: that is all that is asked
            folder.read(first, limit=1)
        yield "images", "ok", f"{uri} can be listed and read"
    except ClipsegKfpError as error:
        yield "images", "fail", f"{error.message} {error.remedy}".strip()


def _web(uri: str) -> Line:
    folder, key = open_object(uri)
    if folder.stat(key) is None:
        return "images", "fail", f"{uri} does not exist."
    return "images", "ok", f"{uri} can be read from here; pods need a way to {folder.uri}, too"


def _output(uri: str, endpoint: str) -> Iterator[Line]:
    key = f"{PROBE}{uuid.uuid4().hex}"
    content = b"clipseg-kfp doctor"
    try:
        folder = _s3(uri, endpoint)
        folder.folders()
        folder.write(key, content)
    except ClipsegKfpError as error:
        yield "results", "fail", f"{error.message} {error.remedy}".strip()
        return
    try:
        if folder.read(key) == content:
            yield "results", "ok", f"{uri} can be listed, written and read"
            yield _conditional(folder, key)
        else:
            yield "results", "fail", f"{folder.locate(key)} came back with other content than was written."
    except ClipsegKfpError as error:
        yield "results", "fail", f"{error.message} {error.remedy}".strip()
    finally:  # Ctrl-C leaves nothing behind either
        removed = _removed(folder, key)
    if not removed:
        yield "probe", "ok", f"{folder.locate(key)} stays: deleting is not allowed here, nor needed."


def _s3(uri: str, endpoint: str) -> Folder:
    folder = open_folder(uri, endpoint)
    if not isinstance(folder, S3Folder):
        raise ParameterError(
            f"'{uri}' is a folder on this machine.",
            "Pods can only read s3://bucket/prefix.",
            code="uri_not_for_pods",
            where=uri,
        )
    return folder


def _conditional(folder: Folder, key: str) -> Line:
    """Whether the store refuses to create what is there already; where it does not, runs do without."""
    try:
        replaced = folder.create(key, b"another")
    except ConditionUnsupportedError:
        replaced = True
    if replaced:
        return "conditional writes", "ok", "not honored by the store, nor needed here"
    return "conditional writes", "ok", "honored by the store"


def _removed(folder: Folder, key: str) -> bool:
    """Deletes the probe, where that is allowed."""
    try:
        folder.delete(key)
        return folder.stat(key) is None
    except ClipsegKfpError:
        return False
