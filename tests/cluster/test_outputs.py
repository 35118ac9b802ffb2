"""What came out of a run: read from a real bucket, by the results protocol, and from the API where it tells."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import kfp_server_api
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cluster_backend import GIVEN, PACKAGE, Backend
from codes import fails

from clipseg_kfp import Client
from clipseg_kfp.errors import StorageError
from clipseg_kfp.results import Counts, Results, json_bytes
from clipseg_kfp.storage import open_folder

Say = Callable[..., tuple[int, str, str]]


def commit(output: str, run: str, config: str = "0123456789abcdef", done: int = 4) -> None:
    """Commits a run as publish_results does, with the files that a summary reads."""
    results = Results(open_folder(output), config)
    results.describe({"model": "a model"})
    results.write("masks/a/1/cat.png", b"a mask")
    attempt = results.begin(run, done)
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "metrics.json").write_bytes(
            json_bytes({"mean_iou": 0.75, "per_prompt": {}, "done": done})
        )
        empty = pa.array([], pa.string())
        pq.write_table(
            pa.table({"key": empty, "reason": empty, "detail": empty}), Path(folder, "quarantine.parquet")
        )
        for name in ("metrics.json", "quarantine.parquet"):
            attempt.add(name, Path(folder, name))
    attempt.commit(Counts(listed=done, done=done, masks=done), {"dataset_digest": "d", "parts": []})


def test_artifacts_and_metrics_of_a_run(
    say: Say, client: Client, bucket: str, s3_env: dict[str, str]
) -> None:
    output = f"s3://{bucket}/out"
    run = client.runs.start(PACKAGE, {**GIVEN, "output_uri": output}).wait()
    commit(output, "another", config="f" * 16, done=9)
    commit(output, run.id)
    assert run.metrics()["done"] == 4
    found = {one.name: one for one in run.artifacts()}
    assert set(found) == {"masks", "attempt.json", "metrics.json", "quarantine.parquet", "manifest.json"}
    assert found["metrics.json"].bytes and len(found["metrics.json"].sha256) == 64
    for name in ("metrics.json", "manifest.json"):
        folder, _, key = found[name].uri.rpartition("/")
        assert json.loads(open_folder(folder).read(key))
    assert json.loads(say("runs", "metrics", run.id, "--json")[1])["mean_iou"] == 0.75
    assert "mean IoU" in say("runs", "metrics", run.id, "--endpoint", s3_env["S3_ENDPOINT"])[1]
    rows = json.loads(say("runs", "artifacts", run.id, "--json")[1])
    assert {one["name"] for one in rows} == set(found)
    assert "quarantine.parquet" in say("runs", "artifacts", run.id)[1]


def test_a_run_with_a_name_of_its_own(client: Client, bucket: str, s3_env: dict[str, str]) -> None:
    output = f"s3://{bucket}/out"
    run = client.runs.start(
        PACKAGE, {**GIVEN, "output_uri": output, "outputs.run_id": "may/../day one"}
    ).wait()
    commit(output, "may/../day one", done=2)
    assert run.metrics()["done"] == 2


def test_a_run_without_results_says_why(
    say: Say, client: Client, bucket: str, s3_env: dict[str, str]
) -> None:
    run = client.runs.start(PACKAGE, {**GIVEN, "output_uri": f"s3://{bucket}/out"})
    with fails("results_not_found", where=f"s3://{bucket}/out"):
        run.metrics()
    status, _, err = say("runs", "metrics", run.id)
    assert status == 1 and "committed by its last task" in err


def test_a_bucket_that_cannot_be_read_is_an_error(client: Client, s3_env: dict[str, str]) -> None:
    run = client.runs.start(PACKAGE, {**GIVEN, "output_uri": "s3://no-such-bucket/out"}).wait()
    with pytest.raises(StorageError, match="no-such-bucket"):
        run.artifacts()


def test_artifacts_that_the_api_names(client: Client, backend: Backend, s3_env: dict[str, str]) -> None:
    run = client.runs.start(PACKAGE, {**GIVEN, "output_uri": "s3://no-such-bucket/out"}).wait()
    details = backend.state.runs[run.id].run_details.task_details
    node = next(one for one in details if one.display_name == "fetch-model")
    node.outputs = {"model": kfp_server_api.V2beta1ArtifactList(artifact_ids=["17"])}
    (named,) = run.refresh().artifacts()
    assert (named.task, named.name, named.uri) == ("fetch-model", "model", "artifact 17")


def test_folders_list_one_level(bucket: str, s3_env: dict[str, str], tmp_path: Path) -> None:
    for uri in (f"s3://{bucket}/here", str(tmp_path)):
        folder = open_folder(uri)
        for key in ("a/1", "a/b/2", "é+%/3", "file"):
            folder.write(key, b"x")
        assert folder.folders() == ["a", "é+%"]
    (tmp_path / "link").symlink_to(tmp_path / "a")
    assert "link" not in open_folder(str(tmp_path)).folders()
    assert open_folder(f"s3://{bucket}/nothing").folders() == []
