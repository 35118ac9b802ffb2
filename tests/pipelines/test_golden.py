"""What is committed is what the code makes: compiled packages, READMEs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from codes import fails

from clipseg_kfp.components import ALL
from clipseg_kfp.options import GROUPS
from clipseg_kfp.site.compile import compile_pipeline, pipeline_names
from tools import catalog

ROOT = Path(__file__).parents[2]
PACKAGES = catalog.packages()
REMEDY = "run `make docs` and commit what it writes"


@pytest.mark.parametrize("path", sorted(PACKAGES), ids=lambda p: f"{p.parent.name}/{p.name}")
def test_committed_package_is_a_fresh_compile(path: Path) -> None:
    assert path.read_text("utf-8") == PACKAGES[path], REMEDY


@pytest.mark.parametrize("path", sorted(catalog.readmes()), ids=lambda p: f"{p.parent.name}/{p.name}")
def test_readmes_follow_the_specifications(path: Path) -> None:
    assert path.read_text("utf-8") == catalog.readmes()[path], REMEDY


@pytest.mark.parametrize("component", ALL, ids=lambda c: c.component_spec.name)
def test_every_component_is_documented_and_thin(component: object) -> None:
    name = component.component_spec.name.replace("-", "_")  # type: ignore[attr-defined]
    folder = ROOT / "components" / name
    assert len((folder / "component.py").read_text("utf-8").splitlines()) <= 80
    for row in (folder / "README.md").read_text("utf-8").splitlines():
        if row.startswith("| `"):
            assert row.rstrip(" |").count("|") >= 3 and not row.endswith("|  |"), f"undescribed: {row}"


def parameters(pipeline: str) -> dict[str, Any]:
    """The specification of each parameter of a pipeline, by name."""
    spec = yaml.safe_load(compile_pipeline(pipeline).split("\n---\n")[0])
    return dict(spec["root"]["inputDefinitions"]["parameters"])


REQUIRED = {
    "batch-segmentation": {"source_uri", "output_uri", "prompts"},
    "one-shot-segmentation": {"source_uri", "output_uri"},
    "prompt-evaluation": {"source_uri", "output_uri", "prompt_sets"},
}


@pytest.mark.parametrize("pipeline", pipeline_names())
def test_parameters_of_a_pipeline_are_few_and_described_for_the_ui_form(pipeline: str) -> None:
    found = parameters(pipeline)
    assert len(found) <= 15
    for name, parameter in found.items():
        assert len(parameter.get("description", "")) > 15, name
    assert {name for name, one in found.items() if "defaultValue" not in one} == REQUIRED[pipeline]


@pytest.mark.parametrize("pipeline", pipeline_names())
def test_the_form_shows_every_option_of_a_group_with_its_default(pipeline: str) -> None:
    found = {name: one for name, one in parameters(pipeline).items() if name in GROUPS}
    assert len(found) >= 5
    for name, parameter in found.items():
        assert parameter["parameterType"] == "STRUCT"
        own = {"label_maps": False} if (pipeline, name) == ("prompt-evaluation", "outputs") else {}
        assert parameter["defaultValue"] == {**GROUPS[name].defaults(), **own}


def test_what_pipelines_share_is_the_same_in_each() -> None:
    batch, one_shot = parameters("batch-segmentation"), parameters("one-shot-segmentation")
    assert set(one_shot) - set(batch) == {"support"}
    assert not set(batch) - set(one_shot)
    assert {name for name in batch if batch[name] != one_shot[name]} == {"prompts", "prompts_uri"}
    assert one_shot["prompts"]["defaultValue"] == []
    assert set(parameters("prompt-evaluation")) - set(batch) == {"prompt_sets"}


COMPILED = """
from clipseg_kfp.pipelines import ALL
from clipseg_kfp.site.compile import compile_manifests, compile_pipeline
for name in ALL:
    print(compile_pipeline(name), compile_manifests(name), sep="\\n")
"""


def test_packages_are_the_same_in_every_process() -> None:
    """kfp hands objects through protobuf, whose maps have another order in each process."""
    texts = set()
    for seed in ("1", "2", "3"):
        done = subprocess.run(
            [sys.executable, "-c", COMPILED],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
            timeout=300,
        )
        texts.add(done.stdout)
    assert len(texts) == 1
    assert '{"backend": "auto"' in texts.pop()


def test_each_pipeline_hands_its_own_example_pictures_on() -> None:
    specs = {
        name: yaml.safe_load(compile_pipeline(name).split("\n---\n")[0])["root"]["dag"]["tasks"]
        for name in pipeline_names()
    }
    assert specs["batch-segmentation"].keys() == specs["one-shot-segmentation"].keys()
    given = {
        name: tasks["encode-prompts"]["inputs"]["parameters"]["support"] for name, tasks in specs.items()
    }
    assert given["batch-segmentation"] == {"runtimeValue": {"constant": {}}}
    assert given["one-shot-segmentation"] == {"componentInputParameter": "support"}


def test_an_image_of_ones_own_is_set_everywhere_and_nothing_else_changes() -> None:
    image = "registry.example/team/clipseg-kfp@sha256:" + "0" * 64
    own, default = (
        list(yaml.safe_load_all(text))
        for text in (compile_pipeline("batch-segmentation", image), compile_pipeline("batch-segmentation"))
    )
    executors = own[0]["deploymentSpec"]["executors"]
    assert {executor["container"]["image"] for executor in executors.values()} == {image}
    for name, executor in default[0]["deploymentSpec"]["executors"].items():
        executors[name]["container"]["image"] = executor["container"]["image"]
    assert own == default


@pytest.mark.parametrize("pipeline", pipeline_names())
def test_only_pure_steps_are_cached(pipeline: str) -> None:
    spec = yaml.safe_load(compile_pipeline(pipeline).split("\n---\n")[0])
    tasks = dict(spec["root"]["dag"]["tasks"])
    for component in spec["components"].values():
        tasks.update(component.get("dag", {}).get("tasks", {}))
    cached = {name for name, task in tasks.items() if task.get("cachingOptions", {}).get("enableCache")}
    assert cached - {"for-loop-1", "shards"} == {"preprocess-images", "segment-images"}


@pytest.mark.parametrize("pipeline", pipeline_names())
def test_credentials_come_from_the_secret_that_the_parameter_names(pipeline: str) -> None:
    text = compile_pipeline(pipeline)
    assert "AWS_SECRET_ACCESS_KEY" in text  # the name of the variable, filled from the mounted secret
    spec, platform = yaml.safe_load_all(text)
    for executor in spec["deploymentSpec"]["executors"].values():
        assert "env" not in executor["container"], "a literal value in the environment"
    for executor in platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"].values():
        names = [secret["secretNameParameter"] for secret in executor["secretAsEnv"]]
        assert names[0]["componentInputParameter"].endswith("storage_secret")


@pytest.mark.parametrize(
    ("name", "image", "code"),
    [
        ("no-such", "image:1", "no_such_pipeline"),
        ("batch-segmentation", " ", "options"),
        ("batch-segmentation", "a b", "options"),
    ],
)
def test_bad_arguments_are_named(name: str, image: str, code: str) -> None:
    with fails(code):
        compile_pipeline(name, image)
