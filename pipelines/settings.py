"""What every task of a pipeline gets on a cluster: storage credentials from a secret, and room to work.

The local runner ignores these settings; there, credentials come from the environment.
"""

from kfp import dsl, kubernetes

#: The secret that Kubeflow makes in every namespace for its own object store.
STORAGE_SECRET = "mlpipeline-minio-artifact"
STORAGE_KEYS = {"accesskey": "AWS_ACCESS_KEY_ID", "secretkey": "AWS_SECRET_ACCESS_KEY"}


def settle(task: dsl.PipelineTask, *, cpu: str, memory: str, caching: bool) -> None:
    """Gives a task its credentials, its limits and its caching.

    Args:
        task: the task.
        cpu: CPU limit, as Kubernetes writes it; the request is half a CPU.
        memory: memory limit and request.
        caching: whether Kubeflow may take the outputs of an earlier run with equal inputs.
    """
    kubernetes.use_secret_as_env(
        task, secret_name=STORAGE_SECRET, secret_key_to_env=STORAGE_KEYS, optional=True
    )
    task.set_cpu_request("500m").set_cpu_limit(cpu)
    task.set_memory_request(memory).set_memory_limit(memory)
    task.set_caching_options(caching)
