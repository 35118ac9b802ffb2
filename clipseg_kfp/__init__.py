"""Text- and image-prompted segmentation of whole buckets of images with CLIPSeg, on Kubeflow Pipelines."""

from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clipseg_kfp.cluster import Client

try:
    __version__ = version("clipseg-kfp")
except PackageNotFoundError:  # a checkout on the path, not installed
    __version__ = "0.0.0"

__all__ = ["Client", "__version__"]


def __getattr__(name: str) -> Any:
    """Imports the cluster client, and kfp with it, when it is first asked for: steps in pods never do."""
    if name == "Client":
        from clipseg_kfp.cluster import Client

        return Client
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
