"""Work with a Kubeflow Pipelines backend: upload, run, schedule, watch, check."""

from clipseg_kfp.cluster.client import Client
from clipseg_kfp.cluster.errors import (
    ClusterError,
    ConflictError,
    LoginError,
    NotFoundError,
    RunError,
    StartTimeoutError,
    WaitTimeoutError,
)
from clipseg_kfp.cluster.login import Login
from clipseg_kfp.cluster.parameters import Parameter
from clipseg_kfp.cluster.repeating import Round
from clipseg_kfp.cluster.runs import Run
from clipseg_kfp.cluster.schedules import Schedule
from clipseg_kfp.cluster.uploading import Uploaded
from clipseg_kfp.results.repeating import NoProgressError

__all__ = [
    "Client",
    "ClusterError",
    "ConflictError",
    "Login",
    "LoginError",
    "NoProgressError",
    "NotFoundError",
    "Parameter",
    "Round",
    "Run",
    "RunError",
    "Schedule",
    "StartTimeoutError",
    "Uploaded",
    "WaitTimeoutError",
]
