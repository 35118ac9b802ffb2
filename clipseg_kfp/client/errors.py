"""What can go wrong between this machine and a Kubeflow Pipelines backend."""

from __future__ import annotations

from clipseg_kfp.errors import ClipsegKfpError


class ClusterError(ClipsegKfpError):
    """The backend refused, failed or cannot be reached."""

    code = "cluster"


class UnavailableError(ClusterError):
    """The backend is overloaded, restarting or out of reach: later it may well answer."""

    code = "unavailable"


class LoginError(ClusterError):
    """The backend does not accept the login, or there is none."""

    code = "login"


class NotFoundError(ClusterError):
    """The cluster has nothing of that name."""

    code = "not_found"


class ConflictError(ClusterError):
    """Something of that name already exists."""

    code = "conflict"


class WaitTimeoutError(ClusterError):
    """A run did not end in the time given; it goes on."""

    code = "wait_timeout"


class StartTimeoutError(WaitTimeoutError):
    """No pod of a run's tasks began in the time given; the run is not canceled."""

    code = "start_timeout"


class RunError(ClusterError):
    """A run ended without success.

    Args:
        state: FAILED, CANCELED or SKIPPED.
        message: what is known of it.
        remedy: where to look.
    """

    def __init__(self, state: str, message: str, remedy: str = "") -> None:
        self.state = state
        super().__init__(message, remedy, code=f"run_{state.lower()}")
