"""Text- and image-prompted segmentation of whole buckets of images with CLIPSeg, on Kubeflow Pipelines."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("clipseg-kfp")
except PackageNotFoundError:  # a checkout on the path, not installed
    __version__ = "0.0.0"

__all__ = ["__version__"]
