"""Every command of the pages about clusters is run, in order, against the stand-in and a real bucket."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from cluster_backend import Backend
from test_outputs import commit

from clipseg_kfp import Client
from clipseg_kfp.embedded import EmbeddedStore

Say = Callable[..., tuple[int, str, str]]
PAGES = Path(__file__).parents[2] / "docs" / "cluster"
NAMES = ["index", "client", "connecting", "namespaces", "recurring-runs", "troubleshooting"]


def blocks(name: str, kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```", (PAGES / f"{name}.md").read_text("utf-8"), re.M | re.S)


@pytest.mark.parametrize("name", NAMES)
def test_commands_work(
    name: str,
    say: Say,
    backend: Backend,
    client: Client,
    store: EmbeddedStore,
    s3_env: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("parameters.yaml").write_text("threshold: 0.3\nprompts: [a cat]\n", "utf-8")
    Path("cluster.yaml").write_text("parallelism: 4\n", "utf-8")
    if not store.client().bucket_exists("mlpipeline"):
        store.make_bucket("mlpipeline")
    image = "registry.example/clipseg-kfp@sha256:" + "1" * 64
    client.upload("batch-segmentation", image=image)
    client.upload("prompt-evaluation", image=image)
    if name == "troubleshooting":
        backend.state.ending = "FAILED"
    run = client.run("batch-segmentation", {"output_uri": f"s3://mlpipeline/shared/{name}"}).wait(check=False)
    if name in ("client", "index"):
        commit(f"s3://mlpipeline/shared/{name}", run.id)
    commands = [line for block in blocks(name, "console") for line in block.splitlines() if line.strip()]
    assert commands
    for line in commands:
        words = shlex.split(line.replace('"$RUN"', run.id))
        assert words[0] == "clipseg-kfp", f"only the project's own commands are tested: {line}"
        status, out, err = say(*words[1:])
        expected = 3 if name == "troubleshooting" and words[1:3] == ["runs", "wait"] else 0
        assert status == expected, (line, out, err)
        assert out.strip() or err.strip(), f"a command without a word: {line}"


@pytest.mark.parametrize("name", NAMES)
def test_what_is_not_tested_is_marked(name: str) -> None:
    text = (PAGES / f"{name}.md").read_text("utf-8")
    fences = re.findall(r"(.*)\n```(\w+)\n", text)
    assert all(before == "*needs a cluster*" for before, kind in fences if kind == "sh")
    assert {kind for _, kind in fences} <= {"console", "sh", "python"}
    assert "kubectl" not in "".join(blocks(name, "console"))


def test_the_python_example_is_the_client(
    backend: Backend, store: EmbeddedStore, s3_env: dict[str, str]
) -> None:
    (block,) = blocks("client", "python")
    if not store.client().bucket_exists("mlpipeline"):
        store.make_bucket("mlpipeline")
    # The last line reads results, which a stand-in's run does not make.
    lines = block.replace('"https://kubeflow.example/pipeline"', repr(backend.url)).replace(
        ".metrics()", ".state"
    )
    exec(compile(lines, "client.md", "exec"), {})
    (run,) = backend.state.runs.values()
    assert run.runtime_config.parameters["prompts"] == ["a cat"]


@pytest.mark.parametrize("name", [*NAMES, "install", "air-gapped", "gpu", "upgrading"])
def test_links_lead_somewhere(name: str) -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", (PAGES / f"{name}.md").read_text("utf-8")):
        assert (PAGES / target).exists(), target
