"""Work with a Kubeflow Pipelines backend: upload, run, schedule, watch, check."""

from clipseg_kfp.client.client import Client
from clipseg_kfp.client.errors import (
    ClusterError,
    ConflictError,
    LoginError,
    NotFoundError,
    RunError,
    StartTimeoutError,
    WaitTimeoutError,
)
from clipseg_kfp.client.login import Login
from clipseg_kfp.client.parameters import Parameter
from clipseg_kfp.client.repeating import Round
from clipseg_kfp.client.runs import Run
from clipseg_kfp.client.schedules import Schedule
from clipseg_kfp.client.upload import Uploaded
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
