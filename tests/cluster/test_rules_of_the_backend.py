"""The stand-in refuses as the real backend did, word for word: recorded on Kubeflow Pipelines 2.17."""

from __future__ import annotations

import copy
import json
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from cluster_backend import GIVEN, PACKAGE, Backend, model

from clipseg_kfp import Client
from clipseg_kfp.client.errors import UnavailableError
from clipseg_kfp.errors import ParameterError
from clipseg_kfp.site.compile import compile_pipeline, pipeline_names, settings_for

Say = Callable[..., tuple[int, str, str]]
RECORDED = Path(__file__).with_name("recorded")


def recorded(name: str) -> Any:
    return json.loads((RECORDED / f"{name}.json").read_text("utf-8"))


def post(backend: Backend, path: str, body: Any = None) -> tuple[int, Any]:
    """Sends what the client would never send; returns status and answer."""
    request = urllib.request.Request(
        f"{backend.url}/apis/v2beta1/{path}",
        data=json.dumps(body or {}).encode(),
        headers={"Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def refused(name: str, **placed: str) -> tuple[int, Any]:
    """The recorded refusal, with IDs of ours in place of those that were recorded."""
    whole = json.dumps(recorded(name))
    for theirs, ours in placed.items():
        whole = whole.replace(theirs.replace("_", "-"), ours)
    answer = json.loads(whole)
    return answer["http_status"], answer["body"]


def asked(client: Client, **parameters: Any) -> dict[str, Any]:
    """A new run's body as the API takes it."""
    version = client.version()
    experiment = client.api.kfp.create_experiment("Default")
    return {
        "display_name": "a run",
        "experiment_id": experiment.experiment_id,
        "pipeline_version_reference": {
            "pipeline_id": version.pipeline_id,
            "pipeline_version_id": version.pipeline_version_id,
        },
        "runtime_config": {"parameters": {**GIVEN, **parameters}},
    }


def with_literals(folder: Path) -> str:
    """A package whose parameter ``backend`` takes these values only, as a dropdown in the UI does."""
    spec, platform = yaml.safe_load_all(Path(PACKAGE).read_text("utf-8"))
    parameters = spec["root"]["inputDefinitions"]["parameters"]
    parameters["variant"] = {
        "parameterType": "STRING",
        "defaultValue": "auto",
        "literals": ["auto", "cpu", "cuda"],
    }
    path = folder / "literals.yaml"
    path.write_text(yaml.safe_dump_all([spec, platform]), "utf-8")
    return str(path)


def test_an_unknown_parameter(client: Client, backend: Backend) -> None:
    client.upload(PACKAGE)
    assert post(backend, "runs", asked(client, no_such=1)) == refused("error-unknown-parameter")
    assert not backend.state.runs


def test_a_value_that_is_none_of_the_literals(client: Client, backend: Backend, tmp_path: Path) -> None:
    client.upload(with_literals(tmp_path))
    assert post(backend, "runs", asked(client, variant="tpu")) == refused("error-literal-refused")
    assert post(backend, "runs", asked(client, variant="cpu"))[0] == 200
    with pytest.raises(ParameterError) as error:  # the client says so before anything is sent
        client.runs.start(parameters={**GIVEN, "variant": "tpu"})
    assert "variant" in error.value.message and "cuda" in error.value.remedy
    assert client.parameters()["variant"].literals == ("auto", "cpu", "cuda")
    assert len(backend.state.runs) == 1


def test_a_namespace_that_is_not_the_experiment_s(client: Client, backend: Backend) -> None:
    client.upload(PACKAGE)
    there = recorded("recurring-run-read")
    body = {
        **asked(client),
        "namespace": there["namespace"],
        "trigger": there["trigger"],
        "mode": "DISABLE",
        "max_concurrency": "1",
    }
    experiment = body["experiment_id"]
    wanted = refused("error-namespace-of-experiment", **{"74f47f74_f018_451a_b6c4_41ccb5d993c9": experiment})
    assert post(backend, "recurringruns", body) == wanted and not backend.state.recurring
    del body["namespace"]
    status, made = post(backend, "recurringruns", body)
    assert (status, made["namespace"], made["status"]) == (200, there["namespace"], there["status"])


def test_experiments_of_single_user_mode_have_no_namespace(client: Client, backend: Backend) -> None:
    (there,) = model("V2beta1ListExperimentsResponse", recorded("experiments")).experiments
    client.api.kfp.create_experiment("Default")
    (ours,) = backend.state.experiments.values()
    assert (ours.namespace or "", ours.storage_state) == (there.namespace or "", there.storage_state)


def test_a_retry_of_a_run_that_broke_in_two(client: Client, backend: Backend, say: Say) -> None:
    client.upload(PACKAGE)
    backend.state.ending = "FAILED"
    run = client.runs.start(parameters=GIVEN).wait(check=False, poll=0)
    backend.state.stuck = "batch-segmentation-qv8db-comp-for-loop-1-iteration-2648381666"
    wanted = refused("error-retry-refused", **{"3073bcd8_1066_49fa_97a7_52c64a49d908": run.id})
    assert post(backend, f"runs/{run.id}:retry") == wanted
    before = backend.count("POST", ":retry")
    with pytest.raises(UnavailableError):
        run.retry()
    assert backend.count("POST", ":retry") == before + 1, "asked once more than the user did"
    assert run.refresh().state == "FAILED" and say("runs", "retry", run.id)[0] == 1


def loops(spec: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every loop of a package: its name, and the task that makes its items."""
    for component in [spec["root"], *spec["components"].values()]:
        for name, task in component.get("dag", {}).get("tasks", {}).items():
            if "parameterIterator" in task or "artifactIterator" in task:
                items = task["parameterIterator"]["items"]["inputParameter"]
                yield name, task["inputs"]["parameters"][items]


@pytest.mark.parametrize("variant", ["cpu", "gpu"])
@pytest.mark.parametrize("pipeline", pipeline_names())
def test_what_is_collected_comes_from_the_shards_which_are_never_none(pipeline: str, variant: str) -> None:
    """``Collected`` over no iteration fails in the driver of its consumer, so loops are over shards alone.

    ``tests/steps/test_a_shard_at_least.py`` holds that fetch_dataset always names one.
    """
    spec = next(yaml.safe_load_all(compile_pipeline(pipeline, settings=settings_for(variant))))
    found = dict(loops(copy.deepcopy(spec)))
    assert found
    for name, source in found.items():
        made = source["taskOutputParameter"]
        assert (made["producerTask"], made["outputParameterKey"]) == ("fetch-dataset", "Output"), name
