"""A site's settings reach the pods they are for, read back with Kubeflow's own message classes."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from typing import Any

import pytest
import yaml
from codes import fails
from google.protobuf import json_format
from kfp.kubernetes import kubernetes_executor_config_pb2 as pb

from clipseg_kfp import __version__, cli
from clipseg_kfp.components import ALL
from clipseg_kfp.errors import OptionsError
from clipseg_kfp.site.compile import (
    compile_manifests,
    compile_pipeline,
    pipeline_names,
    settings_for,
    site_settings,
)
from clipseg_kfp.site.settings import TASKS, ClusterSettings, checked, overlaid, read_settings

IMAGE = "registry.example/team/clipseg-kfp@sha256:" + "a" * 64
FULL = f"""
image: {IMAGE}
endpoint: https://store.example
storage_secret: team-store
storage_keys: {{user: AWS_ACCESS_KEY_ID, password: AWS_SECRET_ACCESS_KEY}}
certificate_authority: {{config_map: company-ca}}
hub_secret: hub
pull_secrets: [registry]
pull_policy: IfNotPresent
accelerator: {{type: amd.com/gpu, count: 2}}
cache: {{claim: models}}
security: {{run_as_user: 1000, run_as_group: 0, run_as_non_root: true}}
keep_seconds: 3600
run_timeout: 86400
parallelism: 3
labels: {{team: vision}}
annotations: {{sidecar.istio.io/inject: "false"}}
node_selector: {{zone: a}}
scratch: 20Gi
timeout: 7200
memory_request: 1Gi
tasks:
  segment_images:
    cpu: 8
    memory: 16Gi
    shared_memory: 2Gi
    node_selector: {{pool: gpu}}
    tolerations: [{{key: gpu, value: yes-please, effect: NoSchedule}}]
  publish_results: {{memory: 4Gi, memory_request: 3Gi}}
"""


def compiled(**settings: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The pipeline's document and the platform's, of ``batch-segmentation``."""
    spec, platform = yaml.safe_load_all(compile_pipeline("batch-segmentation", settings=checked(settings)))
    return spec, platform["platforms"]["kubernetes"]


def pods(settings: dict[str, Any]) -> tuple[dict[str, Any], dict[str, pb.KubernetesExecutorConfig]]:
    """Containers and Kubernetes settings by component."""
    spec, platform = compiled(**settings)
    name = {key: key.removeprefix("exec-").replace("-", "_") for key in spec["deploymentSpec"]["executors"]}
    containers = {
        name[key]: executor["container"] for key, executor in spec["deploymentSpec"]["executors"].items()
    }
    configs = {
        name[key]: json_format.ParseDict(config, pb.KubernetesExecutorConfig())
        for key, config in platform["deploymentSpec"]["executors"].items()
    }
    assert set(containers) == set(configs) == set(TASKS) - {"rank_prompts"}
    return containers, configs


@pytest.fixture(scope="module")
def full() -> tuple[dict[str, Any], dict[str, pb.KubernetesExecutorConfig]]:
    return pods(yaml.safe_load(FULL))


def test_tasks_are_the_components() -> None:
    assert {component.component_spec.name.replace("-", "_") for component in ALL} == set(TASKS)


def test_every_pod_gets_what_all_shall_have(full: Any) -> None:
    containers, configs = full
    for name, config in configs.items():
        assert containers[name]["image"] == IMAGE
        assert [item.secret_name for item in config.image_pull_secret] == ["registry"]
        assert config.image_pull_policy == "IfNotPresent"
        assert config.active_deadline_seconds == 7200
        assert dict(config.pod_metadata.labels) == {"team": "vision"}
        assert dict(config.pod_metadata.annotations) == {"sidecar.istio.io/inject": "false"}
        assert config.node_selector.labels["zone"] == "a"
        assert (config.security_context.run_as_user, config.security_context.run_as_group) == (1000, 0)
        assert config.security_context.run_as_non_root
        scratch = next(item for item in config.empty_dir_mounts if item.mount_path == "/tmp")
        assert scratch.size_limit == "20Gi"
        (authority,) = config.config_map_as_volume
        assert authority.config_map_name == "company-ca"
        assert {"name": "AWS_CA_BUNDLE", "value": f"{authority.mount_path}/ca.crt"} in containers[name]["env"]
        assert {item.env_var: item.secret_key for item in config.secret_as_env[0].key_to_env} == {
            "AWS_ACCESS_KEY_ID": "user",
            "AWS_SECRET_ACCESS_KEY": "password",
        }
    assert configs["fetch_model"].secret_as_env[1].secret_name == "hub"


def test_only_inference_gets_the_accelerator_and_its_nodes(full: Any) -> None:
    containers, configs = full
    for name, config in configs.items():
        special = name == "segment_images"
        resources = containers[name]["resources"]
        assert ("accelerator" in resources) == special
        assert ("pool" in config.node_selector.labels) == special
        assert bool(config.tolerations) == special
        assert any(item.mount_path == "/dev/shm" for item in config.empty_dir_mounts) == special
    assert containers["segment_images"]["resources"]["resourceCpuLimit"] == "8"
    toleration = configs["segment_images"].tolerations[0]
    assert (toleration.key, toleration.operator, toleration.value) == ("gpu", "Equal", "yes-please")
    memory = next(
        item for item in configs["segment_images"].empty_dir_mounts if item.mount_path == "/dev/shm"
    )
    assert (memory.medium, memory.size_limit) == ("Memory", "2Gi")


def test_a_task_s_own_request_wins_over_that_of_all(full: Any) -> None:
    containers, _ = full
    resources = {name: container["resources"] for name, container in containers.items()}
    assert resources["segment_images"]["resourceMemoryRequest"] == "1Gi"
    published = resources["publish_results"]
    assert (published["resourceMemoryRequest"], published["resourceMemoryLimit"]) == ("3Gi", "4Gi")


def test_a_cache_is_mounted_where_models_are_kept_and_named_to_the_program(full: Any) -> None:
    containers, configs = full
    for name in configs:
        keeps = name in ("fetch_model", "encode_prompts", "segment_images")
        claims = [
            (item.pvc_name_parameter.runtime_value.constant.string_value, item.mount_path)
            for item in configs[name].pvc_mount
        ]
        assert claims == ([("models", "/cache")] if keeps else [])
        variables = {item["name"]: item["value"] for item in containers[name].get("env", [])}
        assert (variables.get("CLIPSEG_KFP_CACHE") == "/cache/clipseg-kfp") == keeps


def test_a_cache_without_a_claim_is_a_folder_that_everybody_may_write() -> None:
    _, configs = pods({"cache": {"size": "30Gi"}})
    (volume,) = configs["segment_images"].empty_dir_mounts
    assert (volume.mount_path, volume.size_limit, volume.medium) == ("/cache", "30Gi", "")
    assert not configs["segment_images"].generic_ephemeral_volume
    assert not configs["publish_results"].empty_dir_mounts


def test_a_cache_of_a_storage_class_lives_as_long_as_its_pod() -> None:
    _, configs = pods({"cache": {"size": "30Gi", "storage_class": "fast"}})
    volume = configs["segment_images"].generic_ephemeral_volume[0]
    assert (volume.size, volume.storage_class_name, volume.mount_path) == ("30Gi", "fast", "/cache")
    assert not configs["publish_results"].generic_ephemeral_volume


def test_what_concerns_the_run_is_set_on_the_run() -> None:
    spec, platform = compiled(**yaml.safe_load(FULL))
    assert platform["pipelineConfig"] == {"resourceTtlOnCompletion": 3600, "activeDeadlineSeconds": 86400}
    loops = [
        task["iteratorPolicy"]["parallelismLimit"]
        for task in spec["root"]["dag"]["tasks"].values()
        if "iteratorPolicy" in task
    ]
    assert loops == [3]
    defaults = spec["root"]["inputDefinitions"]["parameters"]
    assert defaults["endpoint"]["defaultValue"] == "https://store.example"
    assert defaults["storage_secret"]["defaultValue"] == "team-store"


@pytest.mark.parametrize("name", pipeline_names())
def test_inference_fits_two_cpus_and_four_gigabytes_unless_told_otherwise(name: str) -> None:
    spec = yaml.safe_load(compile_pipeline(name).split("\n---\n")[0])
    for key, executor in spec["deploymentSpec"]["executors"].items():
        resources = executor["container"]["resources"]
        inference = key == "exec-segment-images"
        assert float(resources["cpuLimit"]) <= 2, key
        assert inference or float(resources["memoryLimit"]) <= 4 * 1.0737419, key
        assert "accelerator" not in resources
    assert default(spec, "inference_memory") == "4G"


def default(spec: dict[str, Any], name: str) -> Any:
    """The default of a pipeline's parameter."""
    return spec["root"]["inputDefinitions"]["parameters"][name]["defaultValue"]


def test_the_memory_of_inference_can_be_said_by_a_run_and_reaches_the_loop() -> None:
    spec, _ = compiled(**yaml.safe_load(FULL))
    assert default(spec, "inference_memory") == "16Gi"
    resources = spec["deploymentSpec"]["executors"]["exec-segment-images"]["container"]["resources"]
    loop = spec["root"]["dag"]["tasks"]["for-loop-1"]["inputs"]["parameters"]
    inside = spec["components"]["comp-for-loop-1"]["dag"]["tasks"]["segment-images"]["inputs"]["parameters"]
    channel = "pipelinechannel--inference_memory"
    assert resources["resourceMemoryLimit"] == f"{{{{$.inputs.parameters['{channel}']}}}}"
    assert loop[channel] == {"componentInputParameter": "inference_memory"}
    assert inside[channel] == {"componentInputParameter": channel}


def test_accelerators_are_the_site_s() -> None:
    spec, _ = compiled(**yaml.safe_load(FULL))
    resources = spec["deploymentSpec"]["executors"]["exec-segment-images"]["container"]["resources"]
    asked = resources["accelerator"]
    assert (asked["resourceType"], asked["resourceCount"]) == ("amd.com/gpu", "2")
    assert not [name for name in spec["root"]["inputDefinitions"]["parameters"] if "accelerator" in name]


def test_memory_without_a_request_of_its_own_is_asked_for_as_a_whole() -> None:
    def request(**settings: Any) -> str:
        spec, _ = compiled(tasks={"segment_images": settings})
        executor = spec["deploymentSpec"]["executors"]["exec-segment-images"]
        return str(executor["container"]["resources"]["resourceMemoryRequest"])

    assert request() == "2G" and request(memory="8Gi", memory_request="3Gi") == "3Gi"
    assert "inference_memory" in request(memory="8Gi")


def test_tracing_anew_leaves_the_pipelines_as_they_were() -> None:
    before = compile_pipeline("batch-segmentation")
    compile_pipeline("batch-segmentation", settings=settings_for("gpu", {"parallelism": 3, "scratch": "1Gi"}))
    assert compile_pipeline("batch-segmentation") == before


def test_a_variant_takes_a_site_s_settings_on_top() -> None:
    mine = settings_for("gpu", {"accelerator": {"count": 4}, "tasks": {"segment_images": {"image": IMAGE}}})
    assert mine.accelerator is not None
    assert (mine.accelerator.type, mine.accelerator.count) == ("nvidia.com/gpu", 4)
    own = mine.of("segment_images")
    assert own.image == IMAGE and own.memory == "12Gi"
    assert mine.images() == [f"clipseg-kfp-python-cpu:{__version__}", IMAGE]


@pytest.mark.parametrize(
    ("settings", "places"),
    [
        ({"imag": IMAGE}, "imag"),
        ({"image": "a b"}, "image"),
        ({"image": "registry/x@sha256:12"}, "image"),
        ({"memory": "4 GB"}, "memory"),
        ({"cpu": "two"}, "cpu"),
        ({"image": "Team/X:1"}, "image"),
        ({"image": "team/x:bad:bad"}, "image"),
        ({"memory": "1.5Gi"}, "memory"),
        ({"memory": "512K"}, "memory"),
        ({"cpu": 0}, "cpu"),
        ({"labels": {"a b": "x"}}, "labels.a b"),
        ({"labels": {"team": "a b"}}, "labels.team"),
        ({"node_selector": {"pool": "x" * 64}}, "node_selector.pool"),
        ({"annotations": {"/x": "any thing"}}, "annotations./x"),
        ({"accelerator": {"type": "nvidia.com/one gpu"}}, "accelerator.type"),
        ({"storage_keys": {"a b": "X"}}, "storage_keys.a b"),
        ({"storage_keys": {"user": "AWS-KEY ID"}}, "storage_keys.user"),
        ({"security": {"run_as_user": 0, "run_as_non_root": True}}, "security"),
        ({"tolerations": [{"key": "x", "toleration_seconds": 5}]}, "tolerations.0"),
        ({"cache": {"claim": "a", "storage_class": "b"}}, "cache"),
        ({"tasks": {"segment": {}}}, "tasks.segment"),
        ({"tasks": {"segment_images": {"memory": "lots"}}}, "tasks.segment_images.memory"),
        ({"tolerations": [{"operator": "Exists", "value": "x"}]}, "tolerations.0"),
        ({"tolerations": [{"value": "x"}]}, "tolerations.0"),
        ({"cache": {}}, "cache"),
        ({"accelerator": {"count": 0}}, "accelerator.count"),
        ({"pull_policy": "Sometimes"}, "pull_policy"),
        ({"timeout": 0, "labels": 1}, "labels timeout"),
        ({"storage_secret": "Not A Name"}, "storage_secret"),
    ],
    ids=str,
)
def test_bad_settings_are_all_named(settings: dict[str, Any], places: str) -> None:
    with fails("options") as caught:
        checked(settings, "cluster.yaml")
    assert isinstance(caught.value, OptionsError) and caught.value.message.startswith("cluster.yaml: ")
    assert " ".join(problem.where for problem in caught.value.problems) == places
    code = "no_such_setting" if "imag" in settings else "setting_value"
    assert {problem.code for problem in caught.value.problems} == {code}


@pytest.mark.parametrize(
    "image",
    [
        "x",
        "x:1",
        "localhost:5000/team/x_y.z:v1",
        "registry.example/a/b-c@sha256:" + "0" * 64,
        "a.b/c:1@sha256:" + "f" * 64,
    ],
)
def test_image_references_of_every_form_are_taken(image: str) -> None:
    assert checked({"image": image}).image == image


@pytest.mark.parametrize(
    ("settings", "where"),
    [
        (
            {"tasks": {"publish_results": {"memory_request": "3Gi"}}},
            "tasks.publish_results.memory_request",
        ),
        ({"memory_request": "1100M"}, "tasks.fetch_dataset.memory_request"),
        ({"cpu_request": "1500m"}, "tasks.fetch_model.cpu_request"),
    ],
    ids=str,
)
def test_a_request_above_its_limit_is_named_and_no_limit_is_raised(
    settings: dict[str, Any], where: str
) -> None:
    with fails("request_above_limit", where=where):
        compile_pipeline("batch-segmentation", settings=checked(settings))


def test_inference_on_gpus_needs_an_image_that_nodes_can_pull() -> None:
    with fails("gpu_image_missing", where="tasks.segment_images.image"):
        site_settings("gpu", image=IMAGE)
    gpu = IMAGE.replace("aaaa", "bbbb")
    wanted = site_settings("gpu", image=IMAGE, gpu_image=gpu)
    assert wanted.of("segment_images").image == gpu
    assert {wanted.of(task).image for task in TASKS if task != "segment_images"} == {IMAGE}


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("a: [", "settings_not_yaml"),
        ("- a", "settings_not_mapping"),
        (b"\xff", "settings_not_yaml"),
        (None, "settings_unreadable"),
    ],
    ids=str,
)
def test_a_bad_file_is_named(text: str | bytes | None, code: str, tmp_path: Path) -> None:
    path = tmp_path / "cluster.yaml"
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with fails(code, where=str(path)):
        read_settings(path)


def test_mappings_merge_and_lists_join() -> None:
    below = {"a": {"x": 1, "y": 2}, "b": [1], "c": 1}
    assert overlaid(below, {"a": {"y": 3}, "b": [2], "c": 2}) == {"a": {"x": 1, "y": 3}, "b": [1, 2], "c": 2}
    assert below["b"] == [1]


def command(*words: str) -> int:
    """Runs ``clipseg-kfp compile``; returns its status."""
    try:
        cli.main(["compile", *words])
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def test_options_win_over_the_file_and_reach_one_task(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, package = tmp_path / "cluster.yaml", tmp_path / "out.yaml"
    file.write_text(FULL)
    status = command(
        *("-o", str(package), "--settings", str(file), "--accelerator", "nvidia.com/gpu"),
        *("--node-selector", "segment_images:pool=big", "--toleration", "dedicated=vision:NoExecute"),
        *("--pull-secret", "second", "--cache-pvc", "other", "--endpoint", "http://here"),
    )
    assert status == 0 and "warning" not in capsys.readouterr().err
    expected = settings_for(
        "cpu",
        overlaid(
            yaml.safe_load(FULL),
            {
                "accelerator": {"type": "nvidia.com/gpu"},
                "pull_secrets": ["second"],
                "cache": {"claim": "other"},
                "endpoint": "http://here",
                "tolerations": [
                    {"key": "dedicated", "operator": "Equal", "value": "vision", "effect": "NoExecute"}
                ],
                "tasks": {"segment_images": {"node_selector": {"pool": "big"}}},
            },
        ),
    )
    assert package.read_text("utf-8") == compile_pipeline("batch-segmentation", settings=expected)


def test_an_image_without_a_digest_is_warned_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("-o", str(tmp_path / "a.yaml"), "--image", "registry.example/x:1") == 0
    assert "warning: registry.example/x:1 has no digest" in capsys.readouterr().err
    assert command("-o", str(tmp_path / "a.yaml"), "--image", IMAGE) == 0
    assert capsys.readouterr().err == ""
    assert command("-o", str(tmp_path / "a.yaml")) == 0
    assert f"warning: clipseg-kfp-python-cpu:{__version__} names no registry" in capsys.readouterr().err


def test_a_claim_takes_the_place_of_a_file_s_cache(tmp_path: Path) -> None:
    file, package = tmp_path / "cluster.yaml", tmp_path / "out.yaml"
    file.write_text("cache: {size: 30Gi, storage_class: fast}")
    assert command("-o", str(package), "--settings", str(file), "--cache-pvc", "models") == 0
    expected = compile_pipeline("batch-segmentation", settings=checked({"cache": {"claim": "models"}}))
    assert package.read_text("utf-8") == expected


def test_variants_are_written_to_files_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert command() == 0
    assert command("--variant", "gpu", "--image", IMAGE, "--gpu-image", IMAGE) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "batch-segmentation.gpu.yaml",
        "batch-segmentation.yaml",
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--node-selector", "pool"], "--node-selector 'pool' is not of the form label=value"),
        (["--toleration", "=x"], "--toleration '=x' is not of the form"),
        (["--toleration", "gpu:Never"], "options: tolerations.0.effect: 'Never'"),
        (["--settings", "/no/such.yaml"], "/no/such.yaml: No such file"),
        (["--namespace", "team"], "or add --format kubernetes"),
        (["--format", "kubernetes", "--namespace", "Bad NS"], "'Bad NS'"),
        (["--image", "a b"], "image: 'a b' is no image reference"),
    ],
)
def test_bad_options_are_named(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("-o", "/dev/null", *words) == 1
    assert message in " ".join(capsys.readouterr().err.split())


def test_manifests_are_what_the_api_server_takes_and_named_after_their_content() -> None:
    def parts(**settings: Any) -> list[dict[str, Any]]:
        text = compile_manifests("batch-segmentation", settings=checked(settings), namespace="team")
        return list(yaml.safe_load_all(text))

    pipeline, version = parts(image=IMAGE)
    assert [item["kind"] for item in (pipeline, version)] == ["Pipeline", "PipelineVersion"]
    assert pipeline["metadata"] == {"name": "batch-segmentation", "namespace": "team"}
    assert version["metadata"]["namespace"] == "team"
    assert version["spec"]["pipelineName"] == "batch-segmentation"
    spec, platform = yaml.safe_load_all(compile_pipeline("batch-segmentation", IMAGE))
    assert version["spec"]["pipelineSpec"] == spec
    assert version["spec"]["platformSpec"] == platform
    names = [parts(image=IMAGE, parallelism=count)[1]["metadata"]["name"] for count in (8, 8, 9)]
    assert names[0] == names[1] != names[2]
    assert all(len(name) <= 63 for name in names)


DOCS = Path(__file__).parents[2] / "docs" / "cluster"


@pytest.mark.parametrize("page", ["install.md", "gpu.md"])
def test_the_settings_that_a_page_shows_are_ones(page: str) -> None:
    found = re.findall(r"^ *```yaml\n(.*?)```", (DOCS / page).read_text("utf-8"), re.S | re.M)
    blocks = [textwrap.dedent(block) for block in found]
    assert blocks
    for block in blocks:
        settings_for("gpu" if page == "gpu.md" else "cpu", yaml.safe_load(block), page)


def test_every_setting_and_option_is_documented() -> None:
    text = (DOCS / "install.md").read_text("utf-8")
    for name in {*ClusterSettings.model_fields} - {"tasks"}:
        assert f"`{name}`" in text, name
    for option in ("--accelerator-count", "--node-selector", "--toleration", "--pull-secret", "--cache-pvc"):
        assert f"`{option}" in text, option
