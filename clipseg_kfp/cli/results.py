"""``clipseg-kfp results``: look at what lies in the bucket, and after it."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from clipseg_kfp.cli.result_views import configs_of, export, no_such_run, report, runs_of, show
from clipseg_kfp.cli.shared import Endpoint, group
from clipseg_kfp.errors import ParameterError
from clipseg_kfp.runtime.screen import plain

app = group("Look at results, export them, check and tidy what runs left in a folder or bucket.")

Output = Annotated[str, typer.Argument(help="Where results are: folder or s3:// prefix, as in output_uri.")]
Config = Annotated[str, typer.Option(help="One configuration, by its digest; without it, all of them.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


@app.command("list")
def list_results(output: Output, config: Config = "", json_: AsJson = False, endpoint: Endpoint = "") -> None:
    """Lists configurations and their committed runs, the latest first.

    Examples:
        clipseg-kfp results list ./masks

        clipseg-kfp results list s3://bucket/masks --json
    """
    runs = runs_of(output, config, endpoint)
    fields = ("config", "run", "created", "source_uri", "counts", "ignored", "deleted")
    if json_:
        print(json.dumps([{name: run.get(name) for name in fields} for run in runs], indent=2))
        return
    table = Table()
    for name in ("configuration", "run", "created", "prompts"):
        table.add_column(name, overflow="fold")
    counted = ["listed", "done", "skipped", "quarantined", "masks"]
    if any(run["counts"].get("left") for run in runs):
        counted.append("left")
    for name in counted:
        table.add_column(name, justify="right")
    for run in runs:
        prompts = ", ".join(prompt["name"] for prompt in run["prompts"])
        texts = [plain(text) for text in (run["config"], run["run"], run["created"], prompts)]
        table.add_row(*texts, *(f"{run['counts'].get(name, 0):,}" for name in counted))
    Console().print(table if runs else "There are no committed runs.")


app.command("show")(show)
app.command("report")(report)
app.command("export")(export)


@app.command("verify")
def verify(
    output: Output,
    run: Annotated[
        str,
        typer.Option(help="One run, by its ID; without it, those that the current state of each is made of."),
    ] = "",
    all_: Annotated[bool, typer.Option("--all", help="All runs.")] = False,
    config: Config = "",
    json_: AsJson = False,
    endpoint: Endpoint = "",
) -> None:
    """Reads committed runs again and compares every object with its sha256; status 1 if any is not as it was.

    Examples:
        clipseg-kfp results verify ./masks

        clipseg-kfp results verify s3://bucket/masks --all
    """
    from clipseg_kfp.results import Results
    from clipseg_kfp.results.verify import EXTRA, runs_of_state, verify_run
    from clipseg_kfp.storage import open_folder

    runs, folder = runs_of(output, config, endpoint), open_folder(output, endpoint)
    if run:
        chosen = [each for each in runs if each["run"] == run]
        if not chosen:
            raise no_such_run(run, output)
    elif all_:
        chosen = runs
    else:
        groups: dict[str, list[dict[str, Any]]] = {}
        for each in runs:
            groups.setdefault(each["config"], []).append(each)
        chosen = [m for name, group in groups.items() for m in runs_of_state(Results(folder, name), group)]
    sound, told = True, []
    for manifest in chosen:
        found = verify_run(Results(folder, manifest["config"]), manifest, quiet=json_)
        sound = sound and found.sound
        names = {"config": manifest["config"], "run": manifest["run"]}
        told.append({**names, "sound": found.sound, **asdict(found)})
        size = f"{found.objects:,} objects, {found.bytes:,} bytes"
        print(f"{manifest['config']} {manifest['run']}: {size}", file=sys.stderr if json_ else sys.stdout)
        for finding in found.findings:
            note = " (no manifest names it; 'results gc' removes it)" if finding.problem == EXTRA else ""
            print(f"{finding.problem:<10} {finding.uri}{note}", file=sys.stderr if json_ else sys.stdout)
    if json_:
        print(json.dumps(told, indent=2))
    if not sound:
        print(
            "Some objects are not as their run says. Restore them from a backup, or start a run with "
            "limits.full=true under the same configuration: it makes all masks again, in a run of its own. "
            "Then delete the manifest.json of the damaged run.",
            file=sys.stderr,
        )
        raise typer.Exit(1)
    if not json_:
        print(f"{len(told):,} runs are as they were written." if told else "There are no committed runs.")


@app.command("gc")
def collect(
    output: Output,
    delete: Annotated[
        bool, typer.Option("--delete", help="Remove them; without it, they are listed.")
    ] = False,
    older_than: Annotated[
        float, typer.Option(help="Hours; younger objects stay, since a running pipeline may need them.")
    ] = 24.0,
    staging: Annotated[
        bool, typer.Option("--staging", help="Members of archives as well, while no run reads an archive.")
    ] = False,
    config: Config = "",
    json_: AsJson = False,
    endpoint: Endpoint = "",
) -> None:
    """Lists objects that no committed run names, and with --delete removes them.

    Such objects are left behind by runs that were stopped. Inputs and other files are never touched.

    Examples:
        clipseg-kfp results gc s3://bucket/masks

        clipseg-kfp results gc s3://bucket/masks --older-than 72 --delete
    """
    from clipseg_kfp.results.garbage import find_garbage, remove
    from clipseg_kfp.storage import open_folder

    if not older_than >= 0:
        raise ParameterError(
            f"--older-than is {older_than}.", "Give hours, 0 or more.", code="older_than", where="older-than"
        )
    folder = open_folder(output, endpoint)
    configs = configs_of(folder, config, output)
    garbage = list(find_garbage(folder, older_than=older_than, configs=configs, staging=staging))
    size = sum(item.bytes for item in garbage)
    removed = remove(folder, garbage) if delete else 0
    if json_:
        print(json.dumps({"objects": [asdict(item) for item in garbage], "bytes": size, "removed": removed}))
        return
    for item in garbage:
        print(f"{item.bytes:>14,}  {folder.locate(item.key)}")
    print(f"{len(garbage):,} objects that no committed run names, {size:,} bytes.")
    if delete:
        print(f"{removed:,} removed.")
    elif garbage:
        print("Nothing was removed: add --delete for that.")
