"""What every task of a pipeline gets on a cluster: credentials from a secret, room to work, and a site's settings.

The local runner ignores these settings; there, credentials come from the environment.
The defaults of parameters that name a place are here as well.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from kfp import dsl, kubernetes

from clipseg_kfp.errors import ParameterError
from clipseg_kfp.site.kubernetes import cores, size
from clipseg_kfp.site.settings import INFERENCE, ClusterSettings, TaskSettings

DEFAULT_MODEL = "hf://CIDAS/clipseg-rd64-refined"
#: The store that Kubeflow brings along (SeaweedFS since 2.16).
CLUSTER_ENDPOINT = "http://seaweedfs.kubeflow:9000"
#: The secret that Kubeflow makes in every namespace for its own object store.
STORAGE_SECRET = "mlpipeline-minio-artifact"
#: Memory limit of inference.
INFERENCE_MEMORY = "4G"
#: Where tasks that keep models find the cache, if the site has one.
CACHE = "/cache"
#: Where tasks find the certificates of a private authority, if the site has one.
AUTHORITY = "/etc/clipseg-kfp/authority"
CACHING = ("fetch_model", "encode_prompts", INFERENCE)

_settings: ContextVar[ClusterSettings] = ContextVar("settings", default=ClusterSettings())  # noqa: B039 - frozen


@contextmanager
def using(settings: ClusterSettings) -> Iterator[None]:
    """Lets pipelines that are traced meanwhile take these settings."""
    token = _settings.set(settings)
    try:
        yield
    finally:
        _settings.reset(token)


def shards_at_once() -> int:
    """How many branches of the loop over shards run at once."""
    return _settings.get().parallelism


def settle(
    task: dsl.PipelineTask, secret: str, *, cpu: str, memory: str, caching: bool, reserve: str = ""
) -> None:
    """Gives a task its credentials, its limits, its caching, and what the site sets for it.

    Args:
        task: the task.
        secret: name of the storage secret, or the pipeline parameter that has it.
        cpu: CPU limit, as Kubernetes writes it; the request is half a CPU, or the limit where that is less.
        memory: memory limit.
        caching: whether Kubeflow may take the outputs of an earlier run with equal inputs.
        reserve: memory request, where it is not the limit: a node of 4 GB has less than that to give.

    Raises:
        ParameterError: a request that the site sets is above the limit; Kubernetes would refuse the pod.
    """
    settings, name = _settings.get(), task.component_spec.name.replace("-", "_")
    own = settings.of(name)
    kubernetes.use_secret_as_env(task, secret, dict(settings.storage_keys), optional=True)
    limit, reserved = own.memory or memory, own.memory_request or own.memory or reserve or memory
    most = own.cpu or cpu
    asked = own.cpu_request or ("500m" if cores(most) >= 0.5 else most)
    if cores(asked) > cores(most):
        raise _above(name, "cpu", asked, most)
    if size(reserved) > size(limit):
        raise _above(name, "memory", reserved, limit)
    task.set_cpu_request(asked).set_cpu_limit(most)
    task.set_memory_request(reserved).set_memory_limit(limit)
    task.set_caching_options(caching)
    if own.image:
        task.set_container_image(own.image)
    _place(task, own)
    _share(task, settings)
    if settings.cache and name in CACHING:
        _cache(task, settings)


def settle_inference(task: dsl.PipelineTask, memory: Any) -> None:
    """Gives inference its memory from a parameter of the pipeline, and the site's accelerator; after ``settle``.

    The request for memory stays below the limit: it is the limit where the site sets that and no request.

    Args:
        task: of inference.
        memory: the parameter with the memory limit. Its default is what the site sets.
    """
    settings = _settings.get()
    own = settings.of(INFERENCE)
    task.set_memory_limit(memory)
    if own.memory and not own.memory_request:
        task.set_memory_request(memory)
    if settings.accelerator:
        task.set_accelerator_type(settings.accelerator.type)
        task.set_accelerator_limit(settings.accelerator.count)
    # The setter does not tell kfp (2.17) that the task reads the parameter: a loop would not be handed it.
    task.register_pipeline_channels([memory])


def inference_defaults(settings: ClusterSettings) -> dict[str, str]:
    """What a site's settings make the defaults of the parameters of inference."""
    memory = settings.of(INFERENCE).memory
    return {"inference_memory": memory} if memory else {}


def _above(task: str, what: str, request: str, limit: str) -> ParameterError:
    return ParameterError(
        f"tasks.{task}.{what}_request: {request} is above the task's limit of {limit}.",
        f"Raise tasks.{task}.{what}, or lower tasks.{task}.{what}_request.",
        code="request_above_limit",
        where=f"tasks.{task}.{what}_request",
    )


def allow_private_models(task: dsl.PipelineTask) -> None:
    """Hands the task the Hub's token, where the namespace has that secret."""
    kubernetes.use_secret_as_env(task, _settings.get().hub_secret, {"token": "HF_TOKEN"}, optional=True)


def _place(task: dsl.PipelineTask, own: TaskSettings) -> None:
    """Where the pod runs, how it is marked, what it may write, and for how long."""
    for key, value in own.node_selector.items():
        kubernetes.add_node_selector(task, key, value)
    for toleration in own.tolerations:
        kubernetes.add_toleration(task, **toleration.model_dump())
    for key, value in own.labels.items():
        kubernetes.add_pod_label(task, key, value)
    for key, value in own.annotations.items():
        kubernetes.add_pod_annotation(task, key, value)
    if own.shared_memory:
        kubernetes.empty_dir_mount(task, "shared-memory", "/dev/shm", "Memory", own.shared_memory)
    if own.scratch:
        kubernetes.empty_dir_mount(task, "scratch", "/tmp", size_limit=own.scratch)
    if own.timeout:
        kubernetes.set_timeout(task, own.timeout)


def _share(task: dsl.PipelineTask, settings: ClusterSettings) -> None:
    """What all pods have alike."""
    if authority := settings.certificate_authority:
        kubernetes.use_config_map_as_volume(task, authority.config_map, AUTHORITY)
        task.set_env_variable("AWS_CA_BUNDLE", f"{AUTHORITY}/{authority.key}")
    if settings.pull_secrets:
        kubernetes.set_image_pull_secrets(task, list(settings.pull_secrets))
    if settings.pull_policy:
        kubernetes.set_image_pull_policy(task, settings.pull_policy)
    if settings.security and (context := settings.security.model_dump(exclude_none=True)):
        kubernetes.set_security_context(task, **context)


def _cache(task: dsl.PipelineTask, settings: ClusterSettings) -> None:
    """A volume for models, and the variables that lead there; neither changes a result."""
    cache = settings.cache
    if cache is None:
        return
    if cache.claim:
        kubernetes.mount_pvc(task, cache.claim, CACHE)
    elif cache.size and cache.storage_class:
        kubernetes.add_ephemeral_volume(
            task, "cache", CACHE, ["ReadWriteOnce"], cache.size, storage_class_name=cache.storage_class
        )
    else:  # a new volume is often root's, and nothing here can set fsGroup; an empty folder is everybody's
        kubernetes.empty_dir_mount(task, "cache", CACHE, size_limit=cache.size)
    task.set_env_variable("CLIPSEG_KFP_CACHE", f"{CACHE}/clipseg-kfp")
    task.set_env_variable("HF_HOME", f"{CACHE}/huggingface")
