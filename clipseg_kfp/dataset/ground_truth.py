"""How a table says where an image's ground truth is, complete enough to read it later."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

MASK, LABELS, SHAPES, UNMATCHED = "mask", "labels", "shapes", "unmatched"


@dataclass(frozen=True)
class GroundTruth:
    """Where one prompt's thing really is in one image; ``records.GROUND_TRUTH``.

    Attributes:
        prompt: the prompt's name; for kind ``unmatched``, the name of a class without a prompt.
        uri: of a picture, for the kinds ``mask`` and ``labels``; else of the annotation file.
        kind: ``mask``: a black and white picture. ``labels``: a picture of class numbers. ``shapes``: polygons
            and run lengths. ``unmatched``: something that no prompt asks for.
        data: JSON; what the kind needs beside the URI.
    """

    prompt: str
    uri: str
    kind: str = MASK
    data: str = ""

    @classmethod
    def of_labels(
        cls, prompt: str, uri: str, values: Sequence[int], ignored: Sequence[int] = ()
    ) -> GroundTruth:
        """The pixels of a label map with one of these values; pixels with ignored values do not count at all."""
        return cls(prompt, uri, LABELS, json.dumps({"values": list(values), "ignored": list(ignored)}))

    @classmethod
    def of_shapes(
        cls, prompt: str, uri: str, shapes: Sequence[Any], size: tuple[int, int] | None = None
    ) -> GroundTruth:
        """The union of shapes; without any, the thing is not in the image.

        Args:
            prompt: the prompt's name.
            uri: of the annotation file.
            shapes: COCO's segmentations: lists of flat polygons, or run lengths.
            size: height and width that they refer to; ``None`` for the image's own.
        """
        return cls(prompt, uri, SHAPES, json.dumps({"shapes": list(shapes), "size": size}))

    @property
    def details(self) -> dict[str, Any]:
        """The content of ``data``."""
        value: dict[str, Any] = json.loads(self.data) if self.data else {}
        return value
