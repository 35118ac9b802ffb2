"""What is committed is what the code makes: compiled packages, component READMEs, metadata."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from clipseg_kfp.components import ALL
from clipseg_kfp.errors import ParameterError
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
    metadata = yaml.safe_load((folder / "metadata.yaml").read_text("utf-8"))
    assert metadata["name"] == name
    assert metadata["step"] == f"clipseg_kfp.steps.{name}"
    assert len((folder / "component.py").read_text("utf-8").splitlines()) <= 80
    for row in (folder / "README.md").read_text("utf-8").splitlines():
        if row.startswith("| `"):
            assert row.rstrip(" |").count("|") >= 3 and not row.endswith("|  |"), f"undescribed: {row}"


def parameters(pipeline: str) -> dict[str, Any]:
    """The specification of each parameter of a pipeline, by name."""
    spec = yaml.safe_load(compile_pipeline(pipeline).split("\n---\n")[0])
    return dict(spec["root"]["inputDefinitions"]["parameters"])


@pytest.mark.parametrize("pipeline", pipeline_names())
def test_every_parameter_of_a_pipeline_has_a_description_for_the_ui_form(pipeline: str) -> None:
    for name, parameter in parameters(pipeline).items():
        assert len(parameter.get("description", "")) > 15, name
        assert "defaultValue" in parameter, name


def test_what_pipelines_share_is_the_same_in_each() -> None:
    batch, one_shot = parameters("batch-segmentation"), parameters("one-shot-segmentation")
    assert set(one_shot) - set(batch) == {"support_uri", "engineering"}
    assert not set(batch) - set(one_shot)
    assert {name for name in batch if batch[name] != one_shot[name]} == {"prompts"}
    assert one_shot["prompts"]["defaultValue"] == []


def test_each_pipeline_hands_its_own_example_pictures_on() -> None:
    specs = {
        name: yaml.safe_load(compile_pipeline(name).split("\n---\n")[0])["root"]["dag"]["tasks"]
        for name in pipeline_names()
    }
    assert specs["batch-segmentation"].keys() == specs["one-shot-segmentation"].keys()
    given = {
        name: (task["support_uri"], task["engineering"])
        for name, tasks in specs.items()
        for task in [tasks["encode-prompts"]["inputs"]["parameters"]]
    }
    assert given["batch-segmentation"][0] == {"runtimeValue": {"constant": ""}}
    assert given["one-shot-segmentation"] == (
        {"componentInputParameter": "support_uri"},
        {"componentInputParameter": "engineering"},
    )


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
    ("name", "image", "words"),
    [
        ("no-such", "image:1", "Choose from: batch-segmentation, one-shot-segmentation"),
        ("batch-segmentation", " ", "no image reference"),
        ("batch-segmentation", "a b", "no image reference"),
    ],
)
def test_bad_arguments_are_named(name: str, image: str, words: str) -> None:
    with pytest.raises(ParameterError, match=words):
        compile_pipeline(name, image)
