"""The options that several commands share: the way to the cluster, and what a pipeline is compiled with."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Annotated, Any

import typer

from clipseg_kfp.cli.compile import GpuImage, SettingsOption, Variant
from clipseg_kfp.client import Client, Login, Recipe
from clipseg_kfp.client.login import read_secret

_PANEL = "Connection"


def _client(
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


def _recipe(
    image: Annotated[
        str,
        typer.Option(
            help="Container image of all components: the named pipeline is compiled and uploaded first."
        ),
    ] = "",
    gpu_image: GpuImage = "",
    variant: Annotated[
        Variant | None, typer.Option(help="cpu, or gpu: the named pipeline is uploaded so first.")
    ] = None,
    site: SettingsOption = None,
) -> Recipe:
    return Recipe(image=image, settings=site, variant=variant or "", gpu_image=gpu_image)


#: What makes an argument of this type from options of the command line.
_MADE_BY: dict[Any, Callable[..., Any]] = {Client: _client, Recipe: _recipe}


def connected(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command the options of the connection for its ``Client``, and of the recipe for its ``Recipe``."""
    made: dict[str, tuple[Callable[..., Any], list[str]]] = {}
    own: list[inspect.Parameter] = []
    more: list[inspect.Parameter] = []
    for parameter in inspect.signature(command, eval_str=True).parameters.values():
        maker = _MADE_BY.get(parameter.annotation)
        if maker is None:
            own.append(parameter)
            continue
        options = list(inspect.signature(maker, eval_str=True).parameters.values())
        made[parameter.name] = maker, [one.name for one in options]
        (more if maker is _client else own).extend(options)

    def wrapped(**given: Any) -> None:
        values = {
            name: maker(**{key: given.pop(key) for key in keys}) for name, (maker, keys) in made.items()
        }
        command(**values, **given)

    parameters = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in (*own, *more)]
    wrapped.__name__, wrapped.__doc__, wrapped.__module__ = (
        command.__name__,
        command.__doc__,
        command.__module__,
    )
    wrapped.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    wrapped.__annotations__ = {one.name: one.annotation for one in parameters}  # what typer reads
    return wrapped
