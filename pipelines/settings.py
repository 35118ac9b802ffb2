"""What every task of a pipeline gets on a cluster: storage credentials from a secret, and room to work.

The local runner ignores these settings; there, credentials come from the environment.
The defaults of parameters that name a place are here as well.
"""

from kfp import dsl, kubernetes

DEFAULT_MODEL = "hf://CIDAS/clipseg-rd64-refined"
#: The store that Kubeflow brings along (SeaweedFS since 2.16).
CLUSTER_ENDPOINT = "http://seaweedfs.kubeflow:9000"
#: The secret that Kubeflow makes in every namespace for its own object store.
STORAGE_SECRET = "mlpipeline-minio-artifact"
STORAGE_KEYS = {"accesskey": "AWS_ACCESS_KEY_ID", "secretkey": "AWS_SECRET_ACCESS_KEY"}
#: For private models; need not exist.
HUB_SECRET = "huggingface-token"


def settle(task: dsl.PipelineTask, secret: str, *, cpu: str, memory: str, caching: bool) -> None:
    """Gives a task its credentials, its limits and its caching.

    Args:
        task: the task.
        secret: name of the storage secret, or the pipeline parameter that has it.
        cpu: CPU limit, as Kubernetes writes it; the request is half a CPU.
        memory: memory limit and request.
        caching: whether Kubeflow may take the outputs of an earlier run with equal inputs.
    """
    kubernetes.use_secret_as_env(task, secret_name=secret, secret_key_to_env=STORAGE_KEYS, optional=True)
    task.set_cpu_request("500m").set_cpu_limit(cpu)
    task.set_memory_request(memory).set_memory_limit(memory)
    task.set_caching_options(caching)


def allow_private_models(task: dsl.PipelineTask) -> None:
    """Hands the task the Hub's token, where the namespace has that secret."""
    kubernetes.use_secret_as_env(task, HUB_SECRET, {"token": "HF_TOKEN"}, optional=True)
