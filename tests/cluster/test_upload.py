"""Uploads: new pipelines, new versions, and nothing where the content is there already."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from cluster_backend import PACKAGE, SET, Backend
from cluster_state import RefusedError
from codes import fails

from clipseg_kfp import Client, Recipe, __version__
from clipseg_kfp.cli import cluster
from clipseg_kfp.client import Uploaded
from clipseg_kfp.site.compile import pipeline_names

Say = Callable[..., tuple[int, str, str]]


def test_the_same_content_is_uploaded_once(client: Client, backend: Backend, tmp_path: Path) -> None:
    first = client.upload(PACKAGE)
    again = client.upload(PACKAGE)
    other = tmp_path / "copy.yaml"
    other.write_text("# a comment changes nothing\n" + Path(PACKAGE).read_text("utf-8"), "utf-8")
    commented = client.upload(str(other))
    assert (first.action, again.action, commented.action) == ("new pipeline", "unchanged", "unchanged")
    assert first.version_id == again.version_id == commented.version_id
    assert len(backend.state.versions) == 1
    assert backend.count("POST", "upload_version") == 1


def test_other_content_becomes_a_new_version(client: Client, backend: Backend) -> None:
    first = client.upload("batch-segmentation", Recipe("registry.example/clipseg@sha256:" + "0" * 64))
    second = client.upload("batch-segmentation", Recipe("registry.example/clipseg@sha256:" + "1" * 64))
    back = client.upload("batch-segmentation", Recipe("registry.example/clipseg@sha256:" + "0" * 64))
    assert (second.action, back.action) == ("new version", "unchanged")
    assert second.newest and not back.newest
    assert second.pipeline_id == first.pipeline_id and back.version_id == first.version_id
    images = {
        one["container"]["image"]
        for one in backend.state.versions[second.version_id]
        .pipeline_spec["pipeline_spec"]["deploymentSpec"]["executors"]
        .values()
    }
    assert images == {"registry.example/clipseg@sha256:" + "1" * 64}


def test_both_pipelines_go_up_under_their_names(client: Client, backend: Backend) -> None:
    for name in ("batch-segmentation", "one-shot-segmentation"):
        assert client.upload(name).pipeline == name
    assert {one.display_name for one in backend.state.pipelines.values()} == {
        "batch-segmentation",
        "one-shot-segmentation",
    }


def test_two_uploads_at_once_make_one_version(backend: Backend) -> None:
    done: list[Uploaded] = []

    def upload() -> None:
        done.append(Client(backend.url).upload(PACKAGE))

    threads = [threading.Thread(target=upload) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(done) == 4 and len({one.version_id for one in done}) == 1
    assert len(backend.state.pipelines) == len(backend.state.versions) == 1


def test_a_named_version_keeps_its_content(client: Client) -> None:
    assert client.upload(PACKAGE, version_name="nightly").version == "nightly"
    assert client.upload(PACKAGE, version_name="nightly").action == "unchanged"
    with fails("version_taken", where="nightly"):
        client.upload("batch-segmentation", Recipe("registry.example/other:1"), version_name="nightly")


def test_an_upload_cut_off_in_the_middle_is_finished_by_the_next(client: Client, backend: Backend) -> None:
    client.upload(PACKAGE)
    backend.state.versions.clear()  # the pipeline was made, the version was not
    assert client.upload(PACKAGE).action == "new version"
    assert len(backend.state.pipelines) == 1


def test_a_lost_answer_makes_no_twin(client: Client, backend: Backend) -> None:
    real = backend.state.upload_version

    def lose(*arguments: str) -> object:
        real(*arguments)
        raise RefusedError(504, "gateway timeout")

    backend.state.upload_version = lose  # type: ignore[method-assign]
    with fails("http_504"):
        client.upload(PACKAGE)
    backend.state.upload_version = real  # type: ignore[method-assign]
    assert client.upload(PACKAGE).action == "unchanged"
    assert len(backend.state.versions) == 1


@pytest.mark.parametrize("text", ["just: yaml", "pipelineInfo: {name: x}\nroots: {}", "- a list", "", "a: ["])
def test_what_is_no_package_is_not_sent(client: Client, backend: Backend, tmp_path: Path, text: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text, "utf-8")
    with fails("package_invalid", where=str(path)):
        client.upload(str(path))
    assert not backend.count("POST", "")


def test_users_upload_into_their_namespace(alice: Client, users: Backend) -> None:
    own = alice.upload(PACKAGE)
    shared = alice.upload(PACKAGE, shared=True)
    assert users.state.pipelines[own.pipeline_id].namespace == "team-a"
    assert not users.state.pipelines[shared.pipeline_id].namespace
    assert alice.version("batch-segmentation").pipeline_id == own.pipeline_id  # one's own comes first


def test_a_shared_pipeline_is_found_by_users(alice: Client) -> None:
    shared = alice.upload(PACKAGE, shared=True)
    assert alice.version("batch-segmentation").pipeline_version_id == shared.version_id


@pytest.mark.parametrize("name", pipeline_names())
def test_every_pipeline_goes_up_and_runs_with_what_it_needs(
    client: Client, backend: Backend, name: str
) -> None:
    assert client.upload(name, Recipe("registry.example/clipseg-kfp:1")).action == "new pipeline"
    places = {"source_uri": "s3://in/photos", "output_uri": "s3://out/masks"}
    sought = {
        "batch-segmentation": {"prompts": ["a cat"]},
        "one-shot-segmentation": {"support.uri": "s3://in/examples"},
        "prompt-evaluation": {"prompt_sets": {"plain": ["a cat"]}},
    }
    given = {**places, **sought[name]}
    assert client.runs.start(name, given).wait().state == "SUCCEEDED"
    (schedule,) = [client.schedules.apply("nightly", name, parameters=given, cron="@daily").schedule]
    assert schedule.enabled


def test_the_help_of_upload_names_all_pipelines() -> None:
    source = inspect.signature(cluster.upload, eval_str=True).parameters["source"]
    (argument,) = source.annotation.__metadata__
    assert argument.help == f"{', '.join(pipeline_names())}, or a YAML file."


def test_a_site_s_settings_and_variant_go_up_with_any_image(
    say: Say, client: Client, backend: Backend, tmp_path: Path
) -> None:
    """A newer version that lost them would be what all runs take from then on."""
    site = tmp_path / "cluster.yaml"
    site.write_text("storage_keys: {user: AWS_ACCESS_KEY_ID, password: AWS_SECRET_ACCESS_KEY}\n", "utf-8")
    cpu, gpu = (f"registry.example/{name}@sha256:" + "0" * 64 for name in ("cpu", "gpu"))
    words = ["--settings", site, "--variant", "gpu", "--image", cpu, "--gpu-image", gpu]
    status, out, err = say("upload", "batch-segmentation", *words)
    assert status == 0 and "new pipeline" in out and not err
    (made,) = backend.state.versions.values()
    assert "user" in str(made.pipeline_spec["platform_spec"]) and gpu in str(made.pipeline_spec)
    for command in (["run", "batch-segmentation"], ["schedule", "create", "s", "--every", "1h"]):
        assert say(*command, *SET, *words)[0] == 0
        assert len(backend.state.versions) == 1, "another version than was uploaded"
    again = client.upload("batch-segmentation", Recipe(cpu, str(site), "gpu", gpu))
    assert again.action == "unchanged"
    status, _, err = say("upload", PACKAGE, "--settings", site)
    assert status == 1 and "is compiled already" in err


def test_an_upload_warns_of_images_that_nodes_cannot_find(say: Say) -> None:
    status, _, err = say("upload", "batch-segmentation")
    assert status == 0 and f"warning: clipseg-kfp-python-cpu:{__version__} names no registry" in err


def test_what_is_not_there_is_told_by_its_name(say: Say) -> None:
    err = say("upload", "nope.yaml")[2]
    assert "nope.yaml: there is no such file" in err and "folder" not in err
    err = say("run", "nope")[2]
    assert "no pipeline 'nope'" in err and "upload nope" not in err and "one-shot-segmentation" in err
    assert "clipseg-kfp upload batch-segmentation" in say("run", "batch-segmentation")[2]


@pytest.mark.parametrize(
    "command", [["upload"], ["run"], ["doctor"], ["schedule", "create"], ["schedule", "update"]]
)
def test_examples_stand_on_lines_of_their_own(say: Say, command: list[str]) -> None:
    shown = say(*command, "--help")[1]
    _, _, examples = shown.partition("Examples:")
    assert all(line.count("clipseg-kfp ") <= 1 for line in examples.splitlines())
