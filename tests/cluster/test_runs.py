"""Runs: started with checked parameters, followed to every kind of end, canceled, retried, found again."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cluster_backend import GIVEN, PACKAGE, SET, Backend
from cluster_state import RefusedError
from codes import fails, refuses
from rich.console import Console

from clipseg_kfp import Client, Recipe, cli
from clipseg_kfp.client import NotFoundError, RunError
from clipseg_kfp.client import wait as waiting
from clipseg_kfp.client.display import following, run_table, schedule_table
from clipseg_kfp.errors import ParameterError

Say = Callable[..., tuple[int, str, str]]


def test_five_lines_of_python(backend: Backend) -> None:
    client = Client(backend.url)
    client.upload(PACKAGE)
    given = {**GIVEN, "prompts": ["a cat", {"name": "cup", "texts": ["a mug"]}], "limits.limit": 5}
    run = client.runs.start("batch-segmentation", given)
    run.wait()
    assert run.state == "SUCCEEDED" and run.url == f"{backend.url}/#/runs/details/{run.id}"
    sent = backend.state.runs[run.id]
    del given["limits.limit"]
    assert sent.runtime_config.parameters == {**given, "limits": {"limit": 5}}
    assert run.parameters["threshold"] == 0.5 and run.parameters["limits"] == {"limit": 5}


def test_a_file_is_uploaded_and_run(client: Client, backend: Backend) -> None:
    for _ in range(2):
        client.runs.start(PACKAGE, GIVEN)
    assert len(backend.state.versions) == 1 and len(backend.state.runs) == 2
    assert {one.display_name for one in backend.state.experiments.values()} == {"Default"}


def test_the_newest_version_runs_unless_one_is_named(client: Client, backend: Backend) -> None:
    old = client.upload("batch-segmentation", Recipe("registry.example/a:1"))
    new = client.upload("batch-segmentation", Recipe("registry.example/a:2"))
    ran = [client.runs.start(parameters=GIVEN), client.runs.start(parameters=GIVEN, version=old.version)]
    references = [backend.state.runs[one.id].pipeline_version_reference for one in ran]
    assert [one.pipeline_version_id for one in references] == [new.version_id, old.version_id]
    with fails("version_not_found", where="9"):
        client.runs.start(parameters=GIVEN, version="9")


def test_without_an_upload_there_is_a_hint(client: Client) -> None:
    with pytest.raises(NotFoundError) as error:
        client.runs.start("batch-segmentation", GIVEN)
    assert "clipseg-kfp upload batch-segmentation" in error.value.remedy


@pytest.mark.parametrize(
    ("parameters", "code", "where"),
    [
        ({"threshold": "high"}, "parameter_type", "threshold"),
        ({"threshold": float("inf")}, "parameter_type", "threshold"),
        ({"prompts": "a cat"}, "parameter_type", "prompts"),
        ({"prompts": []}, "prompts_empty", "prompts"),
        ({"prompts": [{"txt": "a cat"}]}, "missing", "prompts[0].name"),
        ({"source_uri": "photos"}, "uri_not_for_pods", "source_uri"),
        ({"output_uri": ""}, "uri_not_for_pods", "output_uri"),
        ({"model_uri": "file://model"}, "uri_not_for_pods", "model_uri"),
        ({"prompts_uri": "prompts.yaml"}, "uri_not_for_pods", "prompts_uri"),
        ({"views": [512]}, "parameter_type", "views"),
        ({"inference_memory": "4 GB"}, "memory_size", "inference_memory"),
        ({"inference_memory": "1Gi"}, "memory_too_small", "inference_memory"),
    ],
)
def test_parameters_that_do_not_fit_are_not_sent(
    client: Client, backend: Backend, parameters: dict[str, object], code: str, where: str
) -> None:
    client.upload(PACKAGE)
    with fails(code, where=where):
        client.runs.start("batch-segmentation", {**GIVEN, **parameters})
    assert not backend.count("POST", "/runs$") and not backend.count("POST", "/experiments$")


@pytest.mark.parametrize(
    ("options", "problems"),
    [
        ({"threshold": 7.0}, [("threshold", "threshold_out_of_range")]),
        (
            {"threshold": 7.0, "views.tile_size": -1, "limits": {"limit": "all"}},
            [
                ("threshold", "threshold_out_of_range"),
                ("views.tile_size", "greater_than_equal"),
                ("limits.limit", "int_type"),
            ],
        ),
        ({"sorce_uri": "x"}, [("sorce_uri", "extra_forbidden")]),
        ({"accelerator_type": "gpu"}, [("accelerator_type", "option_moved")]),
        ({"limit": 5}, [("limit", "option_moved")]),
        ({"support_uri": "s3://in/support"}, [("support_uri", "option_moved")]),
        ({"limits.limit": "5"}, [("limits.limit", "int_type")]),
        ({"limits": {"limit": 1.5}}, [("limits.limit", "int_type")]),
        ({"limits.limit": True}, [("limits.limit", "int_type")]),
        ({"views.flip": 1}, [("views.flip", "bool_type")]),
        ({"outputs.run_id": 7}, [("outputs.run_id", "string_type")]),
        (
            {"inference.backend": "tensorflow", "limits.shard_size": 0, "outputs": {"formats": ["voc"]}},
            [
                ("inference.backend", "literal_error"),
                ("limits.shard_size", "greater_than_equal"),
                ("outputs.formats.0", "literal_error"),
            ],
        ),
    ],
)
def test_options_that_do_not_fit_are_not_sent(
    client: Client, backend: Backend, options: dict[str, object], problems: list[tuple[str, str]]
) -> None:
    client.upload(PACKAGE)
    with refuses(*problems):
        client.runs.start("batch-segmentation", {**GIVEN, **options})
    assert not backend.count("POST", "/runs$") and not backend.count("POST", "/experiments$")


def test_what_is_needed_is_named(client: Client, backend: Backend) -> None:
    client.upload(PACKAGE)
    with pytest.raises(ParameterError) as caught:
        client.runs.start("batch-segmentation", {"source_uri": "s3://in/photos"})
    assert "output_uri, prompts" in caught.value.message and "source_uri" not in caught.value.message
    assert not backend.count("POST", "/runs$")


def test_values_that_only_pods_can_judge_are_sent(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a GPU nor OpenVINO nor the bucket need to be where the client is."""
    monkeypatch.setattr("clipseg_kfp.engine.backends.installed", lambda _: False)
    client.upload(PACKAGE)
    far = {"prompts": [], "prompts_uri": "s3://far/prompts.yaml", "inference.device": "cuda"}
    for given in (
        far,
        {"inference.backend": "openvino", "model_uri": "s3://far/model"},
        {"model_uri": "file:///cache/model", "inference_memory": "2G"},
    ):
        client.runs.start("batch-segmentation", {**GIVEN, **given})


def test_what_other_pipelines_take_is_theirs_to_judge(client: Client, tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text(
        Path(PACKAGE).read_text("utf-8").replace("name: batch-segmentation\n", "name: own\n"), "utf-8"
    )
    client.runs.start(str(own), {**GIVEN, "source_uri": "photos", "threshold": 7.0})


def test_sets_and_example_pictures_are_judged_as_prompts_are(client: Client) -> None:
    for name in ("prompt-evaluation", "one-shot-segmentation"):
        client.upload(name)
    places = {"source_uri": "s3://in/photos", "output_uri": "s3://out/masks"}
    shown = {**places, "support.uri": "s3://far/support"}  # prompts may be empty there
    client.runs.start("one-shot-segmentation", shown)
    with refuses(("support.engineering", "literal_error")):
        client.runs.start("one-shot-segmentation", {**shown, "support.engineering": "none at all"})
    with fails("uri_not_for_pods", where="support.uri"):
        client.runs.start("one-shot-segmentation", {**places, "support": {"uri": "here"}})
    sets: dict[str, Any] = {"one": ["a cat"], "two": "s3://far/prompts.yaml"}
    client.runs.start("prompt-evaluation", {**places, "prompt_sets": sets})
    for sets, code, where in (
        ({}, "prompt_sets_empty", "prompt_sets"),
        ({"one": []}, "prompts_empty", "prompt_sets: one"),
        ({"one": "prompts.yaml"}, "uri_not_for_pods", "prompt_sets: one"),
    ):
        with fails(code, where=where):
            client.runs.start("prompt-evaluation", {**places, "prompt_sets": sets})


def test_flags_and_files_give_typed_parameters(say: Say, backend: Backend, tmp_path: Path) -> None:
    file = tmp_path / "parameters.yaml"
    file.write_text("limits: {limit: 7}\nviews.flip: true\nthreshold: 0.3\n", "utf-8")
    words = ["--set", "threshold=0.4", "-p", "prompts=a cup", "-p", "outputs.run_id=007"]
    words += ["--set", "limits.shard_size=9", "--set", 'inference={"device": "cpu"}']
    status, out, _ = say("run", PACKAGE, *SET, "--parameters", file, "--name", "first", *words)
    (run,) = backend.state.runs.values()
    assert status == 0 and "started: first" in out and f"runs watch {run.run_id}" in out
    assert run.runtime_config.parameters == {
        **GIVEN,
        "limits": {"limit": 7, "shard_size": 9},
        "views": {"flip": True},
        "inference": {"device": "cpu"},
        "threshold": 0.4,
        "prompts": ["a cat", "a cup"],
        "outputs": {"run_id": "007"},
    }


def test_a_prompt_file_of_this_machine_goes_along(say: Say, backend: Backend, tmp_path: Path) -> None:
    """Whole: its defaults are in it."""
    file, parameters = tmp_path / "prompts.yaml", tmp_path / "parameters.yaml"
    file.write_text("defaults: {threshold: 0.3}\nprompts: [a cat, {name: cup, text: a mug}]\n", "utf-8")
    places = "source_uri: s3://in/photos\noutput_uri: s3://out/masks\n"
    parameters.write_text(f"{places}limits.limit: 7\nprompts_uri: s3://in/prompts.yaml\n", "utf-8")
    whole = [{"defaults": {"threshold": 0.3}, "prompts": ["a cat", {"name": "cup", "text": "a mug"}]}]
    assert say("run", PACKAGE, "--prompts-file", file, "--parameters", parameters)[0] == 0
    (run,) = backend.state.runs.values()
    sent = run.runtime_config.parameters
    assert sent == {**GIVEN, "limits": {"limit": 7}, "prompts": whole, "prompts_uri": ""}
    words = ["--every", "1h", "--parameters", parameters, "--prompts-file", file]
    assert say("schedule", "create", "nightly", PACKAGE, *words)[0] == 0
    assert say("schedule", "update", "nightly", "--prompts-file", "s3://in/other.yaml")[0] == 0
    (schedule,) = backend.state.recurring.values()
    assert schedule.runtime_config.parameters["prompts_uri"] == "s3://in/other.yaml"

    for text, message in (
        ("- {name: bolt, image: bolt.jpg}", "'bolt.jpg' is a file of this machine"),
        ("- {txt: a cat}", "prompt 1"),
    ):
        file.write_text(text, "utf-8")
        status, _, err = say("run", PACKAGE, "--prompts-file", file, "--parameters", parameters)
        assert status == 1 and message in err and str(file) in err
    status, _, err = say("run", PACKAGE, "--prompts-file", file, "--set", "prompts=a cup")
    assert status == 1 and "--prompts-file" in err
    with fails("prompts_twice", where="prompts"):
        cli.app(["run", PACKAGE, "--prompts-file", str(file), "--set", "prompts=a cup"])
    assert len(backend.state.runs) == 1


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("threshold", "threshold=0.4"),
        ("treshold=1", "Did you mean 'threshold'?"),
        ("limits.limit=many", "limits.limit: "),
        ("limits.limt=5", "'limits.limit'"),
        ("limit=5", "limits.limit="),
        ("limits=5", "takes a JSON object"),
        ("threshold=NaN", "is not a number"),
        ("views.flip=perhaps", "views.flip: "),
        ("prompts=[1", "is not a JSON list"),
    ],
)
def test_wrong_flags_are_explained(say: Say, backend: Backend, word: str, message: str) -> None:
    status, _, err = say("run", PACKAGE, *SET, "--set", word)
    assert status == 1 and message in err
    assert not backend.state.runs


@pytest.mark.parametrize(
    ("ending", "status"), [("SUCCEEDED", 0), ("FAILED", 3), ("CANCELED", 4), ("SKIPPED", 5)]
)
def test_every_end_has_its_exit_status(say: Say, backend: Backend, ending: str, status: int) -> None:
    backend.state.ending = ending
    code, out, err = say("run", PACKAGE, *SET, "--wait")
    assert code == status
    (run,) = backend.state.runs
    again, _, _ = say("runs", "wait", run)
    assert again == status
    if ending == "SUCCEEDED":
        assert "succeeded" in out
    else:
        assert f"ended as {ending}" in err
        assert ("kubectl logs -n kubeflow" in err) == (ending == "FAILED")


def test_canceled_is_recognized_while_waiting(client: Client, backend: Backend) -> None:
    backend.state.steps = 10**6
    run = client.runs.start(PACKAGE, GIVEN)
    states: list[str] = []

    def look(now: object) -> None:
        states.append(run.state)
        if len(states) == 3:
            client.runs.get(run.id).cancel()

    with pytest.raises(RunError) as error:
        run.wait(timeout=20, on_change=look)
    assert error.value.state == "CANCELED"
    assert run.cancel().state == "CANCELED"  # once more changes nothing


def test_a_timeout_leaves_the_run_going(say: Say, backend: Backend) -> None:
    backend.state.steps = 10**6
    status, _, err = say("run", PACKAGE, *SET, "--wait", "--timeout", "1s")
    (run,) = backend.state.runs.values()
    assert status == 6 and f"clipseg-kfp runs watch {run.run_id}" in err
    assert run.state == "RUNNING" and not backend.count("POST", "terminate")


def test_ctrl_c_leaves_the_run_going(backend: Backend) -> None:
    backend.state.steps = 10**6
    run = Client(backend.url).runs.start(PACKAGE, GIVEN)
    process = subprocess.Popen(
        [sys.executable, "-m", "clipseg_kfp.cli", "runs", "wait", run.id],
        env={**os.environ, "KFP_ENDPOINT": backend.url},
        stderr=subprocess.PIPE,
        text=True,
    )
    looks = backend.state.looks[run.id]
    while backend.state.looks[run.id] < looks + 2 and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    # Python ends by the signal itself where it came while an import made a dataclass; shells say 130 to both.
    assert process.returncode in (130, -signal.SIGINT), err
    assert f"Come back with: clipseg-kfp runs watch {run.id}" in err
    assert not backend.count("POST", "terminate")


@pytest.mark.parametrize("fault", [429, 500, 502, 503, 504, 0])
def test_hiccups_of_the_api_are_waited_out(client: Client, backend: Backend, fault: int) -> None:
    run = client.runs.start(PACKAGE, GIVEN)
    faults = [fault] * 3

    def look(_: object) -> None:
        backend.faults, faults[:] = list(faults), []

    assert run.wait(on_change=look).state == "SUCCEEDED"


def test_an_api_that_stays_away_is_an_error(
    client: Client, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "PATIENCE_SECONDS", 0.2)
    run = client.runs.start(PACKAGE, GIVEN)
    backend.faults = [503] * 500
    with fails("http_503"):
        run.wait()


def test_a_timeout_counts_while_the_api_is_away(client: Client, backend: Backend) -> None:
    run = client.runs.start(PACKAGE, GIVEN)
    backend.faults = [503] * 10_000
    begun = time.monotonic()
    with fails("wait_timeout"):
        run.wait(timeout=0.5)
    assert time.monotonic() - begun < 5


def test_creating_a_run_is_never_repeated(client: Client, backend: Backend) -> None:
    version = client.version(PACKAGE)
    client.runs.start(version, GIVEN)
    real = backend.state.create_run

    def lose(body: object) -> object:
        real(body)
        raise RefusedError(504, "gateway timeout")

    backend.state.create_run = lose  # type: ignore[method-assign,assignment]
    with fails("http_504"):
        client.runs.start(version, GIVEN)
    assert len(backend.state.runs) == 2 and backend.count("POST", "/runs$") == 2


def test_shards_are_counted_in_one_row(client: Client, backend: Backend) -> None:
    run = client.runs.start(PACKAGE, GIVEN).wait()
    names = [task.name for task in run.tasks]
    assert names == [
        "fetch-model",
        "encode-prompts",
        "fetch-dataset",
        "preprocess-images",
        "segment-images",
        "postprocess-masks",
        "evaluate-masks",
        "publish-results",
    ]
    rows = {task.name: task for task in run.tasks}
    assert rows["segment-images"].instances == backend.state.shards
    assert rows["segment-images"].seconds == 75
    assert all(task.state == "SUCCEEDED" for task in run.tasks)


def test_a_run_is_shown_with_tasks_and_links(say: Say, client: Client) -> None:
    run = client.runs.start(PACKAGE, {**GIVEN, "limits.limit": 3}, name="odd [red]name[/]\x1b[31m")
    run.wait()
    status, out, _ = say("runs", "show", run.id)
    assert status == 0 and "2/2" in out and "1:15" in out and run.url in out
    assert "odd [red]name[/]" in out and "\x1b[31m" not in out
    status, out, _ = say("runs", "show", run.id, "--json")
    facts = json.loads(out)
    assert facts["parameters"]["limits"] == {"limit": 3} and facts["tasks"][0]["name"] == "fetch-model"


def test_lists_run_over_pages(say: Say, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    from clipseg_kfp.client import api

    monkeypatch.setattr(api, "PAGE", 2)
    version = client.version(PACKAGE)
    made = [client.runs.start(version, GIVEN, name=f"run {number}").name for number in range(5)]
    assert [run.name for run in client.runs.list()] == made[::-1]
    assert [run.name for run in client.runs.list(3)] == made[:1:-1]
    status, out, _ = say("runs", "list", "--most", "3", "--json")
    assert status == 0 and [one["name"] for one in json.loads(out)] == made[:1:-1]
    assert [run.name for run in client.runs.list(experiment="Default")] == made[::-1]


@pytest.mark.parametrize("name", ["50% more", "a+b", 'quo"te', "émigré", "a&b=c"])
def test_a_run_is_found_by_any_name(client: Client, name: str) -> None:
    version = client.version(PACKAGE)
    client.runs.start(version, GIVEN, name="other")
    run = client.runs.start(version, GIVEN, name=name)
    assert client.runs.get(name).id == run.id
    with fails("run_not_found", where="nobody"):
        client.runs.get("nobody")


def test_a_failed_run_is_retried(say: Say, client: Client, backend: Backend) -> None:
    backend.state.ending = "FAILED"
    run = client.runs.start(PACKAGE, GIVEN).wait(check=False)
    status, out, _ = say("runs", "retry", run.id)
    assert status == 0 and "RUNNING" in out
    assert run.wait().state == "SUCCEEDED"
    assert run.tasks == [] and run.tasks_note  # of before and after, mixed
    status, _, err = say("runs", "retry", run.id)
    assert status == 1 and "400" in err


def test_cancel_says_what_it_did(say: Say, client: Client, backend: Backend) -> None:
    backend.state.steps = 10**6
    run = client.runs.start(PACKAGE, GIVEN)
    assert say("runs", "cancel", run.id)[1].startswith("asked to end")
    assert say("runs", "cancel", run.id)[1].startswith("ended before, as CANCELED")


def test_an_archived_experiment_is_explained(client: Client, backend: Backend) -> None:
    client.runs.start(PACKAGE, GIVEN)
    next(iter(backend.state.experiments.values())).storage_state = "ARCHIVED"
    with fails("experiment_archived"):
        client.runs.start(parameters=GIVEN)


def test_a_run_that_ends_while_it_is_canceled(client: Client, backend: Backend) -> None:
    run = client.runs.start(PACKAGE, GIVEN)
    real = backend.state.terminate

    def late(run_id: str) -> None:
        backend.state.runs[run_id].state = "SUCCEEDED"
        real(run_id)

    backend.state.terminate = late  # type: ignore[method-assign]
    assert run.cancel().state == "SUCCEEDED"


def test_the_live_table_shows_tasks_as_they_go(client: Client, backend: Backend) -> None:
    backend.state.steps = 6
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=100)
    with following(console, live=True) as view:
        client.runs.start(PACKAGE, GIVEN, name="the run").wait(on_change=view)
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue())
    assert "the run  SUCCEEDED" in shown and "the run  RUNNING" in shown
    assert re.search(r"segment-images +│ SUCCEEDED │ +2/2 │ 1:15", shown)


def test_changes_are_told_line_by_line(say: Say, backend: Backend) -> None:
    status, _, err = say("run", PACKAGE, *SET, "--wait")
    lines = [line.split(" ", 1)[1] for line in err.splitlines()]
    assert status == 0 and lines[-1] == "run: SUCCEEDED"
    assert "segment-images: SUCCEEDED (2/2)" in lines
    assert len(lines) == len(set(lines))


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("outputs.run_id: 2026-11-22", "outputs.run_id: "),
        ("threshold: high", "for example, threshold: 0.5"),
        ("ground_truth: [cat]", "takes a JSON object"),
        ("ground_truth: {classes: [cat]}", "ground_truth.classes: "),
        ("views: {tile_size: 512, tile_ground_resolution: 0.5}", "views: "),
    ],
)
def test_a_file_with_a_wrong_type_is_mended_by_what_is_said(
    say: Say, client: Client, tmp_path: Path, line: str, said: str
) -> None:
    client.upload(PACKAGE)
    file = tmp_path / "parameters.yaml"
    file.write_text(line, "utf-8")
    status, _, err = say("run", *SET, "--parameters", file)
    assert status == 1 and said in err and "Traceback" not in err


def test_objects_lists_and_texts_from_the_command_line(say: Say, client: Client, backend: Backend) -> None:
    client.upload(PACKAGE)
    words = [
        'ground_truth.classes={"a cat": "cat"}',
        "limits.max_quarantined=5%",
        "limits.full=yes",
        "outputs.formats=",
        'prompts=["a"]',
    ]
    assert say("run", *SET[:4], *(part for word in words for part in ("--set", word)))[0] == 0
    (run,) = backend.state.runs.values()
    assert run.runtime_config.parameters == {
        **GIVEN,
        "ground_truth": {"classes": {"a cat": "cat"}},
        "limits": {"max_quarantined": "5%", "full": True},
        "outputs": {"formats": []},
        "prompts": ["a"],
    }
    status, _, err = say("run", *SET, "--set", "ground_truth.classes=cat")
    assert status == 1 and "ground_truth.classes: " in err


def test_a_package_and_a_version_contradict_each_other(client: Client, backend: Backend) -> None:
    with fails("version_and_package"):
        client.runs.start(PACKAGE, GIVEN, version="1")
    assert not backend.state.versions


def test_an_id_is_whole_on_80_columns(client: Client) -> None:
    client.upload(PACKAGE)
    run = client.runs.start("batch-segmentation", GIVEN)
    schedule = client.schedules.apply("every-night", parameters=GIVEN, cron="30 2 * * *").schedule
    for table, number in ((run_table([run]), run.id), (schedule_table([schedule]), schedule.id)):
        screen = io.StringIO()
        Console(file=screen, width=80).print(table)
        assert number in screen.getvalue()


def test_looking_for_runs_makes_no_experiment(say: Say, backend: Backend) -> None:
    status, _, err = say("runs", "list", "--experiment", "a typing error")
    assert status == 1 and "There is no experiment 'a typing error'" in err
    assert not backend.state.experiments and not backend.count("POST", "/experiments$")
