"""What is told of a run, against what a real Kubeflow Pipelines 2.17 answered and kept (``recorded/``)."""

from __future__ import annotations

import copy
import dataclasses
import json
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from cluster_backend import GIVEN, PACKAGE, SET, Backend
from cluster_workflow import Workflow

from clipseg_kfp import Client
from clipseg_kfp.client import NotFoundError, Run, RunError, StartTimeoutError
from clipseg_kfp.client.nodes import Place, fnv1a, hash_of, is_driver, places, pod_of
from clipseg_kfp.client.progress import Follower, in_words
from clipseg_kfp.client.tasks import failed_pods, has_begun, pods_not_begun
from clipseg_kfp.errors import ParameterError, StorageError
from clipseg_kfp.results import Results
from clipseg_kfp.results.plan import FinishedShard, Plan, PlannedShard, write_finished, write_plan
from clipseg_kfp.storage import open_folder

Say = Callable[..., tuple[int, str, str]]
RECORDED = Path(__file__).parent / "recorded"
NULL = "run-failed-null-metadata"
FRESH = "run-succeeded-two-shards"
STALE = ["run-succeeded-after-retry-stale-tasks", "run-error-too-many-shards-stale-tasks", "run-canceled"]


def recorded(name: str) -> Any:
    return json.loads((RECORDED / f"{name}.json").read_text("utf-8"))


@pytest.fixture
def load(client: Client, backend: Backend) -> Callable[..., Run]:
    """Puts a recorded run on the cluster; changes of its JSON come as keywords."""
    version = client.version(PACKAGE)

    def put(name: str, **changes: Any) -> Run:
        backend.state.load({**recorded(name), **changes}, version)
        return client.runs.get(recorded(name)["run_id"])

    return put


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: Backend) -> Path:
    """An artifact store, in which the stand-in archives logs as well."""
    backend.state.artifact_store = tmp_path / "mlpipeline"
    backend.state.artifact_store.mkdir()
    monkeypatch.setenv("KFP_ARTIFACT_STORE", str(backend.state.artifact_store))
    return backend.state.artifact_store


def keep(store: str | Path, name: str) -> None:
    """Puts a recorded log where its first line says that it was."""
    first, _, text = (RECORDED / f"{name}.txt").read_text("utf-8").partition("\n")
    open_folder(str(store)).write(first.removeprefix("# key: "), text.encode())


# Names


def test_pods_are_named_as_on_a_real_backend(load: Callable[..., Run]) -> None:
    known = places(load(NULL).spec, "batch-segmentation-sn74p")
    for pod in recorded("pods-of-the-run-with-null-metadata"):
        assert fnv1a(pod["node-name"]) == hash_of(pod["name"]) == hash_of(pod["node-id"])
        place, driver = known[hash_of(pod["name"])], "driver" in pod["name"]
        assert is_driver(pod["name"]) == place.driver == driver
        task = pod["node-name"].split(".")[1 if "root-driver" in pod["node-name"] else 2].partition("(")[0]
        assert place.task == task.removesuffix("-driver") and place.shard is None
        assert driver or pod_of(pod["node-id"]) == pod["name"]


def test_shards_are_told_from_names(load: Callable[..., Run]) -> None:
    known = places(load(FRESH).spec, "batch-segmentation-qrw2g")
    pods = [one for one in recorded("nodes-of-one-iteration") if one["type"] == "Pod"]
    found = {known[hash_of(one["id"])] for one in pods}
    tasks = ("preprocess-images", "segment-images", "postprocess-masks")
    assert {place for place in found if not place.driver} == {Place(task, 1) for task in tasks}
    assert len(found) == 7


def test_the_stand_in_has_the_nodes_of_a_real_run(load: Callable[..., Run]) -> None:
    """Names, how often each is there, and which of them list children."""

    def shape(details: Any, workflow: str) -> dict[str, list[bool]]:
        rows: dict[str, list[bool]] = {}
        for one in details:
            if one.display_name:
                name = one.display_name.replace(workflow, "workflow")
                rows.setdefault(name, []).append(bool(one.child_tasks))
        return {
            name: sorted(kids)
            for name, kids in rows.items()
            if not name.endswith(("driver(0)", "executor(0)"))
        }

    run = load(FRESH)
    made = Workflow(run.spec, run.data, 2, "batch-segmentation-qrw2g").at(4, 4)
    real = shape(run.data.run_details.task_details, "batch-segmentation-qrw2g")
    assert shape(made.details, "batch-segmentation-qrw2g") == real
    assert len(made.details) == sum(bool(one.display_name) for one in run.data.run_details.task_details)


# States


def test_tasks_count_shards_and_not_nodes(load: Callable[..., Run]) -> None:
    run = load(FRESH)
    rows = {task.name: task for task in run.tasks}
    assert run.tasks_note == "" and list(rows)[-1] == "publish-results"
    assert {name: (row.done, row.instances) for name, row in rows.items()} == {
        name: (2, 2) if name.split("-")[0] in ("preprocess", "segment", "postprocess") else (1, 1)
        for name in rows
    }
    assert rows["segment-images"].seconds == 30


def test_what_was_left_out_is_not_pending(load: Callable[..., Run]) -> None:
    states = {task.name: task.state for task in load(NULL).tasks}
    assert states["fetch-dataset"] == "FAILED" and states["encode-prompts"] == "SUCCEEDED"
    assert states["publish-results"] == states["segment-images"] == "SKIPPED"


@pytest.mark.parametrize("name", STALE)
def test_task_details_that_stand_still_are_not_shown(say: Say, load: Callable[..., Run], name: str) -> None:
    run = load(name)
    status, out, _ = say("runs", "show", run.id, "--json")
    facts = json.loads(out)
    assert status == 0 and run.tasks == [] == facts["tasks"] and run.tasks_note in facts["notes"]
    assert "PENDING" not in say("runs", "show", run.id)[1]


@pytest.mark.parametrize("name", STALE)
def test_they_are_not_shown_while_the_run_goes_on_either(load: Callable[..., Run], name: str) -> None:
    details, history = (
        recorded(name)["task_details"],
        [{"update_time": "2026-11-30T17:04:46Z", "state": "RUNNING"}],
    )
    assert load(name, state="RUNNING", state_history=history).tasks_note  # they have not moved for long
    later = [one for one in details if not one.get("display_name")]
    now = datetime.now(UTC)
    moving = [
        {
            **one,
            "state_history": [
                *one["state_history"],
                {"update_time": now.isoformat(), "state": one.get("state")},
            ],
        }
        if one.get("display_name")
        else one
        for one in details
    ]
    assert load(name, state="RUNNING", state_history=history, task_details=moving).tasks_note == ""
    late = [{**one, "end_time": (now + timedelta(minutes=1)).isoformat()} for one in later[:1]]
    assert load(name, state="RUNNING", state_history=history, task_details=[*moving, *late]).tasks_note


def test_a_canceled_run_is_canceled(say: Say, load: Callable[..., Run]) -> None:
    run = load("run-canceled")
    assert run.data.state == "FAILED" and run.state == "CANCELED"
    assert say("runs", "wait", run.id)[0] == 4
    history = [*recorded("run-canceled")["state_history"], {"state": "RUNNING"}, {"state": "FAILED"}]
    assert load("run-canceled", state_history=history).state == "FAILED"  # retried, and failed by itself


def test_large_runs_stand_still_here_as_there(client: Client, backend: Backend) -> None:
    backend.state.shards, backend.state.steps = 6, 12
    notes: list[str] = []
    run = client.runs.start(PACKAGE, GIVEN).wait(on_change=lambda now: notes.append(now.tasks_note))
    assert notes[0] == "" and notes[-1] and run.state == "SUCCEEDED" and run.tasks == []


# Logs


def test_logs_of_a_run_whose_pods_are_gone(say: Say, load: Callable[..., Run], kept: Path) -> None:
    keep(kept, "archived-main-log-null-metadata")
    run = load(NULL)
    (log,) = run.logs()
    assert log.place == Place("fetch-dataset", None) and log.pod in log.uri
    assert log.own.startswith("[fetch_dataset] ") and log.own.count("\n") == 5
    message, _ = log.failure or ("", "")
    assert "NullValue" in message and "launcher_v2" not in message
    assert failed_pods(run.data) == [log.pod]
    status, out, _ = say("runs", "logs", run.id)
    assert status == 0 and log.pod in out and "executor_input" not in out
    assert "executor_input" in say("runs", "logs", run.id, "--raw")[1]


def test_the_reason_is_shown_by_itself(say: Say, load: Callable[..., Run], kept: Path) -> None:
    keep(kept, "executor-logs-no-credentials")
    run = load("run-failed-no-credentials")
    for words in (("runs", "show"), ("runs", "watch"), ("runs", "wait")):
        status, out, err = say(*words, run.id)
        assert status == (0 if words[1] == "show" else 3)
        assert "fetch-model: No credentials for seaweedfs.kubeflow:9000" in out + err
        assert "AWS_SECRET_ACCESS_KEY, or mount the storage secret" in out + err
    with pytest.raises(RunError) as error:
        run.wait()
    assert error.value.state == "FAILED" and "seaweedfs.kubeflow:9000" in error.value.message
    reason = json.loads(say("runs", "show", run.id, "--json")[1])["reason"]
    assert "fetch-model" in reason["message"] and "AWS_ACCESS_KEY_ID" in reason["remedy"]


def test_logs_lie_in_a_real_store(
    say: Say, load: Callable[..., Run], bucket: str, s3_env: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    keep(f"s3://{bucket}", "archived-main-log-null-metadata")
    run, store = load(NULL), f"s3://{bucket}"
    endpoint = s3_env["S3_ENDPOINT"]
    monkeypatch.delenv("S3_ENDPOINT")
    status, out, _ = say("runs", "logs", run.id, "--artifact-store", store, "--endpoint", endpoint)
    assert status == 0 and "[fetch_dataset] took" in out
    monkeypatch.setenv("KFP_ARTIFACT_STORE", store)
    assert "NullValue" in say("runs", "show", run.id, "--endpoint", endpoint)[1]
    status, _, err = say("runs", "logs", run.id)  # not from AWS, where the name is somebody else's
    assert status == 1 and "S3_ENDPOINT" in err
    with pytest.raises(ParameterError):
        list(run.logs())
    # what is said in place of the reason is a pod that was there
    assert f"kubectl logs -n kubeflow {failed_pods(run.data)[0]} -c main" in say("runs", "show", run.id)[1]


def test_one_task_and_one_shard(say: Say, client: Client, backend: Backend, kept: Path) -> None:
    backend.state.shards = 4
    run = client.runs.start(PACKAGE, GIVEN).wait()
    assert [log.place.shard for log in run.logs("segment-images")] == [0, 1, 2, 3]
    (log,) = run.logs("segment-images", 3)
    assert log.failure is None and '"shard-003"' in log.text and log.own == "[segment_images] took 3.7 s\n"
    status, out, _ = say("runs", "logs", run.id, "--task", "segment-images", "--shard", 3)
    assert status == 0 and out.startswith(f"==> segment-images, shard 3  {log.pod}\n[segment_images]")
    own = [log for log in run.logs() if not log.place.driver]
    assert len(own) == 5 + 3 * 4 and own[0].place.task == "fetch-model"
    for words in (["--task", "segment"], ["--task", "segment-images", "--shard", 4]):
        status, _, err = say("runs", "logs", run.id, *words)
        assert status == 1 and f"pipeline/runid={run.id}" in err


def test_logs_that_the_launcher_has_kept(load: Callable[..., Run], kept: Path) -> None:
    """Where the workflow engine archives none."""
    keep(kept, "executor-logs-segment-images")
    (log,) = load(FRESH).logs()
    assert log.place.task == "segment-images" and log.failure is None and log.own.count("\n") == 3


def test_logs_of_a_pipeline_that_was_deleted(load: Callable[..., Run], backend: Backend, kept: Path) -> None:
    """Its specification is not known, and names of pods tell nothing: the log itself does."""
    keep(kept, "archived-main-log-null-metadata")
    run = load(NULL)
    backend.state.versions.clear()
    assert [log.place.task for log in run.logs()] == ["fetch-dataset"]


def test_logs_of_a_run_that_goes_on(say: Say, client: Client, backend: Backend, kept: Path) -> None:
    run = client.runs.start(PACKAGE, GIVEN)
    with pytest.raises(NotFoundError):
        list(run.logs())
    backend.state.steps = 10**6
    backend.state.looks[run.id] = 10**5 * 5
    status, out, err = say("runs", "logs", run.id)
    assert status == 0 and "==> fetch-model" in out and f"pipeline/runid={run.id}" in err


@pytest.mark.parametrize(
    ("said", "message", "remedy"),
    [
        ("error: segment_images: It has none.\n  remedy: Make some.\n", "It has none.", "Make some."),
        ("Traceback (most recent call last):\n  File x\nValueError: no\n", "ValueError: no", ""),
        ("[segment_images] 1/9 views\n", "It ended in the middle of its work, without a word.", "memory_mb"),
    ],
)  # fmt: skip
def test_every_kind_of_failure_has_its_reason(
    client: Client, backend: Backend, kept: Path, said: str, message: str, remedy: str
) -> None:
    backend.state.ending, backend.state.fails = "FAILED", "segment-images"
    backend.state.said["segment-images"] = said
    run = client.runs.start(PACKAGE, GIVEN)
    with pytest.raises(RunError) as error:
        run.wait()
    assert error.value.message.endswith(f"segment-images (shard 0): {message}")
    assert remedy in error.value.remedy and f"runs logs {run.id}" in error.value.remedy


def test_too_many_shards_are_explained(
    say: Say, load: Callable[..., Run], kept: Path, backend: Backend
) -> None:
    """Neither the API nor any log says why: the record of a run of 50 shards outgrew one object of Kubernetes."""
    run = load(STALE[1])
    said = say("runs", "wait", run.id)[2]
    assert "too large" not in said  # nothing is known without logs
    ended = copy.copy(run.data)
    ended.state = "SUCCEEDED"
    real = Workflow(run.spec, ended, 37, "batch-segmentation-qv8db")
    real.at(1, 1).archive(kept, {}, "kubeflow")
    status, _, err = say("runs", "wait", run.id)
    assert status == 3 and "Request entity too large" in err and "37 shards" in err
    refused = recorded("error-retry-refused")
    backend.state.stuck = refused["body"]["message"].partition("with node ")[2].partition(" ")[0]
    status, _, err = say("runs", "retry", run.id)
    assert status == 1 and backend.state.stuck in err


# Progress


def test_shards_and_images_are_told_from_the_bucket(
    say: Say, client: Client, backend: Backend, bucket: str, s3_env: dict[str, str]
) -> None:
    backend.state.steps, backend.state.shards = 10**6, 6
    output = f"s3://{bucket}/out"
    run = client.runs.start(PACKAGE, {**GIVEN, "output_uri": output})
    assert Follower()(run) == [] and run.progress() is None
    results = Results(open_folder(output), "0123456789abcdef")
    results.describe({"model": "a model"})
    shards = tuple(PlannedShard(f"shard-{number:03d}", 100) for number in range(6))
    write_plan(results, Plan(run.id, "s3://in", 700, 50, 50, 30, 600, shards))
    for number in range(2):
        write_finished(results, run.id, FinishedShard(f"shard-{number:03d}", 100, 99, 1, 99, "parts/x"))
    progress = run.progress()
    assert progress is not None and progress.images_done == 250
    for words in (["show", run.id], ["wait", run.id, "--timeout", "1s"]):
        _, out, err = say("runs", *words)
        assert "shards 2/6, images 250/650" in out + err and "30 left" in out + err
    timed = dataclasses.replace(progress, planned_at=progress.finished[-1].at - 20)
    assert in_words(timed).startswith("shards 2/6, images 250/650, 10.0 images/s, 0:40 left")


def test_a_bucket_that_cannot_be_read_is_said_once(say: Say, client: Client, s3_env: dict[str, str]) -> None:
    status, _, err = say(
        "run", PACKAGE, *SET[:2], *SET[4:], "--set", "output_uri=s3://no-such-bucket/out", "--wait"
    )
    assert status == 0 and err.count("no-such-bucket") == 1
    with pytest.raises(StorageError):
        client.runs.start(PACKAGE, {**GIVEN, "output_uri": "s3://no-such-bucket/out"}).progress()


# Pods that do not start


class _Pods(BaseHTTPRequestHandler):
    """Kubernetes' list of a run's pods: one whose image cannot be had, one that runs."""

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        assert "labelSelector=pipeline%2Frunid%3D" in self.path
        waiting = {"reason": "ImagePullBackOff", "message": 'Back-off pulling image "registry.example/no:1"'}
        states: list[tuple[str, dict[str, Any]]] = [
            ("bad", {"waiting": waiting}),
            ("fine", {"running": {}}),
            ("new", {"waiting": {"reason": "ContainerCreating"}}),
        ]
        rows = [
            {
                "metadata": {"name": name},
                "status": {
                    "containerStatuses": [
                        {
                            "name": "main",
                            "image": "i",
                            "imageID": "",
                            "ready": False,
                            "restartCount": 0,
                            "state": state,
                        }
                    ]
                },
            }
            for name, state in states
        ]
        body = json.dumps({"kind": "PodList", "apiVersion": "v1", "items": rows}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def kubernetes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Pods) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}"
        config = {
            "clusters": [{"name": "c", "cluster": {"server": url}}],
            "users": [{"name": "u", "user": {}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
            "current-context": "c",
        }
        (tmp_path / "kubeconfig").write_text(json.dumps(config), "utf-8")
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
        yield
        server.shutdown()


def waits_for_its_image(load: Callable[..., Run], minutes: int) -> Run:
    """The recorded run, as it was before it was canceled: its first pod is pending."""
    run = recorded("run-canceled-while-image-could-not-be-pulled")
    begun = datetime.now(UTC) - timedelta(minutes=minutes)
    details = []
    for one in run["task_details"]:
        if one.get("state") == "FAILED":
            first, start = one["state_history"][0], begun.isoformat()
            now = {"state": first["state"], "state_history": [first], "end_time": "0001-01-01T00:00:00Z"}
            details.append({**one, **now, "start_time": start, "create_time": start})
        elif one.get("state"):
            details.append(one)
    return load(
        "run-canceled-while-image-could-not-be-pulled",
        state="RUNNING",
        state_history=run["state_history"][:2],
        finished_at=None,
        task_details=details,
    )


def test_a_pod_that_does_not_start_is_named(say: Say, load: Callable[..., Run]) -> None:
    run = waits_for_its_image(load, 3)
    assert run.state == "RUNNING" and not has_begun(run.data) and run.tasks_note == ""
    (pod,) = pods_not_begun(run.data)
    assert pod == "bad-image-rzrvh-system-container-impl-3859482752"
    out = say("runs", "show", run.id)[1]
    assert f"kubectl describe pod -n kubeflow {pod}" in out and f"involvedObject.name={pod}" in out
    assert pods_not_begun(waits_for_its_image(load, 1).data) == []


def test_kubernetes_says_why(say: Say, load: Callable[..., Run], kubernetes: None) -> None:
    out = say("runs", "show", waits_for_its_image(load, 3).id)[1]
    assert "bad: ImagePullBackOff: Back-off pulling image" in out and "fine" not in out and "new:" not in out


def test_the_start_has_a_timeout_of_its_own(say: Say, client: Client, backend: Backend) -> None:
    backend.state.unpullable, backend.state.steps = True, 10**6
    status, _, err = say("run", PACKAGE, *SET, "--wait", "--start-timeout", "1s", "--timeout", "1m")
    (run,) = backend.state.runs
    assert status == 7 and f"runs cancel {run}" in err and f"pipeline/runid={run}" in err
    assert say("runs", "wait", run, "--start-timeout", "1s")[0] == 7
    with pytest.raises(StartTimeoutError):
        client.runs.get(run).wait(start_timeout=0.1)
    assert say("runs", "wait", run, "--start-timeout", "soon")[0] == 1
    backend.state.unpullable = False
    assert say("runs", "wait", run, "--start-timeout", "1s", "--timeout", "2s")[0] == 6  # it has begun
