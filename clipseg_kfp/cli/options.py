"""``clipseg-kfp options``."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from clipseg_kfp.errors import ParameterError
from clipseg_kfp.options import GROUPS, json_schema
from clipseg_kfp.options.tables import rows


def options(
    groups: Annotated[list[str] | None, typer.Argument(help="Groups to show; without one, all.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the JSON Schema.")] = False,
) -> None:
    """Lists the options of all pipelines: name, type, range, default and what each does.

    Give them with --set, such as --set views.tile_size=512, or as JSON in the Kubeflow UI.

    Examples:
        clipseg-kfp options

        clipseg-kfp options views limits

        clipseg-kfp options --json
    """
    chosen = groups or list(GROUPS)
    for name in chosen:
        if name not in GROUPS:
            raise ParameterError(
                f"There is no group '{name}'.",
                f"Choose from {', '.join(GROUPS)}.",
                code="no_such_group",
                where=name,
            )
    if as_json:
        print(json.dumps(json_schema(chosen), indent=2))
        return
    table = Table(show_lines=True)
    for heading in ("option", "type", "default", "what it does"):
        table.add_column(heading, overflow="fold", no_wrap=heading == "option")
    for row in rows(chosen):
        table.add_row(row.name, row.kind, escape(row.default), escape(row.help))
    Console().print(table)
