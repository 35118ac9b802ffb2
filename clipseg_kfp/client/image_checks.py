"""What can be told of container images from here: the form of a reference, and whether a node has it.

Only a pod shows whether an image can be pulled; nothing here says so of a name alone.
"""

from __future__ import annotations

from clipseg_kfp.client.kubernetes_access import core_api
from clipseg_kfp.site.image import has_registry, is_pinned, without_registry

Line = tuple[str, str, str]  # what, mark, detail

WHAT = "image"
#: Seconds that Kubernetes may take to list its nodes.
_PATIENCE = 10


def images(references: list[str], namespace: str) -> list[Line]:
    """One line for each image.

    Args:
        references: images of the uploaded version.
        namespace: where its pods run.
    """
    there = _on_nodes()
    return [_image(one, namespace, there) for one in references]


def _image(image: str, namespace: str, there: set[str]) -> Line:
    if not has_registry(image):
        return WHAT, "warn", without_registry(image)
    if not is_pinned(image) and image.rpartition("/")[2].partition(":")[2] in ("", "latest"):
        return WHAT, "warn", f"{image}: what it means changes, and caching does not notice. Pin it by digest."
    advice = "" if is_pinned(image) else " A tag may move: a digest is safer."
    if image in there:
        return WHAT, "ok", f"{image} is on a node of the cluster.{advice}"
    # Named apart from the image, which may be long; the pod goes again, whatever comes of it.
    command = f"kubectl run image-check -n {namespace} --rm --attach --restart=Never --image={image} --command -- true"
    return (
        WHAT,
        "unknown",
        f"{image}: whether it is there and nodes may pull it, only a pod shows (with its pull secret, if any): "
        f"{command}{advice}",
    )


def _on_nodes() -> set[str]:
    """Names of images that nodes tell of (the largest 50 each); none where the caller may not see nodes."""
    from kubernetes.client.exceptions import ApiException
    from urllib3.exceptions import HTTPError

    api = core_api()
    if api is None:
        return set()
    try:
        nodes = api.list_node(_request_timeout=_PATIENCE).items
    except (ApiException, HTTPError, OSError, ValueError):
        return set()
    return {name for node in nodes for image in node.status.images or () for name in image.names or ()}
