"""What a site sets for its cluster: images, resources, nodes, volumes; read from a file, checked, never guessed.

``clipseg-kfp compile --settings cluster.yaml`` bakes them into a package. Nothing here changes a pixel.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from clipseg_kfp.errors import OptionsError, ParameterError, Problem
from clipseg_kfp.records.untrusted import UnreadableError, parse_document, read_bounded
from clipseg_kfp.site.image import DEFAULT_IMAGE
from clipseg_kfp.site.kubernetes import (
    Bytes,
    Cpu,
    Image,
    LabelKey,
    LabelValue,
    Name,
    Resource,
    SecretKey,
    Variable,
)

TASKS = (
    "fetch_model",
    "encode_prompts",
    "fetch_dataset",
    "preprocess_images",
    "segment_images",
    "postprocess_masks",
    "evaluate_masks",
    "publish_results",
    "rank_prompts",
)
#: The only task that an accelerator speeds up.
INFERENCE = "segment_images"

Labels = dict[LabelKey, LabelValue]
Seconds = Annotated[int, Field(gt=0, le=2**31 - 1)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, coerce_numbers_to_str=True)


class Toleration(_Strict):
    """A taint that pods may ignore, in Kubernetes' own words."""

    key: LabelKey | None = None
    operator: Literal["Equal", "Exists"] = "Equal"
    value: LabelValue | None = None
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    toleration_seconds: int | None = None

    @model_validator(mode="after")
    def _as_kubernetes_checks(self) -> Toleration:
        if self.operator == "Exists" and self.value:
            raise ValueError("operator Exists takes no value")
        if self.operator == "Equal" and not self.key:
            raise ValueError("operator Equal needs a key")
        if self.toleration_seconds is not None and self.effect != "NoExecute":
            raise ValueError("toleration_seconds needs the effect NoExecute")
        return self


class Accelerator(_Strict):
    """Devices of the inference pod: the resource's name, as the cluster's device plugin tells it."""

    type: Resource = "nvidia.com/gpu"
    count: Annotated[int, Field(ge=1)] = 1


class Cache(_Strict):
    """Where converted models and the Hub's files lie: a claim, which outlives pods, or a volume of the pod's own.

    Attributes:
        claim: an existing PersistentVolumeClaim, writable for user 1000 (ReadWriteMany for parallel pods).
        size: without a claim, the bound of an empty folder on the node's disk, which goes with its pod.
        storage_class: takes an ephemeral volume of this class instead; its volumes must be writable for user 1000.
    """

    claim: Name | None = None
    size: Bytes | None = None
    storage_class: Name | None = None

    @model_validator(mode="after")
    def _one_of_them(self) -> Cache:
        if (self.claim is None) == (self.size is None):
            raise ValueError("give either claim or size")
        if self.claim is not None and self.storage_class is not None:
            raise ValueError("storage_class goes with size, not with claim")
        return self


class CertificateAuthority(_Strict):
    """Certificates of a private authority, which the store's certificate is checked against.

    Attributes:
        config_map: name of a ConfigMap in the namespace of the runs.
        key: of the ConfigMap, with the certificates as PEM.
    """

    config_map: Name
    key: SecretKey = "ca.crt"


class Security(_Strict):
    """What kfp-kubernetes can set of a container's security context; needs a backend of 2.17."""

    run_as_user: Annotated[int, Field(ge=0)] | None = None
    run_as_group: Annotated[int, Field(ge=0)] | None = None
    run_as_non_root: bool | None = None

    @model_validator(mode="after")
    def _as_nodes_check(self) -> Security:
        if self.run_as_non_root and self.run_as_user == 0:
            raise ValueError("run_as_user 0 is root, which run_as_non_root forbids")
        return self


class TaskSettings(_Strict):
    """Settings of one task, or of all: what is not given stays as the pipeline has it.

    Attributes:
        image: container image; pin it by digest.
        cpu: limit, such as ``2`` or ``500m``.
        cpu_request: what the scheduler sets aside.
        memory: limit, such as ``4Gi``.
        memory_request: the limit, unless given.
        node_selector: labels that a node must have.
        tolerations: taints that do not matter.
        labels: of the pod.
        annotations: of the pod.
        shared_memory: size of a ``/dev/shm`` in memory; it counts against the memory limit.
        scratch: size of an empty folder at ``/tmp``, for clusters that forbid image volumes.
        timeout: seconds that a pod may take.
    """

    image: Image | None = None
    cpu: Cpu | None = None
    cpu_request: Cpu | None = None
    memory: Bytes | None = None
    memory_request: Bytes | None = None
    node_selector: Labels = {}
    tolerations: tuple[Toleration, ...] = ()
    labels: Labels = {}
    annotations: dict[LabelKey, str] = {}
    shared_memory: Bytes | None = None
    scratch: Bytes | None = None
    timeout: Seconds | None = None


class ClusterSettings(TaskSettings):
    """All settings; those of a task win over those of all tasks, and lists and labels add up.

    Attributes:
        endpoint: default of the pipeline's parameter.
        storage_secret: default of the pipeline's parameter.
        storage_keys: the secret's keys, and the variables they become.
        certificate_authority: of the store, where it is private.
        hub_secret: secret with the key ``token`` for private models; it may be missing.
        pull_secrets: secrets for the image registry.
        pull_policy: when nodes fetch the image anew.
        accelerator: of the inference task.
        cache: of fetch_model, encode_prompts and segment_images.
        security: of all containers.
        keep_seconds: how long a finished run's pods stay; none leaves them to the cluster.
        run_timeout: seconds that a run may take.
        parallelism: shards at once.
        tasks: settings of single tasks by their component's name.
    """

    endpoint: str | None = None
    storage_secret: Name | None = None
    storage_keys: dict[SecretKey, Variable] = {
        "accesskey": "AWS_ACCESS_KEY_ID",
        "secretkey": "AWS_SECRET_ACCESS_KEY",
    }
    certificate_authority: CertificateAuthority | None = None
    hub_secret: Name = "huggingface-token"
    pull_secrets: tuple[Name, ...] = ()
    pull_policy: Literal["Always", "IfNotPresent", "Never"] | None = None
    accelerator: Accelerator | None = None
    cache: Cache | None = None
    security: Security | None = None
    keep_seconds: Seconds | None = None
    run_timeout: Seconds | None = None
    parallelism: Annotated[int, Field(ge=1, le=100)] = 8
    tasks: dict[Literal[TASKS], TaskSettings] = {}  # type: ignore[valid-type]

    def of(self, task: str) -> TaskSettings:
        """Settings of one task, with those of all below them."""
        own = self.tasks.get(task, TaskSettings())
        both: dict[str, Any] = {}
        for name in TaskSettings.model_fields:
            common, special = getattr(self, name), getattr(own, name)
            if isinstance(common, dict):
                both[name] = {**common, **special}
            elif isinstance(common, tuple):
                both[name] = common + special
            else:
                both[name] = common if special is None else special
        return TaskSettings(**both)

    def images(self) -> list[str]:
        """The container images of all tasks."""
        return sorted({self.of(task).image or DEFAULT_IMAGE for task in TASKS})


def read_mapping(path: Path) -> dict[str, Any]:
    """Reads a settings file without checking its settings.

    Raises:
        ParameterError: the file is missing, or no mapping in YAML.
    """
    try:
        content = parse_document(read_bounded(path))
    except OSError as error:
        raise ParameterError(
            f"{path}: {error.strerror}.",
            "Check the path of --settings.",
            code="settings_unreadable",
            where=str(path),
        ) from error
    except UnreadableError as error:
        raise ParameterError(
            f"{path} is not YAML: {error}.",
            "Correct the file at that place.",
            code="settings_not_yaml",
            where=str(path),
        ) from error
    if not isinstance(content, dict | None):
        raise ParameterError(
            f"{path} has no settings.",
            "Write a mapping, such as 'image: registry/name'.",
            code="settings_not_mapping",
            where=str(path),
        )
    return content or {}


def read_settings(path: Path) -> ClusterSettings:
    """Reads and checks a settings file.

    Raises:
        ParameterError: as ``read_mapping`` and ``checked`` say.
    """
    return checked(read_mapping(path), str(path))


def overlaid(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """One set of settings over another: mappings are merged, lists are joined, all else is replaced."""
    result = dict(below)
    for name, value in above.items():
        old = result.get(name)
        if isinstance(old, dict) and isinstance(value, dict):
            result[name] = overlaid(old, value)
        elif isinstance(old, list) and isinstance(value, list):
            result[name] = old + value
        else:
            result[name] = value
    return result


def checked(content: dict[str, Any], where: str = "settings") -> ClusterSettings:
    """Makes settings of a mapping.

    Raises:
        OptionsError: names every setting that is unknown or bad.
    """
    try:
        return ClusterSettings.model_validate(content)
    except ValidationError as error:
        problems = [
            Problem(
                ".".join(str(part) for part in item["loc"] if part != "[key]") or "settings",
                "no_such_setting" if item["type"] == "extra_forbidden" else "setting_value",
                _problem(item),
                "The page docs/cluster/install.md of the project lists all settings.",
            )
            for item in error.errors()
        ]
        raise OptionsError(problems).within(where) from error


def _problem(item: Any) -> str:
    given = item["input"]
    shown = repr(given) if isinstance(given, str | int | float) else f"a {type(given).__name__}"
    if item["type"] == "extra_forbidden":
        return "there is no such setting"
    if item["type"] == "value_error":
        return item["msg"].removeprefix("Value error, ")  # type: ignore[no-any-return]
    return f"{shown}: {item['msg']}"
