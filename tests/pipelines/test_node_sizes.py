"""Runs fit the one object in which Argo keeps them: small nodes, and no more shards than that allows."""

from __future__ import annotations

import base64
import gzip
import json
import random
from bisect import bisect_right
from collections import Counter
from pathlib import Path
from statistics import mean
from typing import Any

import pytest
import yaml
from workflow_size import METADATA, PARAMETERS, Workflow

from clipseg_kfp.components import ALL
from clipseg_kfp.steps.sharding import MAX_SHARDS

RECORDED = Path(__file__).parent / "recorded"
PIPELINES = Path(__file__).parents[2] / "pipelines"
PACKAGES = sorted(PIPELINES.glob("*/pipeline*.yaml"))
IDS = [f"{path.parent.name}/{path.name}" for path in PACKAGES]
MOST_BYTES = 700_000

#: Components with many parameters: more than 1 KB, and not to grow.
LARGE = {"encode-prompts": 1_320, "fetch-dataset": 1_190, "publish-results": 1_080}


@pytest.fixture(scope="module")
def recorded_package() -> str:
    """What ran when nodes were recorded: version 0.1 with docstrings and descriptions in it."""
    text = gzip.decompress((RECORDED / "package-of-that-run.yaml.gz").read_bytes()).decode()
    return text.replace("image: clipseg-kfp", "image: docker.io/library/clipseg-kfp")


def recorded_run(package: str, shards: int, named: int) -> Workflow:
    """With what tasks handed over then: fetch_dataset's names of all shards travelled into every node."""
    names = [f"shard-{i:03}" for i in range(named)]
    dataset = {
        "compact": 0, "deleted": 0, "digest": "f3c7ff998034f604ed3951d7197116c3", "listed": 37,
        "listed_at": 1796058384.08688, "max_quarantined": "", "shards": {"list": names}, "skipped": 0,
        "source_uri": "s3://mlpipeline/shared/images",
    }  # fmt: skip
    digest = "a32dc281a3473350e2ee3b5c84810181"
    model = {"digest": digest, "revision": digest, "source": "s3://mlpipeline/shared/models/demo"}
    metadata = {"dataset": dataset, "model": model, "views": {"views": 18}}
    return Workflow(
        package, shards, {**metadata, "encoded_prompts": {"configuration": "902615ec3d3579a5"}}, {}
    )


def compressed(nodes: list[dict[str, Any]]) -> float:
    """Argo sorts nodes by their hashes: what gzip finds within its 32 KB is a matter of chance."""
    sizes = []
    for seed in range(20):
        shuffled = random.Random(seed).sample(nodes, len(nodes))
        text = json.dumps({node["id"]: node for node in shuffled}, separators=(",", ":"))
        sizes.append(len(base64.b64encode(gzip.compress(text.encode(), 6))))
    return mean(sizes)


def kinds(nodes: list[dict[str, Any]]) -> Counter[tuple[str, str]]:
    return Counter((node["type"], node["templateName"]) for node in nodes)


def test_nodes_are_computed_as_they_were_recorded(recorded_package: str) -> None:
    recorded = json.loads(gzip.decompress((RECORDED / "nodes-of-one-iteration.json.gz").read_bytes()))
    nodes = recorded_run(recorded_package, 2, 2).nodes
    computed = [node for node in nodes if "iteration-iterations(1:1)" in node["name"]]
    assert kinds(computed) == kinds(recorded)
    for measure in (lambda nodes: len(json.dumps(nodes)), compressed):
        assert measure(computed) == pytest.approx(measure(recorded), rel=0.05)


@pytest.mark.parametrize(
    ("shards", "named", "nodes", "size"),
    [(25, 25, 641, 784_000), (40, 50, 1_001, 1_084_153)],
    ids=["ended well", "became too large"],
)
def test_objects_are_computed_as_they_were_seen(
    recorded_package: str, shards: int, named: int, nodes: int, size: int
) -> None:
    run = recorded_run(recorded_package, shards, named)
    assert len(run.nodes) == pytest.approx(nodes, abs=2)
    assert 0.95 * size < run.size() < 1.15 * size, "rather more than less: the second had not come to its end"


@pytest.mark.parametrize("path", PACKAGES, ids=IDS)
def test_a_run_of_the_most_shards_fits_its_object(path: Path) -> None:
    package = path.read_text("utf-8")

    def size(shards: int) -> int:
        return Workflow(package, shards, METADATA, PARAMETERS).size()

    most = bisect_right(range(200), MOST_BYTES, key=size) - 1
    print(
        f"{path.parent.name}/{path.name}: {size(MAX_SHARDS):,} bytes with {MAX_SHARDS} shards; {most} would fit"
    )
    assert size(MAX_SHARDS) < MOST_BYTES


@pytest.mark.parametrize("path", PACKAGES, ids=IDS)
def test_components_are_small_where_every_node_repeats_them(path: Path) -> None:
    spec = next(yaml.safe_load_all(path.read_text("utf-8")))
    names = {component.component_spec.name for component in ALL}
    for component in spec["components"].values():
        if "executorLabel" not in component:
            continue
        name = component["executorLabel"].removeprefix("exec-")
        container = spec["deploymentSpec"]["executors"][component["executorLabel"]]["container"]
        assert name in names
        assert len("".join([*container["command"], *container["args"]])) <= 1024, name
        assert len(json.dumps(component, separators=(",", ":"))) <= LARGE.get(name, 1024), name
        assert '"description"' not in json.dumps(component), name
        assert '"""' not in container["command"][-1], name


@pytest.mark.parametrize("path", PACKAGES, ids=IDS)
def test_the_form_keeps_its_descriptions(path: Path) -> None:
    spec = next(yaml.safe_load_all(path.read_text("utf-8")))
    assert spec["pipelineInfo"]["description"]
    assert all(one["description"] for one in spec["root"]["inputDefinitions"]["parameters"].values())
