"""How a table says where an image's ground truth is, complete enough to read it later."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

MASK, LABELS, SHAPES, UNMATCHED, UNUSABLE = "mask", "labels", "shapes", "unmatched", "unusable"


@dataclass(frozen=True)
class GroundTruth:
    """Where one prompt's thing really is in one image; ``records.GROUND_TRUTH``.

    Attributes:
        prompt: the prompt's name; for kind ``unmatched``, the name of a class without a prompt.
        uri: of a picture, for the kinds ``mask`` and ``labels``; else of the annotation file.
        kind: ``mask``: a black and white picture. ``labels``: a picture of class numbers. ``shapes``: polygons
            and run lengths. ``unmatched``: something that no prompt asks for. ``unusable``: something is wrong with
            the annotation, so nobody knows where the thing is in the image; it counts as not evaluated.
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
        cls,
        prompt: str,
        uri: str,
        shapes: Sequence[Any],
        size: tuple[int, int] | None = None,
        places: Sequence[str] = (),
    ) -> GroundTruth:
        """The union of shapes; without any, the thing is not in the image.

        Args:
            prompt: the prompt's name.
            uri: of the annotation file.
            shapes: COCO's segmentations: lists of flat polygons, or run lengths.
            size: height and width that they refer to; ``None`` for the image's own.
            places: of each shape in the file, for messages.
        """
        content = {"shapes": list(shapes), "size": size, "places": list(places)}
        return cls(prompt, uri, SHAPES, json.dumps(content))

    @classmethod
    def unusable(cls, prompt: str, uri: str, code: str, what: str, where: str) -> GroundTruth:
        """What is wrong with the ground truth of a class in an image.

        Args:
            prompt: the prompt's name.
            uri: of the annotation file.
            code: what kind of problem it is; for programs.
            what: the same for people.
            where: the part of the file.
        """
        return cls(prompt, uri, UNUSABLE, json.dumps({"code": code, "what": what, "where": where}))

    def united(self, other: GroundTruth) -> GroundTruth:
        """The union with another one of the same prompt and image; unusable where either is."""
        if UNUSABLE in (self.kind, other.kind):
            return self if self.kind == UNUSABLE else replace(other, prompt=self.prompt)
        mine, others = self.details, other.details
        if (self.kind, self.uri) == (other.kind, other.uri) and self.kind in (SHAPES, LABELS):
            parts = ("shapes", "places") if self.kind == SHAPES else ("values",)
            both = {part: [*mine[part], *others[part]] for part in parts}
            return replace(self, data=json.dumps({**mine, **both}))
        return self.unusable(
            self.prompt,
            self.uri,
            "truth_two_classes",
            f"{self.uri} and {other.uri} are both of classes that the prompt '{self.prompt}' looks for",
            other.uri,
        )

    @property
    def details(self) -> dict[str, Any]:
        """The content of ``data``."""
        value: dict[str, Any] = json.loads(self.data) if self.data else {}
        return value
