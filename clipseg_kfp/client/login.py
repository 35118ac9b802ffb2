"""Where the backend is and how to be let in: from arguments, files and the environment.

Secrets are taken from files and environment variables only, never from the command line, where every user of
the machine could read them; no message and no ``repr`` holds one.
"""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from clipseg_kfp.client.errors import LoginError
from clipseg_kfp.errors import ParameterError

#: Where the backend's API is inside a cluster with Kubeflow's own manifests.
IN_CLUSTER = "http://ml-pipeline.kubeflow.svc.cluster.local:8888"
#: What the kubelet puts into every pod.
ACCOUNT_FOLDER = Path("/var/run/secrets/kubernetes.io/serviceaccount")
#: The token for Kubeflow Pipelines that a PodDefault of multi-user Kubeflow mounts.
PIPELINES_TOKEN = Path("/var/run/secrets/kubeflow/pipelines/token")


@dataclass(frozen=True)
class Login:
    """How to reach a backend. Everything left empty comes from the environment (:meth:`resolved`).

    Attributes:
        host: URL of the API, for example ``https://kubeflow.example/pipeline``.
        namespace: the user's namespace in multi-user Kubeflow; empty elsewhere.
        ui: URL of the Kubeflow Pipelines UI for links, where it is not the host.
        token: a bearer token.
        token_file: a file with one, read again for every request, so that it may be renewed.
        cookies: the session cookies of a browser, as ``name=value; name=value``.
        dex_username: login name (an e-mail address) at Dex.
        dex_password: its password.
        ca_cert: file with the certificates to trust.
        verify: whether to check the server's certificate.
    """

    host: str = ""
    namespace: str = ""
    ui: str = ""
    token: str = field(default="", repr=False)
    token_file: str = ""
    cookies: str = field(default="", repr=False)
    dex_username: str = ""
    dex_password: str = field(default="", repr=False)
    ca_cert: str = ""
    verify: bool = True

    @property
    def way(self) -> str:
        """How this login is let in, in words without secrets."""
        if self.dex_username:
            return "Dex session"
        if self.cookies:
            return "cookies"
        if self.token:
            return "token"
        if self.token_file:
            return f"token of {self.token_file}"
        return "no login"

    @property
    def links(self) -> str:
        """Start of every link into the UI."""
        if self.ui:
            return self.ui.rstrip("/")
        return "/pipeline" if self.host == IN_CLUSTER else self.host

    def resolved(self) -> Login:
        """Fills what is empty from the environment and from the pod that this runs in.

        ``KFP_ENDPOINT``, ``KFP_NAMESPACE``, ``KFP_UI_ENDPOINT``, ``KFP_CA_CERT``, then one of
        ``KFP_DEX_USERNAME`` with ``KFP_DEX_PASSWORD`` or ``KFP_DEX_PASSWORD_FILE``; ``KFP_COOKIES`` or
        ``KFP_COOKIES_FILE``; ``KFP_TOKEN`` or ``KFP_TOKEN_FILE``. A way that is given as an argument wins
        over all ways of the environment. ``KF_PIPELINES_ENDPOINT``, ``KF_PIPELINES_UI_ENDPOINT`` and
        ``KF_PIPELINES_SA_TOKEN_PATH``, which the kfp SDK knows, count as well.

        Raises:
            ParameterError: there is no endpoint, or it is no URL.
            LoginError: a file that holds a secret cannot be read.
        """
        host = self.host or _env("KFP_ENDPOINT", "KF_PIPELINES_ENDPOINT")
        inside = (ACCOUNT_FOLDER / "token").exists()
        if not host and inside:
            host = IN_CLUSTER
        namespace = self.namespace or _env("KFP_NAMESPACE")
        if not namespace and inside and (ACCOUNT_FOLDER / "namespace").exists():
            namespace = (ACCOUNT_FOLDER / "namespace").read_text("utf-8").strip()
        username, password, cookies = self.dex_username, self.dex_password, self.cookies
        token, token_file = self.token, self.token_file
        if not (username or cookies or token or token_file):
            username = _env("KFP_DEX_USERNAME")
            cookies = _env("KFP_COOKIES") or _secret("KFP_COOKIES_FILE")
            token, token_file = _env("KFP_TOKEN"), _env("KFP_TOKEN_FILE", "KF_PIPELINES_SA_TOKEN_PATH")
            if not (username or cookies or token or token_file) and PIPELINES_TOKEN.exists():
                token_file = str(PIPELINES_TOKEN)
        if username and not password:
            password = _env("KFP_DEX_PASSWORD") or _secret("KFP_DEX_PASSWORD_FILE")
            if not password:
                raise LoginError(
                    f"There is no password for {username}.",
                    "Set KFP_DEX_PASSWORD_FILE or KFP_DEX_PASSWORD.",
                    code="password_missing",
                    where="dex_password",
                )
        if username:  # one way only, the first of those that are there
            cookies = ""
        if username or cookies:
            token = ""
        if username or cookies or token:
            token_file = ""
        if token_file:
            read_secret(token_file)
        return Login(
            host=_url(host),
            namespace=namespace,
            ui=self.ui or _env("KFP_UI_ENDPOINT", "KF_PIPELINES_UI_ENDPOINT"),
            token=token,
            token_file=token_file,
            cookies=cookies,
            dex_username=username,
            dex_password=password,
            ca_cert=self.ca_cert or _env("KFP_CA_CERT"),
            verify=self.verify,
        )


def connect(login: Login) -> Any:
    """Makes the official client.

    Args:
        login: resolved.

    Returns:
        A ``kfp.Client``.

    Raises:
        LoginError: Dex does not accept the login.
    """
    import kfp
    from kfp.client import set_volume_credentials

    class Client(kfp.Client):  # type: ignore[misc] # kfp has no types
        """Contacts nothing and writes nothing while it is made; the first call says what is wrong."""

        def get_kfp_healthz(self, sleep_duration: int = 0) -> Any:
            # kfp's own asks five times with pauses, and logs a traceback for each.
            import kfp_server_api

            return kfp_server_api.V2beta1GetHealthzResponse()

        def set_user_namespace(self, namespace: str) -> None:
            self._context_setting["namespace"] = namespace  # kfp's own also writes it into the home folder

    cookies = login.cookies or None
    if login.dex_username:
        from clipseg_kfp.client.dex import session_cookies

        cookies = session_cookies(
            login.host, login.dex_username, login.dex_password, ca_cert=login.ca_cert, verify=login.verify
        )
    credentials = None
    if login.token_file and not login.token:
        credentials = set_volume_credentials.ServiceAccountTokenVolumeCredentials(path=login.token_file)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # "only works with 2.0.0-beta.2 and later"
        client = Client(
            host=login.host,
            existing_token=login.token or None,
            cookies=cookies,
            credentials=credentials,
            ssl_ca_cert=login.ca_cert or None,
            ui_host=login.links,
            verify_ssl=login.verify,
        )
    client.set_user_namespace(login.namespace)
    return client


def _env(*names: str) -> str:
    return next((value for name in names if (value := os.environ.get(name, "").strip())), "")


def _secret(name: str) -> str:
    path = _env(name)
    return read_secret(path) if path else ""


def read_secret(path: str) -> str:
    """Reads a token, cookies or a password from a file; the message of an error holds none of it."""
    try:
        text = Path(path).expanduser().read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "not a text file"
        raise LoginError(
            f"{path}: {why}.", "Name a file that you may read.", code="secret_unreadable", where=path
        ) from None
    if not text:
        raise LoginError(
            f"{path} is empty.",
            "Put the token, cookies or password into it.",
            code="secret_empty",
            where=path,
        )
    return text


def _url(host: str) -> str:
    if not host:
        raise ParameterError(
            "There is no Kubeflow Pipelines endpoint.",
            "Give --host or set KFP_ENDPOINT, for example https://kubeflow.example/pipeline, or "
            "http://localhost:8080 with 'kubectl port-forward -n kubeflow svc/ml-pipeline-ui 8080:80'.",
            code="endpoint_missing",
            where="host",
        )
    full = host if "://" in host else f"https://{host}"
    try:
        parts = urlsplit(full)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid = False
    if not valid or "@" in full or " " in full:
        shown = full.rsplit("@", 1)[-1]  # what stands before it may be a password
        raise ParameterError(
            f"The endpoint '{shown}' is not a plain URL.",
            "Write https://host/pipeline, without credentials.",
            code="endpoint_invalid",
            where="host",
        )
    return full.partition("#")[0].partition("?")[0].rstrip("/")
