"""Tables of runs, tasks, schedules and artifacts for a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from clipseg_kfp.client.durations import duration
from clipseg_kfp.client.progress import Follower
from clipseg_kfp.client.tasks import CANCELED, FAILED, SKIPPED, SUCCEEDED
from clipseg_kfp.naming import printable
from clipseg_kfp.runtime import screen

if TYPE_CHECKING:
    from collections.abc import Iterator

    from clipseg_kfp.client.outputs import Artifact
    from clipseg_kfp.client.runs import Run
    from clipseg_kfp.client.schedules import Schedule


_STYLES = {
    SUCCEEDED: "green",
    FAILED: "bold red",
    CANCELED: "yellow",
    SKIPPED: "dim",
    "RUNNING": "cyan",
    "PENDING": "dim",
}


def task_table(run: Run) -> Table:
    """A row a task: state, how many of its shards are done, duration."""
    table = Table()
    for name, justify in (("task", "left"), ("state", "left"), ("done", "right"), ("time", "right")):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    for task in run.tasks:
        count = f"{task.done}/{task.instances}" if task.instances > 1 else ""
        table.add_row(safe(task.name), state_text(task.state), count, duration(task.seconds))
    return table


def run_view(run: Run, told: Sequence[str]) -> Group:
    """The view of a run: its name and state, what is told of it, and the table of its tasks while it is fresh."""
    title = Text.assemble((plain(run.name), "bold"), "  ", state_text(run.state))
    tables = [task_table(run)] if run.tasks else []
    return Group(title, *tables, *(Text(plain(line)) for line in told))


def state_text(state: str) -> Text:
    """A state in its color."""
    return Text(state, style=_STYLES.get(state, ""))


def run_table(runs: Sequence[Run]) -> Table:
    """A row a run."""
    table = _listing()
    for name in ("run", "state", "made (UTC)", "ID"):
        table.add_column(name, overflow="fold", min_width=_LEAST.get(name), no_wrap=name == "ID")
    for run in runs:
        table.add_row(safe(run.name), state_text(run.state), moment(run.created), run.id)
    return table


#: What stays readable on narrow terminals; an ID stays whole, to be copied.
_LEAST = {"run": 18, "schedule": 9, "when": 9, "state": 9, "enabled": 7}


def _listing() -> Table:
    """A table without lines: 80 columns are few for names and IDs."""
    return Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)


def schedule_table(schedules: Sequence[Schedule]) -> Table:
    """A row a schedule."""
    table = _listing()
    for name in ("schedule", "when", "enabled", "catch-up", "ID"):
        table.add_column(name, overflow="fold", min_width=_LEAST.get(name), no_wrap=name == "ID")
    for one in schedules:
        table.add_row(
            safe(one.name),
            safe(one.when),
            "yes" if one.enabled else "no",
            "yes" if one.catch_up else "no",
            one.id,
        )
    return table


def artifact_table(artifacts: Sequence[Artifact]) -> Table:
    """A row an artifact."""
    table = Table()
    for name in ("task", "name", "bytes", "where"):
        table.add_column(name, overflow="fold", justify="right" if name == "bytes" else "left")
    for one in artifacts:
        size = "" if one.bytes is None else f"{one.bytes:,}"
        table.add_row(safe(one.task), safe(one.name), size, safe(one.uri))
    return table


@contextmanager
def following(console: Console, *, live: bool) -> Iterator[Callable[[Run], None]]:
    """Shows a run while it is waited for: a live table in a terminal, a line a change elsewhere."""
    if not live:
        yield _Lines()
        return
    follower = Follower()
    with Live(console=console, refresh_per_second=4) as view:
        # drawn at once: the next look may be the last, and the thread that draws may not have come by
        yield lambda run: view.update(run_view(run, follower(run)), refresh=True)


class _Lines:
    """For logs of CI: a line whenever a state has changed, shards have been done, or there is news."""

    def __init__(self) -> None:
        self._follower = Follower()
        self._said: dict[str, str] = {}

    def __call__(self, run: Run) -> None:
        for line in self._follower(run):
            self._say(line, line, plain(line))
        for task in run.tasks:
            done = f" ({task.done}/{task.instances})" if task.instances > 1 else ""
            self._say(f"task {task.name}", task.state + done, f"{plain(task.name)}: {task.state}{done}")
        self._say("run", run.state, f"run: {run.state}")

    def _say(self, what: str, now: str, line: str) -> None:
        if self._said.get(what, "PENDING") != now:
            self._said[what] = now
            print(f"{datetime.now(UTC):%H:%M:%S} {line}", file=sys.stderr, flush=True)


def moment(value: datetime | None) -> str:
    """Month, day and time in UTC, to the minute; the year is in the JSON."""
    return f"{value.astimezone(UTC):%m-%d %H:%M}" if value and value.year > 1970 else ""


def plain(text: str) -> str:
    """Names are data: no terminal codes, and no logins of URIs."""
    return printable(text)


def plain_lines(text: str) -> str:
    """Logs are data, of many lines: no terminal codes."""
    return "\n".join(map(plain, text.expandtabs().split("\n")))


def safe(text: str) -> Text:
    """Names are data: no terminal codes, no markup, no emoji codes."""
    return screen.plain(text)
