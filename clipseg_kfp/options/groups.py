"""All options of the suite. Each is declared here, once."""

from __future__ import annotations

import math
import re
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, field_validator, model_validator
from pydantic_core import PydanticCustomError

from clipseg_kfp.options.declare import Group, Whole, _fixed, option

Format = Literal["coco-polygons", "yolo", "labelstudio", "labelstudio-polygons", "csv"]

SMALLEST_TILE = 32  # pixels: below, a tile shows the model nothing but blur
_NUMBER, _SHARE = re.compile(r"\d{1,12}"), re.compile(r"\d{1,3}(\.\d{1,6})?%|0?\.\d{1,6}|1\.0{1,6}|0\.0")


class Views(Group):
    """How the model looks at an image: as a whole, in tiles, mirrored."""

    name: ClassVar[str] = "views"

    tile_size: Whole = option(
        0,
        "Side of tiles in pixels of the source. Larger images are looked at in overlapping tiles as well as in "
        "whole; about four times the size of the things looked for is a good side. 0 cuts none.",
        unit="pixels",
        changes_pixels=True,
        ge=0,
    )
    tile_ground_resolution: float = option(
        0.0,
        "Instead of tile_size: what one pixel of the model covers on the ground. 0 leaves it to tile_size.",
        unit="meters",
        changes_pixels=True,
        ge=0,
    )
    tile_overlap: float = option(
        0.25,
        "Least overlap of neighboring tiles, as a share of their side.",
        changes_pixels=True,
        ge=0,
        le=0.75,
    )
    meters_per_pixel: float = option(
        0.0,
        "What one pixel of the images covers on the ground. 0 takes what their files say (GeoTIFF).",
        unit="meters",
        changes_pixels=True,
        ge=0,
    )
    flip: bool = option(
        False,
        "Average the maps of every view with those of its mirror image. Takes twice the time.",
        changes_pixels=True,
    )

    @field_validator("tile_size")
    @classmethod
    def _not_tiny(cls, value: int) -> int:
        if 0 < value < SMALLEST_TILE:
            raise PydanticCustomError("tile_too_small", f"0, or {SMALLEST_TILE} or more")
        return value

    @model_validator(mode="after")
    def _one_way_to_say_it(self) -> Views:
        if self.tile_size and self.tile_ground_resolution:
            raise PydanticCustomError(
                "tile_side_given_twice",
                "either tile_size or tile_ground_resolution: each sets the side of a tile",
            )
        return self

    @property
    def tiled(self) -> bool:
        """Whether large images are cut into tiles."""
        return bool(self.tile_size or self.tile_ground_resolution)

    def pixels(self) -> dict[str, Any]:
        """As for every group, without what has no effect."""
        found = super().pixels()
        if not self.tiled:
            found.pop("tile_overlap", None)
        if not self.tile_ground_resolution:
            found.pop("meters_per_pixel", None)
        return found


class Inference(Group):
    """How the model is computed."""

    name: ClassVar[str] = "inference"

    backend: Literal["auto", "torch", "openvino"] = option(
        "auto", "What computes the model. openvino runs on CPUs only; auto takes it on Intel and AMD CPUs."
    )
    device: Literal["auto", "cpu", "cuda"] = option(
        "auto", "Where it is computed. cuda needs an accelerator on the inference task."
    )
    precision: Literal["auto", "float32", "bfloat16", "int8"] = option(
        "auto",
        "auto is float32. bfloat16 is for GPUs. int8 needs openvino, the image cpu-int8 and shards of 150 views "
        "or more; it is used only where its masks agree with those of float32.",
        changes_pixels=True,
    )
    int8_min_iou: float = option(
        0.99,
        "With int8: the least IoU of its masks with those of float32 on held-out views of a shard.",
        gt=0,
        le=1,
    )
    batch_size: Whole = option(
        0, "The most views to encode at once. 0 takes what suits the device.", unit="views", ge=0
    )
    memory_mb: Whole = option(
        0,
        "What activations may take; weights (600 MB for the full-size model) come on top. 0 takes what suits the "
        "device.",
        unit="MB",
        ge=0,
    )

    @model_validator(mode="after")
    def _openvino_is_for_cpus(self) -> Inference:
        if self.device == "cuda" and self.backend == "openvino":
            raise PydanticCustomError(
                "openvino_on_cuda", "backend openvino runs on CPUs; take torch for cuda"
            )
        if self.precision == "int8" and (self.device == "cuda" or self.backend == "torch"):
            raise PydanticCustomError(
                "int8_without_openvino", "precision int8 exists for openvino on CPUs only"
            )
        return self

    def pixels(self) -> dict[str, Any]:
        """As for every group; float32 is what auto means."""
        return {} if self.precision == "float32" else super().pixels()


class Outputs(Group):
    """What is written besides masks and their tables."""

    name: ClassVar[str] = "outputs"

    label_maps: bool = option(True, "Write a palette map of the most probable prompt for each new image.")
    overlays: bool = option(True, "Write a preview with the masks painted in for each new image.")
    probability_bits: Literal[0, 8, 16] = option(
        0, "8 or 16 also writes the probabilities of new images, as grayscale PNGs. 0 does not.", unit="bits"
    )
    formats: Annotated[tuple[Format, ...], BeforeValidator(_fixed)] = option(
        (), "Annotation files to write besides COCO with run lengths."
    )
    run_id: str = option(
        "",
        "Name of the run in the results. Empty takes Kubeflow's run ID, or locally the time.",
        max_length=200,
    )

    @field_validator("probability_bits", mode="before")
    @classmethod
    def _whole_bits(cls, value: Any) -> Any:
        return int(value) if isinstance(value, float) and value.is_integer() else value


class Limits(Group):
    """What a run takes, and what it refuses."""

    name: ClassVar[str] = "limits"

    shard_size: Whole = option(
        100,
        "Images per shard. A run has 24 shards at most, of at most 512 MB: shards get larger where that is needed.",
        unit="images",
        ge=1,
    )
    limit: Whole = option(
        0,
        "The most new images to take in this run. 0 takes what fits into one; what is left is for the next.",
        unit="images",
        ge=0,
    )
    full: bool = option(
        False,
        "Take images also if earlier runs have done them under the same configuration, the oldest first.",
    )
    max_quarantined: str = option(
        "",
        "How many bad images the run may have: a number (20), a share of the listed ones (5%), or nothing for no "
        "bound. With more, it fails with the reasons and commits nothing.",
    )
    retry_quarantined: bool = option(
        False,
        "Try images again that an earlier run has quarantined, although neither they nor the reader have changed.",
    )
    allow_empty: bool = option(
        False,
        "Let a run succeed where there is no image under the source, such as a bucket that is empty tonight.",
    )
    max_megapixels: float = option(50.0, "Larger images go to quarantine.", unit="megapixels", gt=0)
    max_megabytes: float = option(100.0, "Larger files go to quarantine.", unit="MB", gt=0)

    @field_validator("max_quarantined", mode="before")
    @classmethod
    def _as_text(cls, value: Any) -> Any:
        """A person may well write 20 for "20"."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            return value
        return str(int(value)) if float(value).is_integer() else str(value)

    @field_validator("max_quarantined")
    @classmethod
    def _number_or_share(cls, value: str) -> str:
        text = value.strip()
        if text and not _NUMBER.fullmatch(text) and (not _SHARE.fullmatch(text) or _share(text) > 1):
            raise PydanticCustomError(
                "no_number_or_share", "a number of images (20), a share (5% or 0.05), or nothing"
            )
        return text

    def most_quarantined(self, listed: int) -> int | None:
        """The number of images that may be quarantined in a run; ``None`` without a bound.

        Args:
            listed: images of the run, skipped ones included: an hourly run over a bucket that is done takes the
                quarantined images only, and a share of those would always be all of them.

        >>> [Limits(max_quarantined=text).most_quarantined(250) for text in ("5%", "0.1", "7", "")]
        [12, 25, 7, None]
        """
        text = self.max_quarantined
        if not text:
            return None
        return int(text) if _NUMBER.fullmatch(text) else math.floor(round(_share(text) * listed, 6))


class GroundTruth(Group):
    """Where things really are, to measure masks with."""

    name: ClassVar[str] = "ground_truth"

    uri: str = option(
        "",
        "A COCO or PhraseCut file, or a folder of masks or label maps (docs/ground-truth.md). Empty takes "
        "masks/<prompt>/ beside images/, where that is there.",
        formerly="ground_truth_uri",
    )
    format: Literal["auto", "masks", "labels", "voc", "coco", "phrasecut"] = option(
        "auto", "What it is. auto looks.", formerly="ground_truth_format"
    )
    classes: dict[str, str] = option(
        {}, 'Class by prompt, where their names differ: {"a cat": "cat"}.', formerly="ground_truth_classes"
    )


class Support(Group):
    """Prompts from example pictures."""

    name: ClassVar[str] = "support"

    uri: str = option(
        "",
        "Example pictures, one folder per thing: each is one more prompt, named after its folder. Lay them out as "
        "<name>/images/x.jpg with <name>/masks/x.png (white where the thing is), or <name>/x.jpg alone.",
        formerly="support_uri",
    )
    engineering: Literal["paper", "none"] = option(
        "paper",
        "paper crops pictures with masks to the thing and blurs and darkens the rest, as the CLIPSeg paper does. "
        "none leaves them as they are.",
    )


#: Every group by its name.
GROUPS: dict[str, type[Group]] = {
    group.name: group for group in (Views, Inference, Outputs, Limits, GroundTruth, Support)
}


def _share(text: str) -> float:
    return float(text[:-1]) / 100 if text.endswith("%") else float(text)
