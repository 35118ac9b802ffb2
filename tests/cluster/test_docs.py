"""Every command of the pages about clusters is run, in order, against the stand-in and a real bucket."""

from __future__ import annotations

import re
import shlex
import shutil
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
from cluster_backend import GIVEN, Backend
from test_outputs import commit

from clipseg_kfp import Client, Recipe
from clipseg_kfp.local.store import EmbeddedStore

Say = Callable[..., tuple[int, str, str]]
PAGES = Path(__file__).parents[2] / "docs" / "cluster"
NAMES = sorted(path.stem for path in PAGES.glob("*.md"))
#: At the end of a command: it needs a registry, Docker, another machine or a cluster.
ELSEWHERE = "☸"


def blocks(name: str, kind: str) -> list[str]:
    text = (PAGES / f"{name}.md").read_text("utf-8")
    return [textwrap.dedent(one) for one in re.findall(rf"^ *```{kind}\n(.*?)^ *```", text, re.M | re.S)]


def commands_of(name: str) -> list[str]:
    """The commands of a page that can be run here."""
    lines = "".join(blocks(name, "console")).replace("\\\n", " ").splitlines()
    return [line for line in lines if line.strip() and ELSEWHERE not in line]


@pytest.mark.parametrize("name", [name for name in NAMES if commands_of(name)])
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
    Path("parameters.yaml").write_text(
        "source_uri: s3://mlpipeline/shared/photos\noutput_uri: s3://mlpipeline/shared/masks\n"
        "threshold: 0.3\nprompts: [a cat]\n",
        "utf-8",
    )
    Path("prompts.yaml").write_text("defaults: {threshold: 0.4}\nprompts: [a cat]\n", "utf-8")
    for number, block in enumerate(blocks(name, "yaml") or ["parallelism: 4\n"]):
        Path("cluster.yaml" if not number else "other.yaml").write_text(block, "utf-8")
    shutil.copy("cluster.yaml", "gpu.yaml")
    if not store.client().bucket_exists("mlpipeline"):
        store.make_bucket("mlpipeline")
    backend.state.artifact_store = tmp_path / "kept"
    backend.state.artifact_store.mkdir()
    monkeypatch.setenv("KFP_ARTIFACT_STORE", str(backend.state.artifact_store))
    image = "registry.example/clipseg-kfp@sha256:" + "1" * 64
    client.upload("batch-segmentation", Recipe(image))
    client.upload("prompt-evaluation", Recipe(image))
    if name == "troubleshooting":
        backend.state.ending = "FAILED"
    run = client.runs.start(
        "batch-segmentation", {**GIVEN, "output_uri": f"s3://mlpipeline/shared/{name}"}
    ).wait(check=False)
    if name in ("client", "index"):
        commit(f"s3://mlpipeline/shared/{name}", run.id)
    for line in commands_of(name):
        words = shlex.split(line.replace('"$RUN"', run.id))
        assert words[0] == "clipseg-kfp", f"only the project's own commands are tested: {line}"
        status, out, err = say(*words[1:])
        expected = 3 if name == "troubleshooting" and words[1:3] == ["runs", "wait"] else 0
        assert status == expected, (line, out, err)
        assert out.strip() or err.strip(), f"a command without a word: {line}"


@pytest.mark.parametrize("name", NAMES)
def test_what_is_not_tested_is_marked(name: str) -> None:
    text = (PAGES / f"{name}.md").read_text("utf-8")
    fences = re.findall(r"(.*)\n *```(\w+)\n", text)
    assert all(before == "*needs a cluster*" for before, kind in fences if kind == "sh")
    assert {kind for _, kind in fences} <= {"console", "sh", "python", "yaml"}
    assert "kubectl" not in "".join(blocks(name, "console"))


def test_the_python_example_is_the_client(
    backend: Backend, store: EmbeddedStore, s3_env: dict[str, str]
) -> None:
    block = blocks("client", "python")[0]
    if not store.client().bucket_exists("mlpipeline"):
        store.make_bucket("mlpipeline")
    # The last line reads results, which a stand-in's run does not make.
    lines = block.replace('"https://kubeflow.example/pipeline"', repr(backend.url)).replace(
        ".metrics()", ".state"
    )
    exec(compile(lines, "client.md", "exec"), {})
    (run,) = backend.state.runs.values()
    assert run.runtime_config.parameters["prompts"] == ["a cat"]


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_somewhere(name: str) -> None:
    for target in re.findall(r"\]\(([^)#:]+)[)#]", (PAGES / f"{name}.md").read_text("utf-8")):
        assert (PAGES / target).exists(), target
