"""Recurring runs: one of a name, changed without twins, cut off and finished, and really starting runs."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cluster_backend import GIVEN, PACKAGE, SET, Backend
from cluster_state import RefusedError
from codes import fails

from clipseg_kfp import Client, Recipe, cli
from clipseg_kfp.client import ClusterError
from clipseg_kfp.client import durations as timing

Say = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def _uploaded(request: pytest.FixtureRequest) -> None:
    if "client" in request.fixturenames:
        request.getfixturevalue("client").upload(PACKAGE)


def limited(most: int) -> dict[str, Any]:
    """What a run of at most so many images is given."""
    return {**GIVEN, "limits": {"limit": most}}


def only(backend: Backend) -> Any:
    (one,) = backend.state.recurring.values()
    return one


def test_the_same_schedule_is_made_once(client: Client, backend: Backend) -> None:
    first = client.schedules.apply("nightly", parameters=limited(5), cron="30 2 * * *")
    again = client.schedules.apply("nightly", parameters=limited(5), cron="0 30 2 * * *")
    assert (first.action, again.action) == ("created", "unchanged")
    made = only(backend)
    assert made.trigger.cron_schedule.cron == "0 30 2 * * *"
    assert (made.no_catchup, made.max_concurrency, made.mode) == (True, "1", "ENABLE")
    assert made.runtime_config.parameters == limited(5)


@pytest.mark.parametrize(
    "change",
    [
        {"cron": "0 3 * * *"},
        {"cron": "", "every": "6h"},
        {"parameters": limited(6)},
        {"max_concurrency": 2},
        {"catch_up": True},
        {"experiment": "other"},
        {"end": datetime(2030, 1, 1, tzinfo=UTC)},
        {"service_account": "runner"},
        {"recipe": Recipe("registry.example/new:2")},
    ],
    ids=" ".join,
)
def test_a_change_leaves_one_schedule(client: Client, backend: Backend, change: dict[str, Any]) -> None:
    given: dict[str, Any] = {"parameters": limited(5), "cron": "30 2 * * *"}
    old = client.schedules.apply("nightly", **given).schedule
    applied = client.schedules.apply("nightly", **{**given, **change})
    assert applied.action == "replaced" and applied.schedule.id != old.id
    assert only(backend).recurring_run_id == applied.schedule.id
    assert applied.schedule.enabled
    assert client.schedules.apply("nightly", **{**given, **change}).action == "unchanged"


def test_enabling_and_disabling_need_no_replacement(client: Client, backend: Backend) -> None:
    made = client.schedules.apply("nightly", parameters=GIVEN, every="1h").schedule
    assert client.schedules.apply("nightly", parameters=GIVEN, every="1h", enabled=False).action == "disabled"
    assert not backend.state.fire()
    assert client.schedules.apply("nightly", parameters=GIVEN, every="1h").action == "enabled"
    assert only(backend).recurring_run_id == made.id
    assert client.schedules.disable("nightly") and not client.schedules.disable("nightly")
    assert client.schedules.enable(made.id) and only(backend).mode == "ENABLE"


def test_runs_of_a_schedule_are_bounded_and_stay_after_it(client: Client, backend: Backend) -> None:
    client.schedules.apply("often", parameters=limited(1), every="30m", max_concurrency=2)
    backend.state.steps = 10**6
    assert [len(backend.state.fire()) for _ in range(3)] == [1, 1, 0]
    runs = client.runs.list()
    assert len(runs) == 2 and all(run.parameters["limits"] == {"limit": 1} for run in runs)
    client.schedules.delete("often")
    assert not client.schedules.list() and len(client.runs.list()) == 2
    with fails("schedule_not_found", where="often"):
        client.schedules.delete("often")


@pytest.mark.parametrize("cut", ["create", "delete", "enable"])
def test_a_replacement_that_was_cut_off_is_finished(client: Client, backend: Backend, cut: str) -> None:
    client.schedules.apply("nightly", parameters=GIVEN, cron="30 2 * * *")
    method, path = {
        "create": ("create_recurring", ""),
        "delete": ("need", "RecurringRun"),
        "enable": ("switch", ""),
    }[cut]
    real = getattr(backend.state, method)

    def fail(*arguments: Any) -> Any:
        if cut == "delete" and (arguments[2] != path or len(backend.state.recurring) < 2):
            return real(*arguments)
        if cut == "create":
            real(*arguments)
        raise ConnectionAbortedError  # as a killed API server: no answer

    setattr(backend.state, method, fail)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("clipseg_kfp.client.api.PATIENCE_SECONDS", 0.1)
        with pytest.raises(ClusterError) as error:
            client.schedules.apply("nightly", parameters=GIVEN, cron="0 4 * * *")
    if cut == "enable":
        assert (
            error.value.remedy == f"Enable it: clipseg-kfp schedule enable {only(backend).recurring_run_id}"
        )
    setattr(backend.state, method, real)
    assert sum(one.mode == "ENABLE" for one in backend.state.recurring.values()) <= 1, "never two at once"
    applied = client.schedules.apply("nightly", parameters=GIVEN, cron="0 4 * * *")
    assert only(backend).trigger.cron_schedule.cron == "0 0 4 * * *"
    assert only(backend).mode == "ENABLE" and applied.action in ("replaced", "enabled")


def test_twins_that_others_made_are_left_alone(client: Client, backend: Backend) -> None:
    client.schedules.apply("nightly", parameters=GIVEN, every="1h")
    twin = backend.state.create_recurring(_copy(only(backend)))
    with fails("schedule_not_unique", where="nightly"):
        client.schedules.apply("nightly", parameters=GIVEN, every="2h")
    assert len(backend.state.recurring) == 2
    client.schedules.delete(twin.recurring_run_id)
    assert client.schedules.apply("nightly", parameters=GIVEN, every="2h").action == "replaced"


def _copy(one: Any) -> Any:
    same = copy.deepcopy(one)
    same.namespace = None
    return same


def test_update_changes_what_is_given_and_keeps_the_rest(say: Say, client: Client, backend: Backend) -> None:
    end = datetime(2030, 1, 1, tzinfo=UTC)
    client.schedules.apply(
        "nightly",
        parameters={**limited(5), "views.flip": True},
        cron="30 2 * * *",
        max_concurrency=3,
        end=end,
    )
    version = only(backend).pipeline_version_reference.pipeline_version_id
    client.upload("batch-segmentation", Recipe("registry.example/newer:1"))
    status, out, err = say("schedule", "update", "nightly", "--set", "limits.limit=9")
    now = only(backend)
    assert status == 0 and "replaced: nightly (cron 0 30 2 * * *, enabled, catch-up off)" in out, err
    assert now.runtime_config.parameters == {**limited(9), "views": {"flip": True}}
    assert (now.max_concurrency, now.trigger.cron_schedule.end_time) == ("3", end)
    assert now.pipeline_version_reference.pipeline_version_id == version  # until a new one is asked for
    say("schedule", "update", "nightly", "--pipeline", "batch-segmentation", "--every", "1d")
    assert only(backend).pipeline_version_reference.pipeline_version_id != version
    assert only(backend).trigger.periodic_schedule.interval_second == "86400"
    assert say("schedule", "update", "nobody")[0] == 1
    first = client.api.read(
        client.api.pipelines.pipeline_service_get_pipeline_version,
        pipeline_id=only(backend).pipeline_version_reference.pipeline_id,
        pipeline_version_id=version,
    )
    times = ["--start", "2029-01-01", "--end", "2031-01-01T06:00Z"]
    assert say("schedule", "update", "nightly", "--pipeline-version", first.display_name, *times)[0] == 0
    assert only(backend).pipeline_version_reference.pipeline_version_id == version
    assert only(backend).trigger.periodic_schedule.start_time == datetime(2029, 1, 1, tzinfo=UTC)
    assert only(backend).trigger.periodic_schedule.end_time == datetime(2031, 1, 1, 6, tzinfo=UTC)
    assert "has no version 'none'" in say("schedule", "update", "nightly", "--pipeline-version", "none")[2]


def test_the_namespace_that_a_schedule_answers_with_is_never_sent_back(
    say: Say, client: Client, backend: Backend
) -> None:
    client.schedules.apply("nightly", parameters=limited(5), every="1h")
    assert only(backend).namespace == "kubeflow"  # and its experiment has none
    assert say("schedule", "update", "nightly", "--set", "limits.limit=9")[0] == 0
    assert only(backend).runtime_config.parameters == limited(9)


def test_a_schedule_is_updated_in_its_namespace(alice: Client, users: Backend) -> None:
    alice.upload(PACKAGE)
    alice.schedules.apply("nightly", parameters=limited(5), every="1h")
    alice.schedules.update("nightly", {"limits.limit": 9})
    assert (only(users).namespace, only(users).runtime_config.parameters) == ("team-a", limited(9))


@pytest.mark.parametrize("cut_off_before", [False, True])
def test_a_refused_replacement_leaves_the_old_schedule_at_work(
    client: Client, backend: Backend, monkeypatch: pytest.MonkeyPatch, cut_off_before: bool
) -> None:
    old = client.schedules.apply("nightly", parameters=limited(5), every="1h").schedule
    if cut_off_before:  # a replacement that waits, disabled, for the old one to go
        half = _copy(only(backend))
        half.mode, half.description, half.max_concurrency = "DISABLE", f"Replaces {old.id}", "2"
        backend.state.create_recurring(half)

    def refuse(body: Any) -> Any:
        raise RefusedError(400, "Experiment belongs to namespace '' instead of 'kubeflow'")

    monkeypatch.setattr(backend.state, "create_recurring", refuse)
    for change in (
        lambda: client.schedules.update("nightly", {"limits.limit": 9}),
        lambda: client.schedules.apply("nightly", parameters=limited(9), cron="0 4 * * *"),
    ):
        with pytest.raises(ClusterError):
            change()
        left = only(backend)
        assert (left.recurring_run_id, left.mode, left.status) == (old.id, "ENABLE", "ENABLED")
        assert left.runtime_config.parameters == limited(5)
    assert len(backend.state.fire()) == 1


def test_a_name_that_all_runs_would_share_is_refused(say: Say, client: Client, backend: Backend) -> None:
    status, _, err = say("schedule", "create", "nightly", "--every", "1h", *SET, "--set", "outputs.run_id=x")
    assert status == 1 and "its second run would find 'x' in use" in err and not backend.state.recurring
    client.schedules.apply("nightly", every="1h", parameters={**GIVEN, "outputs.run_id": ""})
    with fails("run_id_of_schedule", where="outputs.run_id"):
        client.schedules.update("nightly", {"outputs.run_id": "x"})
    only(backend).runtime_config.parameters["outputs"] = {"run_id": "x"}  # as another client may have made it
    with fails("run_id_of_schedule", where="outputs.run_id"):
        client.schedules.update("nightly", every="2h")
    client.schedules.update("nightly", {"outputs.run_id": ""}, every="2h")


def test_catch_up_does_not_repeat_what_was_done(client: Client, backend: Backend) -> None:
    begun = datetime.now(UTC).replace(microsecond=0) - timedelta(days=30)
    client.schedules.apply("daily", parameters=GIVEN, cron="0 2 * * *", start=begun, catch_up=True)
    assert only(backend).trigger.cron_schedule.start_time == begun
    client.schedules.update("daily", {"limits.limit": 3})
    moved = only(backend).trigger.cron_schedule.start_time
    assert datetime.now(UTC) - moved < timedelta(minutes=1)


def test_the_command_line_makes_lists_and_deletes(say: Say, client: Client, backend: Backend) -> None:
    status, out, _ = say(
        "schedule", "create", "nightly", "--cron", "30 2 * * *", *SET, "--set", "limits.limit=5"
    )
    assert status == 0 and "created: nightly (cron 0 30 2 * * *, enabled, catch-up off)" in out
    assert "second 0 was put before your five fields" in out and "/#/recurringrun/details/" in out
    rows = json.loads(say("schedule", "list", "--json")[1])
    assert [(one["name"], one["when"], one["enabled"]) for one in rows] == [
        ("nightly", "cron 0 30 2 * * *", True)
    ]
    assert "nightly" in say("schedule", "list")[1]
    assert say("schedule", "disable", "nightly")[1] == "disabled\n"
    assert say("schedule", "disable", "nightly")[1] == "was disabled already\n"
    assert say("schedule", "enable", "nightly")[1] == "enabled\n"
    assert say("schedule", "delete", "nightly")[1] == "deleted\n"
    assert not backend.state.recurring


@pytest.mark.parametrize(
    ("words", "code", "where"),
    [
        (["--cron", "* * *"], "cron_fields", "cron"),
        (["--cron", "0 25 * * *"], "cron_value", "cron"),
        (["--cron", "0 2 * * 7"], "cron_value", "cron"),
        ([], "cron_or_every", ""),
        (["--cron", "0 2 * * *", "--every", "1h"], "cron_or_every", ""),
        (["--every", "soon"], "duration", "every"),
        (["--every", "1h", "--start", "tomorrow"], "time", "--start"),
        (["--every", "1h", "--start", "2026-12-02", "--end", "2026-12-01"], "end_before_start", "end"),
    ],
)
def test_wrong_times_are_explained(
    say: Say, client: Client, backend: Backend, words: list[str], code: str, where: str
) -> None:
    with fails(code, where=where):
        cli.app(["schedule", "create", "nightly", *SET, *words])
    assert say("schedule", "create", "nightly", *SET, *words)[0] == 1
    assert not backend.state.recurring and not backend.state.experiments


@pytest.mark.parametrize(
    ("given", "six"),
    [
        ("*/15 * * * *", "0 */15 * * * *"),
        ("0 9 ? * MON-FRI", "0 0 9 ? * MON-FRI"),
        ("5 0 9 1,15 JAN *", "5 0 9 1,15 JAN *"),
        ("@daily", "@daily"),
    ],
)
def test_cron_gets_seconds(given: str, six: str) -> None:
    assert timing.cron(given) == six


@pytest.mark.parametrize(
    "wrong",
    [
        "60 * * * *",
        "* * 0 * *",
        "*/0 * * * *",
        "5-1 * * * *",
        "1-2-3 * * * *",
        "? * * * *",
        "0 2 L * *",
        "0 2 * * FRI-MON",
    ],
)
def test_wrong_cron_fields_are_refused(wrong: str) -> None:
    with fails("cron_value", where="cron"):
        timing.cron(wrong)


@pytest.mark.parametrize(
    ("text", "value"), [("90", 90), ("15m", 900), ("1h30m", 5400), ("1d", 86400), ("2w", 1209600)]
)
def test_durations(text: str, value: int) -> None:
    assert timing.seconds(text, "it") == value
