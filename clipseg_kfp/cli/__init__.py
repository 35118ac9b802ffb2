"""The command line: ``clipseg-kfp``, a module a group of commands."""

from __future__ import annotations

import errno
import signal
import sys
from typing import Annotated, Any

import typer
from rich.console import Console
from typer.core import TyperGroup

from clipseg_kfp import __version__
from clipseg_kfp.cli import (
    cluster,
    compile,
    demo,
    evaluate,
    local,
    options,
    prompts,
    results,
    runs,
    schedule,
)
from clipseg_kfp.errors import ClipsegKfpError
from clipseg_kfp.naming import printable
from clipseg_kfp.options import GROUPS, check_moved


class _Root(TyperGroup):
    """Says where an option of version 0.1 has gone, such as ``--tile-size``."""

    def invoke(self, ctx: Any) -> Any:
        """Runs a command."""
        try:
            return super().invoke(ctx)
        except Exception as error:
            command = getattr(getattr(error, "ctx", None), "command", None)
            takes_options = any("--set" in one.opts for one in getattr(command, "params", []))
            if takes_options and hasattr(error, "possibilities"):  # there is no such option
                check_moved(str(getattr(error, "option_name", "")).lstrip("-").replace("-", "_"), GROUPS)
            raise


app = typer.Typer(
    cls=_Root,
    help="Segments whole buckets of images by prompts with CLIPSeg, on Kubeflow Pipelines or right here.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
app.command("demo")(demo.demo)
local.app.command("evaluate")(evaluate.evaluate)
app.add_typer(local.app, name="local")
app.command("compile")(compile.compile_package)
app.command("options")(options.options)
app.add_typer(prompts.app, name="prompts")
app.add_typer(results.app, name="results")
app.command("upload")(cluster.upload)
app.command("run")(cluster.run)
app.add_typer(runs.app, name="runs")
app.add_typer(schedule.app, name="schedule")
app.command("doctor")(cluster.doctor)


def _version(asked: bool) -> None:
    if asked:
        print(__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def main(arguments: list[str] | None = None) -> Any:
    """Entry point; an error that a user can mend ends in one message and status 1, without a traceback."""
    # A polite kill ends like Ctrl-C does: servers are stopped, temporary folders removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        return app(arguments)
    except ClipsegKfpError as error:
        _complain(error.message, error.remedy)
        sys.exit(1)
    except OSError as error:
        _complain(*_explained(error))
        sys.exit(1)


def _explained(error: OSError) -> tuple[str, str]:
    """What is wrong with a path, and what to do about it."""
    where = f"{error.filename}: " if error.filename else ""
    remedies = {
        errno.ENOSPC: "Free some space, or name a place on another disk.",
        errno.ENOENT: "Check the path. Make its folder first.",
    }
    refused = "Check the path and its permissions, or name another one."
    return f"{where}{error.strerror or error}", remedies.get(error.errno or 0, refused)


def _complain(message: str, remedy: str) -> None:
    console = Console(stderr=True, soft_wrap=True)
    console.print(
        f"error: {printable(message)}", style="bold red", markup=False, emoji=False, highlight=False
    )
    if remedy:
        remedy = printable(remedy, keep="\n")
        console.print(f"  remedy: {remedy}", markup=False, emoji=False, highlight=False)
