"""The plain kfp SDK: pipelines and components carry the image that is named once, and warn where none is."""

import os
import re
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from cluster_backend import Backend
from kfp import compiler, dsl
from test_docs import blocks

import clipseg_kfp
from clipseg_kfp.client.packages import images_of
from clipseg_kfp.components import ALL, encode_prompts, fetch_model, rank_prompts
from clipseg_kfp.errors import ParameterError
from clipseg_kfp.pipelines import ALL as PIPELINES
from clipseg_kfp.pipelines import batch_segmentation
from clipseg_kfp.site.compile import compile_pipeline, site_settings
from clipseg_kfp.site.image import DEFAULT_IMAGE, VARIABLE, chosen_image

Say = Callable[..., tuple[int, str, str]]
ROOT = Path(__file__).parents[2]
IMAGE = "registry.example/team/clipseg-kfp@sha256:" + "a" * 64
OTHER = "registry.example/team/other:1"


@pytest.fixture(autouse=True)
def _unnamed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "")  # set, so that what use_image sets goes with the test


def trace() -> Any:
    """A pipeline of somebody's own."""

    @dsl.pipeline(name="mine")
    def mine(model_uri: str, prompts: list) -> None:
        model = fetch_model(model_uri=model_uri)
        encode_prompts(model=model.outputs["model"], prompts=prompts)
        task = fetch_model(model_uri=model_uri)
        task.set_container_image(OTHER)

    return mine


def nested() -> Any:
    """The same, with one of this project's pipelines in it."""

    @dsl.pipeline(name="around")
    def around(source_uri: str) -> None:
        batch_segmentation(source_uri=source_uri, output_uri="s3://out/masks", prompts=["a cat"])

    return around


def compiled(pipeline: Any, folder: Path) -> list[str]:
    """The images that plain kfp puts into the package."""
    path = folder / "package.yaml"
    compiler.Compiler().compile(pipeline, str(path))
    return images_of(next(yaml.safe_load_all(path.read_text("utf-8"))))


def told(caught: list[warnings.WarningMessage]) -> list[str]:
    """The files in which a warning of this project appears."""
    return [one.filename for one in caught if VARIABLE in str(one.message)]


@pytest.mark.parametrize("how", ["environment", "call"])
@pytest.mark.parametrize("component", [*PIPELINES.values(), *ALL], ids=lambda one: one.name)
def test_all_carry_the_image_that_is_named_once(
    component: Any, how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if how == "environment":
        monkeypatch.setenv(VARIABLE, IMAGE)
    else:
        clipseg_kfp.use_image(IMAGE)  # long after the import
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert compiled(component, tmp_path) == [IMAGE]
    assert not told(caught)
    clipseg_kfp.use_image(OTHER)  # nothing stays of the one before
    assert compiled(component, tmp_path) == [OTHER]
    clipseg_kfp.use_image("")
    with pytest.warns(UserWarning, match=VARIABLE):
        assert compiled(component, tmp_path) == [DEFAULT_IMAGE]


@pytest.mark.parametrize(("make", "more"), [(trace, [OTHER]), (nested, [])])
def test_a_pipeline_of_ones_own_carries_it(make: Callable[[], Any], more: list[str], tmp_path: Path) -> None:
    clipseg_kfp.use_image(IMAGE)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert compiled(make(), tmp_path) == sorted([IMAGE, *more])
    assert not told(caught)


@pytest.mark.parametrize("make", [trace, nested])
def test_without_an_image_the_author_is_warned_once(make: Callable[[], Any]) -> None:
    for _ in range(2):  # each pipeline anew
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            make()
        assert told(caught) == [__file__]


def test_own_compiling_and_local_runs_are_left_alone(
    say: Say, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    committed = (ROOT / "pipelines" / "batch_segmentation" / "pipeline.yaml").read_text("utf-8")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert compile_pipeline("batch-segmentation") == committed
        status, _, err = say("compile", "-o", "own.yaml")
    assert status == 0 and Path("own.yaml").read_text("utf-8") == committed
    assert err.count(DEFAULT_IMAGE) == 1  # the command's own warning
    clipseg_kfp.use_image(IMAGE)
    compiled(batch_segmentation, tmp_path)
    local = batch_segmentation.component_spec.implementation.graph  # what kfp's local runner takes
    names = {one["container"]["image"] for one in local.deployment_spec["executors"].values()}
    assert names == {DEFAULT_IMAGE}
    assert rank_prompts.component_spec.implementation.container.image == DEFAULT_IMAGE


def test_the_project_s_own_commands_take_it_below_all_that_is_said(
    say: Say, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, IMAGE)
    assert site_settings().image == IMAGE
    assert site_settings(image=OTHER).image == OTHER
    assert site_settings(settings={"image": OTHER}).image == OTHER
    assert say("compile", "-o", tmp_path / "own.yaml")[0] == 0
    assert images_of(next(yaml.safe_load_all((tmp_path / "own.yaml").read_text("utf-8")))) == [IMAGE]
    with pytest.raises(ParameterError) as error:
        site_settings("gpu")  # its own image for inference names no registry
    assert error.value.message.startswith(f"{VARIABLE}: ") and "--gpu-image" in error.value.remedy
    assert site_settings("gpu", gpu_image=OTHER).images() == [IMAGE, OTHER]


@pytest.mark.parametrize("wrong", ["no image", "Registry/UPPER", "https://registry.example/x"])
def test_what_is_no_image_is_refused(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ParameterError) as error:
        clipseg_kfp.use_image(wrong)
    assert "use_image" in error.value.message and not chosen_image()
    monkeypatch.setenv(VARIABLE, wrong)
    with pytest.raises(ParameterError) as error:
        trace()
    assert VARIABLE in error.value.message


def test_committed_packages_do_not_follow_the_environment() -> None:
    program = (
        "from tools import catalog\n"
        "assert all(path.read_text('utf-8') == text for path, text in catalog.packages().items())"
    )
    subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, VARIABLE: IMAGE}, check=True, timeout=120
    )


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("how", ["call", "environment", "nothing"])
def test_snippets_of_the_page_start_runs_with_the_image(
    backend: Backend, tmp_path: Path, number: int, how: str
) -> None:
    block = blocks("client", "python")[number]
    (call,) = re.finditer(r'^clipseg_kfp\.use_image\(\s*"(.*)"\s*\)$', block, re.M)
    image = call[1]
    block = block.replace('"https://kubeflow.example/pipeline"', repr(backend.url))
    environment = {**os.environ, VARIABLE: image if how == "environment" else ""}
    if how != "call":
        block = block.replace(call[0], "")
    program = tmp_path / "snippet.py"
    program.write_text(block, "utf-8")
    done = subprocess.run(
        [sys.executable, program], env=environment, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    (run,) = backend.state.runs.values()
    spec = run.pipeline_spec.get("pipeline_spec", run.pipeline_spec)
    assert images_of(spec) == [DEFAULT_IMAGE if how == "nothing" else image]
    assert (VARIABLE in done.stderr) == (how == "nothing")
    assert run.runtime_config.parameters["prompts"] == ["a cat"]
