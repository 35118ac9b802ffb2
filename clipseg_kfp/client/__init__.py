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
from clipseg_kfp.client.packages import Parameter, Recipe
from clipseg_kfp.client.runs import Round, Run
from clipseg_kfp.client.schedules import Schedule
from clipseg_kfp.client.upload import Uploaded
from clipseg_kfp.results.until_done import NoProgressError

__all__ = [
    "Client",
    "ClusterError",
    "ConflictError",
    "Login",
    "LoginError",
    "NoProgressError",
    "NotFoundError",
    "Parameter",
    "Recipe",
    "Round",
    "Run",
    "RunError",
    "Schedule",
    "StartTimeoutError",
    "Uploaded",
    "WaitTimeoutError",
]
