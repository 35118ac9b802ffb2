"""The way to the cluster's Kubernetes API, where the caller has one."""

from __future__ import annotations

import os
from typing import Any


def core_api() -> Any | None:
    """``CoreV1Api`` by ``KUBECONFIG``, the usual file or the pod's own account; ``None`` without any of them."""
    from kubernetes import client, config
    from kubernetes.config.config_exception import ConfigException

    try:
        try:
            config.load_kube_config(config_file=os.environ.get("KUBECONFIG") or None)
        except ConfigException:
            config.load_incluster_config()
    except (ConfigException, OSError):
        return None
    return client.CoreV1Api()
