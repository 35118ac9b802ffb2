"""Agreement of outlines: boundary IoU."""

from __future__ import annotations

import cv2
import numpy as np

from clipseg_kfp.masks.raster import Mask

DILATION_RATIO = 0.02


def boundary_iou(
    predicted: Mask, truth: Mask, valid: Mask | None = None, dilation_ratio: float = DILATION_RATIO
) -> float | None:
    """IoU of the parts of two masks that lie near their own outlines.

    With M_d the pixels of a mask M within distance d of its outline, it is
    |P_d and G_d| / |P_d or G_d|. The distance is a share of the image's diagonal, at least 1 pixel; an outline
    runs along the image's border, too, where the mask reaches it. Source: Cheng et al., "Boundary IoU:
    improving object-centric image segmentation evaluation", CVPR 2021, whose distance (steps of a 3 x 3
    erosion) is taken here as well.

    Args:
        predicted: bool (height, width).
        truth: bool, of the same size.
        valid: the pixels that count; ``None`` for all of them. Outlines are taken before the rest is left out.
        dilation_ratio: d, as a share of the diagonal.

    Returns:
        0 to 1; ``None`` where neither mask has an outline that counts. As 1, such images would hide those with
        the thing in the mean of a rare thing.
    """
    height, width = truth.shape
    distance = max(1, round(dilation_ratio * float(np.hypot(height, width))))
    edges = [_near_outline(mask, distance) for mask in (predicted, truth)]
    if valid is not None:
        edges = [edge & valid for edge in edges]
    union = int(np.count_nonzero(edges[0] | edges[1]))
    return int(np.count_nonzero(edges[0] & edges[1])) / union if union else None


def _near_outline(mask: Mask, distance: int) -> Mask:
    if not mask.any():
        return mask
    # Everything outside of the image counts as background.
    padded = cv2.copyMakeBorder(mask.view(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    inside = cv2.erode(padded, np.ones((3, 3), np.uint8), iterations=distance)[1:-1, 1:-1]
    return np.asarray(mask & (inside == 0))
