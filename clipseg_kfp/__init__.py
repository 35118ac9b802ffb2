"""Text- and image-prompted segmentation of whole buckets of images with CLIPSeg, on Kubeflow Pipelines."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clipseg_kfp.client import Client as Client
    from clipseg_kfp.client import Recipe as Recipe
    from clipseg_kfp.segmenter import Segmenter as Segmenter
    from clipseg_kfp.site.image import use_image as use_image

try:
    __version__ = version("clipseg-kfp")
except PackageNotFoundError:  # a checkout on the path, not installed
    __version__ = "0.0.0"

#: What is loaded when it is first asked for, so that a step that needs none of it does not pay for it.
_LAZY = {
    "Client": "clipseg_kfp.client",
    "Recipe": "clipseg_kfp.client",
    "Segmenter": "clipseg_kfp.segmenter",
    "use_image": "clipseg_kfp.site.image",
}

__all__ = ["Client", "Recipe", "Segmenter", "__version__", "use_image"]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)
