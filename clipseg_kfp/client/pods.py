"""Looks at pods through Kubernetes, where the caller may."""

from __future__ import annotations

from clipseg_kfp.client.kubernetes_access import core_api
from clipseg_kfp.naming import printable


def why_waiting(namespace: str, run_id: str) -> list[str]:
    """Why pods of a run have not started, in Kubernetes' words, a line a pod; empty where it cannot be asked."""
    from kubernetes.client.exceptions import ApiException
    from urllib3.exceptions import HTTPError

    api = core_api()
    if api is None:
        return []
    try:
        found = api.list_namespaced_pod(
            namespace, label_selector=f"pipeline/runid={run_id}", _request_timeout=10
        ).items
    except (ApiException, HTTPError, OSError):
        return []
    lines = []
    for pod in found:
        status = pod.status
        waits = [
            one.state.waiting for one in status.container_statuses or [] if one.state and one.state.waiting
        ]
        waits += [
            one for one in status.conditions or [] if one.type == "PodScheduled" and one.status == "False"
        ]
        said = [f"{one.reason}: {one.message}" if one.message else one.reason for one in waits if one.reason]
        # every container of a new pod waits with this reason, and it says nothing
        if lines_of_pod := [text for text in said if text not in ("PodInitializing", "ContainerCreating")]:
            lines.append(printable(f"{pod.metadata.name}: {'; '.join(dict.fromkeys(lines_of_pod))}"))
    return lines
