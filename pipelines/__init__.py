"""The pipelines of the suite; each folder holds one, with its README and compiled package."""

from clipseg_kfp.pipelines.batch_segmentation.pipeline import batch_segmentation

#: By the name of their folder.
ALL = {"batch_segmentation": batch_segmentation}

__all__ = ["ALL", "batch_segmentation"]
