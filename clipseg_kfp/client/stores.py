"""The stores that pods use, as they are reached from this machine."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from clipseg_kfp.errors import ParameterError
from clipseg_kfp.storage import Folder, open_folder

if TYPE_CHECKING:
    from clipseg_kfp.client.runs import Run


def place_of(run: Run) -> tuple[str, str]:
    """The output prefix of a run, empty for one that is not this project's, and its name in the results there."""
    given = run.parameters
    named = (given.get("outputs") or {}).get("run_id") or given.get("run_id")  # the latter of version 0.1
    return str(given.get("output_uri") or ""), str(named or run.id)


def open_from_here(run: Run, uri: str, endpoint: str = "") -> Folder:
    """Opens a folder that pods of a run use, as it is reached from here; see :func:`open_place`."""
    return open_place(run.parameters, uri, endpoint)


def open_place(parameters: Mapping[str, Any], uri: str, endpoint: str = "") -> Folder:
    """The same, for a run of these parameters.

    Raises:
        ParameterError: pods use a store of the cluster, and nothing says where it is for this machine. The bucket of
            that name at AWS, where no endpoint leads, would be somebody else's.
    """
    known = endpoint or any(os.environ.get(name) for name in ("S3_ENDPOINT", "AWS_ENDPOINT_URL"))
    if uri.startswith("s3://") and not known and (inside := parameters.get("endpoint")):
        raise ParameterError(
            f"{uri} is in the cluster's store ({inside}), and no S3_ENDPOINT is set on this machine.",
            "Set S3_ENDPOINT (or --endpoint), AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; a way to the store is "
            "'kubectl port-forward -n kubeflow svc/seaweedfs 9000'.",
            code="store_unknown",
            where="endpoint",
        )
    return open_folder(uri, endpoint)
