"""Runs one after the other, until nothing of a bucket is left."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cluster_backend import GIVEN, PACKAGE, Backend

from clipseg_kfp import Client
from clipseg_kfp.client import NoProgressError, Run, RunError, WaitTimeoutError, outputs
from clipseg_kfp.errors import ParameterError, StorageError
from clipseg_kfp.results import Counts, Results, json_bytes
from clipseg_kfp.storage import open_folder

Say = Callable[..., tuple[int, str, str]]
CONFIG = "0123456789abcdef"
SOURCE = ["--set", "source_uri=s3://in/photos", "--set", "prompts=a cat"]


def commit(output: str, run: str, counts: Counts) -> None:
    """Commits a run as publish_results does, with the files that a summary reads."""
    results = Results(open_folder(output), CONFIG)
    results.describe({"model": "a model"})
    attempt = results.begin(run, run)
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "metrics.json").write_bytes(json_bytes({"mean_iou": None, "per_prompt": {}}))
        empty = pa.array([], pa.string())
        pq.write_table(
            pa.table({"key": empty, "reason": empty, "detail": empty}), Path(folder, "quarantine.parquet")
        )
        for name in ("metrics.json", "quarantine.parquet"):
            attempt.add(name, Path(folder, name))
    attempt.commit(counts, {"dataset_digest": run, "parts": []})


@pytest.fixture
def output(bucket: str, s3_env: dict[str, str]) -> str:
    return f"s3://{bucket}/out"


@pytest.fixture
def committing(output: str, monkeypatch: pytest.MonkeyPatch) -> list[Counts]:
    """What the cluster's runs commit, one after the other; the stand-in has no pods that would."""
    wanted: list[Counts] = []
    real = outputs.results

    def results(run: Any, endpoint: str) -> Any:
        commit(output, run.id, wanted.pop(0))
        return real(run, endpoint)

    monkeypatch.setattr(outputs, "results", results)
    return wanted


BUCKET = (Counts(100, 97, 0, 3, 97, 60), Counts(150, 50, 100, 0, 50, 10), Counts(160, 10, 150, 0, 10, 0))


def test_until_nothing_is_left(
    client: Client, backend: Backend, output: str, committing: list[Counts]
) -> None:
    committing += BUCKET
    seen: list[int] = []
    rounds = client.runs.until_done(
        PACKAGE, {**GIVEN, "output_uri": output}, name="photos", on_round=lambda one: seen.append(one.left)
    )
    assert [one.left for one in rounds] == seen == [60, 10, 0]
    assert sum(one.counts["done"] + one.counts["quarantined"] for one in rounds) == 160
    assert [one.run.name for one in rounds] == ["photos", "photos 2", "photos 3"]
    assert len({one.run.id for one in rounds}) == len(backend.state.runs) == 3
    assert (
        len({run.pipeline_version_reference.pipeline_version_id for run in backend.state.runs.values()}) == 1
    )


def test_the_command_says_what_each_run_did(say: Say, output: str, committing: list[Counts]) -> None:
    committing += BUCKET
    status, out, _ = say("run", PACKAGE, *SOURCE, "--set", f"output_uri={output}", "--until-done")
    assert status == 0
    lines = [line for line in out.splitlines() if line.startswith("run ")]
    assert ["97 done" in lines[0], "3 quarantined" in lines[0], "60 images left" in lines[0]] == [True] * 3
    assert len(lines) == 3 and "0 images left" in lines[2]


def test_a_run_that_fails_ends_it(
    say: Say, client: Client, backend: Backend, output: str, committing: list[Counts]
) -> None:
    backend.state.ending = "FAILED"
    with pytest.raises(RunError) as error:
        client.runs.until_done(PACKAGE, {**GIVEN, "output_uri": output})
    assert error.value.state == "FAILED"
    assert len(backend.state.runs) == 1
    assert say("run", PACKAGE, *SOURCE, "--set", f"output_uri={output}", "--until-done")[0] == 3
    assert len(backend.state.runs) == 2


def test_runs_without_progress_end_it(
    say: Say, client: Client, backend: Backend, output: str, committing: list[Counts]
) -> None:
    stuck = [BUCKET[0], Counts(100, 0, 100, 0, 0, 60)]
    committing += [*stuck, *stuck]
    with pytest.raises(NoProgressError):
        client.runs.until_done(PACKAGE, {**GIVEN, "output_uri": output})
    assert len(backend.state.runs) == 2
    assert say("run", PACKAGE, *SOURCE, "--set", f"output_uri={output}", "--until-done")[0] == 1


def test_full_runs_end_when_all_had_their_turn(client: Client, output: str, committing: list[Counts]) -> None:
    committing += [Counts(160, 60, 100, 0, 60, 0)] * 3
    rounds = client.runs.until_done(PACKAGE, {**GIVEN, "output_uri": output, "limits.full": True})
    assert [one.left for one in rounds] == [100, 40, 0]


@pytest.mark.parametrize(
    ("given", "error"),
    [({"outputs.run_id": "one"}, ParameterError), ({"output_uri": "s3://no-such-bucket/out"}, StorageError)],
)
def test_what_cannot_be_repeated_or_read_starts_nothing(
    client: Client, backend: Backend, output: str, given: dict[str, str], error: type[Exception]
) -> None:
    with pytest.raises(error):
        client.runs.until_done(PACKAGE, {**GIVEN, "output_uri": output, **given})
    assert not backend.state.runs


def test_a_store_that_is_out_of_reach_from_here(
    client: Client, backend: Backend, output: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("S3_ENDPOINT")
    with pytest.raises(ParameterError) as error:
        client.runs.until_done(
            PACKAGE, {**GIVEN, "output_uri": output, "endpoint": "http://seaweedfs.kubeflow:9000"}
        )
    assert "S3_ENDPOINT" in error.value.remedy
    assert not backend.state.runs


def test_the_time_is_for_all_runs_together(
    client: Client, backend: Backend, output: str, committing: list[Counts], monkeypatch: pytest.MonkeyPatch
) -> None:
    committing += BUCKET
    now, given = 0.0, []
    monkeypatch.setattr("clipseg_kfp.client.runs.time", SimpleNamespace(monotonic=lambda: now))

    def wait(run: Run, timeout: float | None) -> None:
        nonlocal now
        assert timeout is not None
        given.append(timeout)
        if timeout < 60:
            raise WaitTimeoutError("late")
        now += 60

    with pytest.raises(WaitTimeoutError):
        client.runs.until_done(PACKAGE, {**GIVEN, "output_uri": output}, timeout=100, wait=wait)
    assert given == [100, 40]
