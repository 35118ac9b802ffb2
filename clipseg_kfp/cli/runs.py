"""``clipseg-kfp runs``: what goes on and what came out."""

from __future__ import annotations

import dataclasses
import json
import sys
from typing import Annotated, Any

import typer
from rich.console import Console

from clipseg_kfp.cli.connection import connected
from clipseg_kfp.cli.shared import Endpoint, group
from clipseg_kfp.client import Client, Run, RunError, StartTimeoutError, WaitTimeoutError
from clipseg_kfp.client import display as show
from clipseg_kfp.client.durations import seconds
from clipseg_kfp.client.logs import kubectl_logs
from clipseg_kfp.client.progress import Follower
from clipseg_kfp.client.tasks import CANCELED, FAILED, SKIPPED, SUCCEEDED
from clipseg_kfp.client.wait import ended_badly
from clipseg_kfp.errors import ClipsegKfpError

app = group("Look at runs on the cluster, wait for them, cancel them, read what came out.")

#: Exit status of ``wait``, ``watch`` and ``run --wait``; 1 is an error of the client, 2 wrong usage.
EXIT_STATUS = {SUCCEEDED: 0, FAILED: 3, CANCELED: 4, SKIPPED: 5}
EXIT_TIMEOUT, EXIT_NOT_STARTED, EXIT_INTERRUPTED = 6, 7, 130

Named = Annotated[str, typer.Argument(help="ID of the run, or its name: the newest of that name.")]
Timeout = Annotated[str, typer.Option(help="Stop waiting after, for example, 90s, 15m, 6h or 1d.")]
StartTimeout = Annotated[
    str, typer.Option(help="Stop waiting where no pod of a task has begun after, for example, 5m.")
]
Json = Annotated[bool, typer.Option("--json", help="JSON instead of a table.")]


def limits(timeout: str, start_timeout: str) -> tuple[float | None, float | None]:
    """Both options as seconds; ``None`` where they are empty."""
    return (
        seconds(timeout, "--timeout") if timeout else None,
        seconds(start_timeout, "--start-timeout") if start_timeout else None,
    )


def follow(run: Run, timeout: float | None, start_timeout: float | None, *, live: bool | None = None) -> int:
    """Follows a run to its end and says how it ended; Ctrl-C leaves it running.

    Args:
        run: the run.
        timeout: seconds; ``None`` waits for ever.
        start_timeout: likewise, until a pod of a task has begun.
        live: whether to draw a table; ``None`` where there is a terminal.

    Returns:
        The exit status that belongs to the end.
    """
    console = Console()
    try:
        with show.following(console, live=console.is_terminal if live is None else live) as view:
            run.wait(timeout, start_timeout=start_timeout, on_change=view)
    except (RunError, WaitTimeoutError) as error:
        _say(error.message, error.remedy)
        if isinstance(error, RunError):
            return EXIT_STATUS[error.state]
        return EXIT_NOT_STARTED if isinstance(error, StartTimeoutError) else EXIT_TIMEOUT
    except KeyboardInterrupt:
        _say("Not waiting any more; the run goes on.", f"Come back with: clipseg-kfp runs watch {run.id}")
        _say("", f"End it with: clipseg-kfp runs cancel {run.id}")
        return EXIT_INTERRUPTED
    print(f"succeeded: {show.plain(run.name)}")
    print(f"  results: clipseg-kfp runs metrics {run.id}")
    return 0


def _say(message: str, remedy: str) -> None:
    for line in filter(None, (message, remedy and f"  {remedy}")):
        print(line, file=sys.stderr)


@app.command("list")
@connected
def list_runs(
    client: Client,
    most: Annotated[int, typer.Option("--most", min=1, help="How many, the newest first.")] = 20,
    experiment: Annotated[str, typer.Option(help="Only runs of this experiment.")] = "",
    as_json: Json = False,
) -> None:
    """Lists the newest runs.

    Example:
        clipseg-kfp runs list --most 5
    """
    runs = client.runs.list(most, experiment)
    if as_json:
        _json([_facts(run) for run in runs])
    else:
        Console().print(show.run_table(runs) if runs else "There are no runs.")


@app.command("show")
@connected
def show_run(client: Client, run: Named, endpoint: Endpoint = "", as_json: Json = False) -> None:
    """Shows the state of a run, its shards and tasks, why it failed, and where to look further.

    Shards, images and the reason of a failure are read from the buckets, with AWS_ACCESS_KEY_ID and
    AWS_SECRET_ACCESS_KEY, where they are reached from here.

    Examples:
        clipseg-kfp runs show 5f1c…

        clipseg-kfp runs show 5f1c… --endpoint http://localhost:9000 --json
    """
    found = client.runs.get(run)
    found.endpoint = endpoint
    told = Follower()(found)
    reason = ended_badly(found) if found.ended and found.state != SUCCEEDED else None
    if as_json:
        tasks = [
            {"name": one.name, "state": one.state, "states": dict(one.states), "seconds": one.seconds}
            for one in found.tasks
        ]
        more = {"parameters": found.parameters, "tasks": tasks, "notes": told}
        _json({**_facts(found), **more, "reason": reason and {"message": reason[0], "remedy": reason[1]}})
        return
    console = Console()
    console.print(show.run_view(found, told), soft_wrap=True)
    hint = f"logs: clipseg-kfp runs logs {found.id}"
    if not found.ended:
        hint += f"\n  of pods that run: {kubectl_logs(found)}"
    lines = [*(reason or ()), f"ID: {found.id}", f"UI: {found.url}"]
    for line in filter(None, lines if reason and found.id in reason[1] else [*lines, hint]):
        console.print(show.plain_lines(line), markup=False, emoji=False, highlight=False, soft_wrap=True)


@app.command("logs")
@connected
def show_logs(
    client: Client,
    run: Named,
    task: Annotated[str, typer.Option(help="Only this task's, for example segment-images.")] = "",
    shard: Annotated[int | None, typer.Option(min=0, help="Only this shard's, from 0.")] = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="Everything: Kubeflow's own lines and its drivers' logs as well.")
    ] = False,
    endpoint: Endpoint = "",
    store: Annotated[
        str,
        typer.Option(
            "--artifact-store",
            help="Where Kubeflow keeps logs; else KFP_ARTIFACT_STORE, or s3://mlpipeline.",
        ),
    ] = "",
) -> None:
    """Shows what the steps of a run have said, without kubectl, also when its pods are gone.

    Reads Kubeflow's artifact store with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY. A pod's log comes there when
    the pod ends.

    Examples:
        clipseg-kfp runs logs 5f1c…

        clipseg-kfp runs logs 5f1c… --task segment-images --shard 3 --endpoint http://localhost:9000
    """
    found = client.runs.get(run)
    found.endpoint, found.artifact_store = endpoint, store or found.artifact_store
    try:
        for log in found.logs(task, shard, drivers=raw):
            whose = log.place.task or "?"
            whose += "" if log.place.shard is None else f", shard {log.place.shard}"
            whose += ", driver" if log.place.driver else ""
            print(f"==> {whose}  {show.plain(log.pod or log.uri)}")
            print(show.plain_lines(log.text if raw else log.own).rstrip("\n"), end="\n\n")
    except ClipsegKfpError as error:
        if "kubectl" in error.remedy:
            raise
        raise type(error)(
            error.message, f"{error.remedy} Or, while pods are there: {kubectl_logs(found)}"
        ) from None
    if not found.ended:
        print(f"of pods that run: {kubectl_logs(found)}", file=sys.stderr)


@app.command("watch")
@connected
def watch(
    client: Client,
    run: Named,
    timeout: Timeout = "",
    start_timeout: StartTimeout = "",
    endpoint: Endpoint = "",
) -> None:
    """Follows a run with a live table of its tasks; Ctrl-C leaves it running.

    Exit status: 0 succeeded, 3 failed, 4 canceled, 5 skipped, 6 timeout, 7 no pod of a task began within
    --start-timeout, 130 Ctrl-C, 1 an error of the client, 2 wrong usage.

    Example:
        clipseg-kfp runs watch 5f1c… --timeout 6h
    """
    _follow(client, run, timeout, start_timeout, endpoint)


@app.command("wait")
@connected
def wait(
    client: Client,
    run: Named,
    timeout: Timeout = "",
    start_timeout: StartTimeout = "",
    endpoint: Endpoint = "",
) -> None:
    """Waits for a run with a line for each change, for scripts.

    Exit status: 0 succeeded, 3 failed, 4 canceled, 5 skipped, 6 timeout, 7 no pod of a task began within
    --start-timeout, 130 Ctrl-C, 1 an error of the client, 2 wrong usage.

    Example:
        clipseg-kfp runs wait 5f1c… --timeout 6h --start-timeout 10m
    """
    _follow(client, run, timeout, start_timeout, endpoint, live=False)


def _follow(
    client: Client, run: str, timeout: str, start_timeout: str, endpoint: str, live: bool | None = None
) -> None:
    times = limits(timeout, start_timeout)
    found = client.runs.get(run)
    found.endpoint = endpoint
    raise typer.Exit(follow(found, *times, live=live))


@app.command("cancel")
@connected
def cancel(client: Client, run: Named) -> None:
    """Ends a run; masks that it wrote stay, no manifest names them, and a later run makes them again.

    Example:
        clipseg-kfp runs cancel 5f1c…
    """
    found = client.runs.get(run)
    before = found.ended
    found.cancel()
    print(f"ended before, as {found.state}" if before else f"asked to end; now {found.state}")


@app.command("retry")
@connected
def retry(client: Client, run: Named) -> None:
    """Starts the failed tasks of a run again; what has succeeded is kept.

    Example:
        clipseg-kfp runs retry 5f1c…
    """
    found = client.runs.get(run).retry()
    print(f"started again; now {found.state}")
    print(f"  follow it: clipseg-kfp runs watch {found.id}")


@app.command("artifacts")
@connected
def list_artifacts(client: Client, run: Named, endpoint: Endpoint = "", as_json: Json = False) -> None:
    """Lists what a run made: files of its committed results, and artifacts where the API names them.

    Reads the bucket with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.

    Example:
        clipseg-kfp runs artifacts 5f1c… --endpoint http://localhost:9000
    """
    found = client.runs.get(run).artifacts(endpoint)
    if as_json:
        _json([dataclasses.asdict(one) for one in found])
    else:
        Console().print(show.artifact_table(found))


@app.command("metrics")
@connected
def list_metrics(client: Client, run: Named, endpoint: Endpoint = "", as_json: Json = False) -> None:
    """Shows counts, agreement with ground truth and quarantine of a run from its bucket.

    Example:
        clipseg-kfp runs metrics 5f1c… --json
    """
    from clipseg_kfp.client.outputs import results
    from clipseg_kfp.results.summary import show as show_summary

    summary = results(client.runs.get(run), endpoint)
    if as_json:
        _json(summary.metrics)
    else:
        show_summary(summary, Console())


def _facts(run: Run) -> dict[str, Any]:
    created = run.created.isoformat() if run.created else None
    return {"id": run.id, "name": run.name, "state": run.state, "created": created, "url": run.url}


def _json(value: Any) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False, default=str))
