"""``clipseg-kfp schedule``: recurring runs."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from rich.console import Console

from clipseg_kfp.cli.cluster import (
    Experiment,
    Pipeline,
    PromptsFile,
    ServiceAccount,
    Settings,
    SettingsFile,
    Version,
    given_parameters,
)
from clipseg_kfp.cli.connection import connected
from clipseg_kfp.cli.shared import group
from clipseg_kfp.client import Client, Recipe
from clipseg_kfp.client.display import plain, schedule_table
from clipseg_kfp.client.runs import DEFAULT_EXPERIMENT
from clipseg_kfp.client.schedules import Applied
from clipseg_kfp.client.upload import DEFAULT_PIPELINE
from clipseg_kfp.errors import ParameterError

app = group("Recurring runs: each takes what is new in the bucket.")

Name = Annotated[str, typer.Argument(help="Name of the schedule.")]
Either = Annotated[str, typer.Argument(help="Name or ID of the schedule.")]
Cron = Annotated[str, typer.Option(help="Five fields as in crontab, or six with seconds first; usually UTC.")]
Every = Annotated[str, typer.Option(help="Instead: an interval such as 30m, 6h or 1d.")]
Start = Annotated[str, typer.Option(help="No run before, such as 2026-12-01T06:00Z.")]
End = Annotated[str, typer.Option(help="No run after.")]


def _check_when(cron: str, every: str) -> None:
    """Judges the times before anything connects."""
    from clipseg_kfp.client import durations

    if cron:
        durations.cron(cron)
    if every:
        durations.seconds(every, "every")


@app.command("create")
@connected
def create(
    client: Client,
    recipe: Recipe,
    name: Name,
    pipeline: Pipeline = DEFAULT_PIPELINE,
    cron: Cron = "",
    every: Every = "",
    start: Start = "",
    end: End = "",
    catch_up: Annotated[
        bool, typer.Option("--catch-up/--no-catch-up", help="Make up for missed starts, one run each.")
    ] = False,
    max_concurrency: Annotated[int, typer.Option(min=1, max=10, help="Runs at once.")] = 1,
    enabled: Annotated[bool, typer.Option("--enabled/--disabled", help="Whether it starts runs.")] = True,
    settings: Settings = None,
    parameters: SettingsFile = "",
    prompts_file: PromptsFile = "",
    version: Version = "",
    experiment: Experiment = DEFAULT_EXPERIMENT,
    service_account: ServiceAccount = "",
) -> None:
    """Creates the schedule of this name, changes it, or leaves it as it is.

    Examples:
        clipseg-kfp schedule create nightly --cron "30 2 * * *" --set source_uri=s3://mlpipeline/shared/photos

        clipseg-kfp schedule create often batch-segmentation.yaml --every 30m --parameters parameters.yaml
    """
    _check_when(cron, every)
    found = client.version(pipeline, recipe, version=version)
    applied = client.schedules.apply(
        name,
        found,
        given_parameters(found, settings, parameters, prompts_file),
        cron=cron,
        every=every,
        start=_time(start, "--start"),
        end=_time(end, "--end"),
        catch_up=catch_up,
        max_concurrency=max_concurrency,
        enabled=enabled,
        experiment=experiment,
        service_account=service_account,
    )
    _report(applied, cron)


@app.command("update")
@connected
def update(
    client: Client,
    recipe: Recipe,
    name: Either,
    cron: Cron = "",
    every: Every = "",
    start: Start = "",
    end: End = "",
    catch_up: Annotated[bool | None, typer.Option("--catch-up/--no-catch-up", help="Missed starts.")] = None,
    max_concurrency: Annotated[int | None, typer.Option(min=1, max=10, help="Runs at once.")] = None,
    settings: Settings = None,
    parameters: SettingsFile = "",
    prompts_file: PromptsFile = "",
    pipeline: Annotated[
        str, typer.Option(help="Take the newest version of this pipeline, or a YAML file.")
    ] = "",
    version: Annotated[
        str,
        typer.Option(
            "--pipeline-version", help="Take this version; without --pipeline, of the same pipeline."
        ),
    ] = "",
) -> None:
    """Changes what is given of a schedule and keeps the rest, its version included.

    Examples:
        clipseg-kfp schedule update nightly --cron "0 4 * * *"

        clipseg-kfp schedule update nightly --pipeline batch-segmentation --set threshold=0.4
    """
    if recipe and not pipeline:
        raise ParameterError(
            "--image, --gpu-image, --variant and --settings need --pipeline.",
            "Name the pipeline to upload with them.",
            code="recipe_without_pipeline",
            where="pipeline",
        )
    _check_when(cron, every)
    old = client.schedules.get(name)
    found = (
        client.version(pipeline, recipe, version=version)
        if pipeline
        else client.schedules.version(old, version)
    )
    applied = client.schedules.update(
        old.id,
        given_parameters(found, settings, parameters, prompts_file),
        version=found,
        cron=cron,
        every=every,
        start=_time(start, "--start"),
        end=_time(end, "--end"),
        catch_up=catch_up,
        max_concurrency=max_concurrency,
    )
    _report(applied, cron)


@app.command("list")
@connected
def list_schedules(
    client: Client, as_json: Annotated[bool, typer.Option("--json", help="JSON instead of a table.")] = False
) -> None:
    """Lists all schedules.

    Example:
        clipseg-kfp schedule list
    """
    found = client.schedules.list()
    if not as_json:
        Console().print(schedule_table(found) if found else "There are no schedules.")
        return
    rows: list[dict[str, Any]] = [
        {
            "id": one.id,
            "name": one.name,
            "when": one.when,
            "enabled": one.enabled,
            "catch_up": one.catch_up,
            "max_concurrency": int(one.data.max_concurrency or 1),
        }
        for one in found
    ]
    print(json.dumps(rows, indent=2, ensure_ascii=False))


@app.command("enable")
@connected
def enable(client: Client, name: Either) -> None:
    """Lets a schedule start runs again.

    Example:
        clipseg-kfp schedule enable nightly
    """
    print("enabled" if client.schedules.enable(name) else "was enabled already")


@app.command("disable")
@connected
def disable(client: Client, name: Either) -> None:
    """Keeps a schedule from starting runs; those that go on are left alone.

    Example:
        clipseg-kfp schedule disable nightly
    """
    print("disabled" if client.schedules.disable(name) else "was disabled already")


@app.command("delete")
@connected
def delete(client: Client, name: Either) -> None:
    """Deletes a schedule; its runs stay.

    Example:
        clipseg-kfp schedule delete nightly
    """
    client.schedules.delete(name)
    print("deleted")


def _report(applied: Applied, cron: str) -> None:
    one = applied.schedule
    state = "enabled" if one.enabled else "disabled"
    print(
        f"{applied.action}: {plain(one.name)} ({one.when}, {state}, catch-up {'on' if one.catch_up else 'off'})"
    )
    if len(cron.split()) == 5:
        print("  Kubeflow's cron has seconds first; second 0 was put before your five fields.")
    print(f"  {one.url}")


def _time(text: str, option: str) -> datetime | None:
    if not text:
        return None
    try:
        value = datetime.fromisoformat(text)
    except ValueError:
        raise ParameterError(
            f"{option}: '{text}' is not a time.", "Write 2026-12-01T06:00Z.", code="time", where=option
        ) from None
    return value if value.tzinfo else value.replace(tzinfo=UTC)
