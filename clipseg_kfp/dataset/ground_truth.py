"""How a table says where an image's ground truth is: enough to read it later, with nothing else at hand."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

MASK, LABELS, SHAPES, UNMATCHED = "mask", "labels", "shapes", "unmatched"


@dataclass(frozen=True)
class GroundTruth:
    """Where the prompt of that name really is in one image; ``records.GROUND_TRUTH``.

    Attributes:
        prompt: its name; of kind ``unmatched``, the name of a class that is no prompt.
        uri: of a picture, for the kinds ``mask`` and ``labels``; else of the file that said it.
        kind: ``mask``: a black and white picture. ``labels``: a picture of class numbers. ``shapes``: polygons
            and run lengths. ``unmatched``: there is something, but nobody asked for it.
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
        """The pixels of a label map that have one of these values; ignored values count as nothing at all."""
        return cls(prompt, uri, LABELS, json.dumps({"values": list(values), "ignored": list(ignored)}))

    @classmethod
    def of_shapes(
        cls, prompt: str, uri: str, shapes: Sequence[Any], size: tuple[int, int] | None = None
    ) -> GroundTruth:
        """The union of shapes; none of them is an image without the thing.

        Args:
            prompt: its name.
            uri: of the file that said it.
            shapes: COCO's segmentations: lists of flat polygons, or run lengths.
            size: height and width that they refer to; ``None`` for the image's own.
        """
        return cls(prompt, uri, SHAPES, json.dumps({"shapes": list(shapes), "size": size}))

    @property
    def details(self) -> dict[str, Any]:
        """The content of ``data``."""
        value: dict[str, Any] = json.loads(self.data) if self.data else {}
        return value
