"""Calls of the official API client: with time limits, retries where they are safe, pages, and clear errors."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterator
from typing import Any

import urllib3

from clipseg_kfp.client.errors import (
    ClusterError,
    ConflictError,
    LoginError,
    NotFoundError,
    UnavailableError,
)
from clipseg_kfp.client.login import Login, connect

CONNECT_SECONDS, READ_SECONDS = 10, 60
BACKOFF_SECONDS, BACKOFF_LIMIT = 0.5, 10.0
#: Reads are repeated this long; waiting for a run has patience of its own.
PATIENCE_SECONDS = 20.0
PAGE = 100
_PASSING = (429, 500, 502, 503, 504)


class Api:
    """The services of the backend, as ``kfp.Client`` makes them.

    Args:
        login: resolved.
    """

    def __init__(self, login: Login) -> None:
        self.login = login
        self.kfp = connect(login)
        self.runs = self.kfp.runs
        self.recurring_runs = self.kfp.recurring_runs
        self.pipelines = self.kfp.pipelines
        self.uploads = self.kfp.pipeline_uploads
        self.experiments = self.kfp.experiments
        self.health = self.kfp.healthzs

    def read(self, method: Callable[..., Any], patience: float | None = None, **arguments: Any) -> Any:
        """Calls a method that changes nothing, or nothing when repeated; passing faults are waited out.

        Args:
            method: of one of the services.
            patience: seconds until a fault is given up on; ``None`` takes 20. The first call is always made.
            arguments: of the method.

        Raises:
            ClusterError: or its subclasses; the message says what the backend said.
        """
        end = time.monotonic() + (PATIENCE_SECONDS if patience is None else patience)
        attempt = 0
        while True:
            try:
                return self._call(method, arguments)
            except _PassingError as fault:
                pause = min(BACKOFF_LIMIT, BACKOFF_SECONDS * 2**attempt) * random.uniform(0.5, 1)
                if time.monotonic() + pause > end:
                    raise fault.error from None
                time.sleep(pause)
                attempt += 1

    def write(self, method: Callable[..., Any], **arguments: Any) -> Any:
        """Calls a method that makes something: once, since a lost answer may hide a success."""
        try:
            return self._call(method, arguments)
        except _PassingError as fault:
            raise fault.error from None

    def pages(self, method: Callable[..., Any], items: str, most: int = 0, **arguments: Any) -> Iterator[Any]:
        """Streams what a list method returns, over all pages.

        Args:
            method: of one of the services.
            items: name of the list in the answer.
            most: stop after so many; 0 takes all.
            arguments: of the method.
        """
        token, count = "", 0
        while True:
            size = min(PAGE, most - count) if most else PAGE
            page = self.read(method, page_size=size, page_token=token, **arguments)
            for item in getattr(page, items) or []:
                yield item
                count += 1
                if count == most:
                    return
            token = page.next_page_token or ""
            if not token:
                return

    def raw(self, path: str) -> Any:
        """Reads a path that the generated client does not know; returns the JSON."""
        client = self.runs.run_service_get_run.__self__.api_client

        def get(**limits: Any) -> Any:
            return client.call_api(
                path,
                "GET",
                response_type="object",
                auth_settings=["Bearer"],
                _return_http_data_only=True,
                **limits,
            )

        get.__self__ = self.runs.run_service_get_run.__self__  # type: ignore[attr-defined]
        return self.read(get, patience=0)

    def _call(self, method: Callable[..., Any], arguments: dict[str, Any]) -> Any:
        from kfp_server_api import ApiException

        try:
            result = method(**arguments, _request_timeout=(CONNECT_SECONDS, READ_SECONDS))
        except ApiException as error:
            raise self._translated(error) from None
        except (urllib3.exceptions.HTTPError, OSError) as error:
            if isinstance(getattr(error, "reason", None), urllib3.exceptions.SSLError):
                raise self._untrusted(str(error.reason)) from None  # type: ignore[union-attr]
            raise _PassingError(self._unreachable(error)) from None
        except (
            UnicodeDecodeError,
            AttributeError,
        ) as error:  # the generated client on a body that is no JSON
            raise ClusterError(
                f"{self.login.host} does not answer as Kubeflow Pipelines does ({type(error).__name__}).",
                "Check that the endpoint is that of the Pipelines API.",
                code="not_kubeflow",
                where=self.login.host,
            ) from None
        answer = getattr(method.__self__.api_client, "last_response", None)  # type: ignore[attr-defined]
        kind = answer.urllib3_response.headers.get("content-type", "") if answer is not None else ""
        if "html" in kind:  # a login page or the UI's start page, with status 200
            raise LoginError(
                f"{self.login.host} answers with a web page instead of the API's data ({self.login.way}).",
                "Log in (KFP_TOKEN_FILE, KFP_COOKIES_FILE or KFP_DEX_USERNAME), and check that the endpoint "
                "is that of the API; in full Kubeflow it ends in /pipeline.",
                code="web_page",
                where=self.login.host,
            )
        return result

    def _unreachable(self, error: Exception) -> UnavailableError:
        reason: Any = getattr(error, "reason", None) or error
        text = str(reason).partition(": ")[2] or str(reason) or type(reason).__name__
        text = text.rstrip(".")
        return UnavailableError(
            f"{self.login.host} cannot be reached: {text}.",
            "Check the endpoint; is 'kubectl port-forward' or the VPN still running?",
            code="unreachable",
            where=self.login.host,
        )

    def _untrusted(self, said: str) -> ClusterError:
        return ClusterError(
            f"No safe connection to {self.login.host}: {' '.join(said.split())}",
            "Give the certificate authority of your site with --ca-cert or KFP_CA_CERT.",
            code="certificate_untrusted",
            where=self.login.host,
        )

    def _translated(self, error: Any) -> Exception:
        said = _said(error)
        host, way = self.login.host, self.login.way
        if error.status == 0:  # the generated client's own word for TLS
            return self._untrusted(said)
        if error.status == 401:
            return LoginError(
                f"The backend does not accept the login (401, {way}).",
                "Renew it: KFP_TOKEN_FILE, KFP_COOKIES_FILE or KFP_DEX_USERNAME with its password; tokens and "
                "sessions expire.",
                code="login_refused",
            )
        if error.status == 403:
            place = f" in namespace '{self.login.namespace}'" if self.login.namespace else ""
            return LoginError(
                f"The login ({way}) may not do this{place} (403): {said}",
                "Ask for the role kubeflow-edit in the namespace, or name another with --namespace.",
                code="forbidden",
                where=self.login.namespace,
            )
        if error.status == 404:
            return NotFoundError(f"Not found at {host} (404): {said}", "Check names, IDs and the endpoint.")
        if error.status == 409:
            return ConflictError(f"It exists already (409): {said}", "Choose another name.")
        kind = UnavailableError if error.status in _PASSING else ClusterError
        made = kind(
            f"The backend answered {error.status}: {said}",
            "Try again later; if it stays, look at the logs of Kubeflow's ml-pipeline."
            if error.status in _PASSING
            else "Change what the answer names; 'clipseg-kfp doctor' checks the rest.",
            code=f"http_{error.status}",
        )
        return _PassingError(made) if isinstance(made, UnavailableError) else made


class _PassingError(Exception):
    """A fault that may pass; ``error`` is raised where it does not."""

    def __init__(self, error: UnavailableError) -> None:
        self.error = error
        super().__init__(error.message)


def named(name: str, operation: str = "EQUALS") -> str:
    """A filter of list calls by display name.

    The backend decodes the filter once more than HTTP does, some versions; ``%`` and ``+`` are therefore written
    as JSON escapes, which mean the same either way.
    """
    text = json.dumps({"predicates": [{"operation": operation, "key": "display_name", "stringValue": name}]})
    return text.replace("%", "\\u0025").replace("+", "\\u002b")


def _said(error: Any) -> str:
    """The backend's own words, without its stack of wrappings."""
    body = error.body.decode("utf-8", "replace") if isinstance(error.body, bytes) else error.body or ""
    try:
        answer = json.loads(body)
    except ValueError:
        answer = None
    if isinstance(answer, dict):
        body = answer.get("error_message") or answer.get("message") or answer.get("error") or ""
        body = body if isinstance(body, str) else json.dumps(body)
    elif "<" in str(body):  # a proxy's page
        body = ""
    text = " ".join(str(body or error.reason or "").split())
    return (text[:500] + "…") if len(text) > 500 else text or "no reason given"
