"""The options that say where the cluster is, shared by all commands that talk to one."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Annotated, Any

import typer

from clipseg_kfp.client import Client, Login
from clipseg_kfp.client.login import read_secret

_PANEL = "Connection"


def _options(
    host: Annotated[
        str,
        typer.Option(help="URL of the Kubeflow Pipelines API; else KFP_ENDPOINT.", rich_help_panel=_PANEL),
    ] = "",
    namespace: Annotated[
        str,
        typer.Option(
            "--namespace",
            "-n",
            help="Your namespace in multi-user Kubeflow; else KFP_NAMESPACE.",
            rich_help_panel=_PANEL,
        ),
    ] = "",
    token_file: Annotated[
        str, typer.Option(help="File with a bearer token; else KFP_TOKEN_FILE.", rich_help_panel=_PANEL)
    ] = "",
    cookies_file: Annotated[
        str, typer.Option(help="File with session cookies; else KFP_COOKIES_FILE.", rich_help_panel=_PANEL)
    ] = "",
    dex_username: Annotated[
        str,
        typer.Option(
            help="Login name at Dex; its password is in KFP_DEX_PASSWORD_FILE.", rich_help_panel=_PANEL
        ),
    ] = "",
    ca_cert: Annotated[
        str, typer.Option(help="File with certificates to trust; else KFP_CA_CERT.", rich_help_panel=_PANEL)
    ] = "",
    ui: Annotated[
        str, typer.Option(help="URL of the UI for links, where it is not the host.", rich_help_panel=_PANEL)
    ] = "",
) -> Client:
    """Makes the client; what is not given comes from the environment (docs/cluster/connecting.md)."""
    login = Login(
        host=host,
        namespace=namespace,
        ui=ui,
        token_file=token_file,
        cookies=read_secret(cookies_file) if cookies_file else "",
        dex_username=dex_username,
        ca_cert=ca_cert,
    )
    return Client(login=login)


def connected(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command the options of the connection; its first parameter becomes the client."""
    own = list(inspect.signature(command, eval_str=True).parameters.values())[1:]
    more = list(inspect.signature(_options, eval_str=True).parameters.values())

    def wrapped(**given: Any) -> None:
        client = _options(**{one.name: given.pop(one.name) for one in more})
        command(client, **given)

    parameters = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in (*own, *more)]
    wrapped.__name__, wrapped.__doc__, wrapped.__module__ = (
        command.__name__,
        command.__doc__,
        command.__module__,
    )
    wrapped.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    wrapped.__annotations__ = {one.name: one.annotation for one in parameters}  # what typer reads
    return wrapped
