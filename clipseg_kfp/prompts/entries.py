"""What entries of a prompt set are made of: support images, stored embeddings, thresholds, cleaning.

The models hold the full form of an entry. The short forms that people write (a text for an object, ``polygon`` for
``polygons``) are expanded before the check, by the validators of the annotated types; those types also say what the
JSON Schema shows. A model whose name starts with ``Written`` exists for that schema only.
"""

from __future__ import annotations

import re
from itertools import combinations
from typing import Annotated, Any, Literal, LiteralString

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag, model_validator
from pydantic_core import PydanticCustomError

from clipseg_kfp.naming import spell_out

Text = Annotated[str, Field(min_length=1, max_length=1000)]
#: Of an object: ``s3://bucket/key``, ``file:///path``, a path, or a path relative to the prompt file.
Uri = Annotated[str, Field(min_length=1, max_length=2000)]
Number = Annotated[float, Field(allow_inf_nan=False)]
Share = Annotated[float, Field(gt=0, lt=1)]

#: ``masks.cleanup.MAX_RADIUS``, without importing OpenCV.
MAX_SMOOTH = 100
PERCENT = re.compile(r"(\d+(?:\.\d+)?|\.\d+)\s*%")


class Strict(BaseModel):
    """Base of all models: unknown fields are mistakes, and nothing changes after the check."""

    model_config = ConfigDict(extra="forbid", str_strip_whitespace=True, frozen=True)


def mistake(code: LiteralString, message: str, where: str = "") -> PydanticCustomError:
    """An error of an entry, with a code of its own; ``where`` if the validator knows better than pydantic."""
    return PydanticCustomError(code, "{message}", {"message": spell_out(message), "where": where})


def has_value(name: str) -> dict[str, Any]:
    """The JSON Schema of an object whose field is there, and neither null nor an empty list."""
    return {"required": [name], "properties": {name: {"not": {"enum": [None, []]}}}}


def not_both(first: str, second: str) -> dict[str, Any]:
    """The JSON Schema of an object that has at most one of two fields."""
    return {"not": {"allOf": [has_value(first), has_value(second)]}}


def _pairs(value: Any) -> Any:
    """COCO writes polygons flat: [x1, y1, x2, y2, …]."""
    if isinstance(value, list | tuple) and value and not any(isinstance(v, list | tuple) for v in value):
        if len(value) % 2:
            raise mistake("polygon_odd", "a flat polygon needs an even number of values: x1, y1, x2, y2, …")
        return list(zip(value[::2], value[1::2], strict=True))
    return value


_Corners = Annotated[tuple[tuple[Number, Number], ...], Field(min_length=3, max_length=10_000)]
_Flat = Annotated[tuple[Number, ...], Field(min_length=6)]
#: Three corners or more.
Polygon = Annotated[_Corners, BeforeValidator(_pairs, json_schema_input_type=_Corners | _Flat)]

REGIONS = ("mask", "box", "polygon", "polygons")
#: JSON Schema: at most one region, and units only for what has them.
ONE_REGION: list[dict[str, Any]] = [
    *(not_both(first, second) for first, second in combinations(REGIONS, 2)),
    {"if": {"required": ["units"]}, "then": {"anyOf": [has_value(name) for name in REGIONS[1:]]}},
]


class SupportImage(Strict):
    """A picture of what to look for, and where in it the thing is."""

    image: Uri = Field(description="URI of the picture; relative to the prompt file where there is one.")
    mask: Uri | None = Field(
        default=None,
        description="URI of a mask of the same size. The thing is what is above half of the mask's largest value.",
    )
    box: tuple[Number, Number, Number, Number] | None = Field(
        default=None, description="x, y, width, height; x and y of the upper left corner."
    )
    polygons: Annotated[tuple[Polygon, ...], Field(max_length=1000)] = Field(
        default=(), description="Outlines of the thing; their union counts."
    )
    units: Literal["pixels", "fractions"] = Field(
        default="pixels",
        description="Of box and polygons: pixels of the upright image, or fractions of its sides.",
    )

    @model_validator(mode="after")
    def _one_region(self) -> SupportImage:
        regions = [name for name in ("mask", "box", "polygons") if getattr(self, name)]
        if len(regions) > 1:
            raise mistake("region_twice", f"'{regions[0]}' and '{regions[1]}' both mark the thing; give one")
        if "units" in self.model_fields_set and regions not in (["box"], ["polygons"]):
            raise mistake("field_misplaced", "'units' belongs to 'box' or 'polygon'")
        if self.box is not None and (min(self.box[:2]) < 0 or min(self.box[2:]) <= 0):
            raise mistake(
                "box_empty", f"'box' is {list(self.box)}: x and y must be 0 or more, width and height above 0"
            )
        numbers = [*(self.box or ()), *(n for polygon in self.polygons for p in polygon for n in p)]
        if self.units == "fractions" and not all(0 <= number <= 1 for number in numbers):
            raise mistake(
                "fraction_out_of_range", "with units 'fractions', all numbers must lie between 0 and 1"
            )
        return self

    @property
    def has_region(self) -> bool:
        """Whether it says where in the picture the thing is."""
        return bool(self.mask or self.box or self.polygons)


class WrittenSupportImage(SupportImage):
    """A picture of what to look for, and where in it the thing is."""

    model_config = ConfigDict(title="SupportImage", json_schema_extra={"allOf": [*ONE_REGION]})

    polygon: Polygon = Field(default=(), description="Outline of the thing.")


def _full_image(value: Any) -> Any:
    if isinstance(value, str):
        return {"image": value}
    if isinstance(value, dict) and "polygon" in value:
        value = dict(value)
        if "polygons" in value:
            raise mistake("region_twice", "give 'polygon' or 'polygons', not both")
        value["polygons"] = [value.pop("polygon")]
    return value


#: A support image, or its URI.
ImageEntry = Annotated[
    SupportImage, BeforeValidator(_full_image, json_schema_input_type=Uri | WrittenSupportImage)
]


class Engineering(Strict):
    """How a support image is changed so that the model sees the thing and little else.

    The defaults are the best combination of the CLIPSeg paper (section 3.5 and its code). Only images that say
    where the thing is are changed; of others, only ``pad`` counts, and only where it is set.
    """

    crop: bool = Field(default=True, description="Cut to the thing's bounding box.")
    context: float = Field(
        default=0.1,
        ge=0,
        le=10,
        description="Kept around the box on every side, as a share of its width and height.",
    )
    blur: float = Field(
        default=3.0,
        ge=0,
        le=50,
        description="Sigma of the background's blur, in pixels of the picture at the size of the model's input. "
        "0 is off. The kernel has 2 x round(7/3 sigma) + 1 pixels.",
    )
    background: float = Field(
        default=0.1, ge=0, le=1, description="How much of the background is left: 1 keeps it, 0 removes it."
    )
    backdrop: Literal["mean", "black"] = Field(
        default="mean",
        description="What the background fades to, and padding is made of: the model's mean color, or black.",
    )
    pad: bool | None = Field(
        default=None, description="Pad to a square; by default only where the image says where the thing is."
    )


#: Changes nothing but the size.
UNCHANGED = Engineering(crop=False, blur=0.0, background=1.0, pad=False)


def _named_engineering(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if value not in ("paper", "none"):
        raise mistake(
            "engineering_unknown", f"'{value[:100]}' is neither 'paper' nor 'none', nor a mapping of settings"
        )
    return Engineering() if value == "paper" else UNCHANGED


#: Settings, or one of two names.
EngineeringEntry = Annotated[
    Engineering,
    BeforeValidator(_named_engineering, json_schema_input_type=Literal["paper", "none"] | Engineering),
]


class StoredEmbedding(Strict):
    """A conditional embedding from a file.

    CLIPSeg takes raw projections, which are not normalized. A wrong ``normalized`` gives poor masks, so it has no
    default.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "allOf": [
                {
                    "if": {"required": ["normalized"], "properties": {"normalized": {"const": True}}},
                    "then": has_value("norm"),
                    "else": {"not": has_value("norm")},
                },
                not_both("row", "where"),
            ]
        }
    )

    uri: Uri = Field(description="URI of a .npy, .safetensors or .parquet file.")
    key: Text | None = Field(
        default=None, description="Name of the tensor in a safetensors file with several."
    )
    column: Text | None = Field(default=None, description="Column of a Parquet file; 'embedding' by default.")
    row: Annotated[int, Field(ge=0)] | None = Field(
        default=None, description="Row, from 0, where there are several."
    )
    where: Annotated[dict[str, str | int | bool], Field(min_length=1)] | None = Field(
        default=None, description="Column values that select one row of a Parquet file."
    )
    normalized: bool = Field(description="Whether the vector has been scaled to length 1.")
    norm: Annotated[float, Field(gt=0, allow_inf_nan=False)] | Literal["text"] | None = Field(
        default=None,
        description="Length that a normalized vector is scaled to. 'text' takes the mean length of the model's own "
        "text embeddings.",
    )

    @model_validator(mode="after")
    def _consistent(self) -> StoredEmbedding:
        kind = self.file_kind
        if not kind:
            raise mistake(
                "embedding_file_type", f"'{self.uri}' does not end in .npy, .safetensors or .parquet"
            )
        for name, owner in (("key", "safetensors"), ("column", "parquet"), ("where", "parquet")):
            if getattr(self, name) is not None and kind != owner:
                raise mistake("field_misplaced", f"'{name}' belongs to .{owner} files")
        if self.where is not None and self.row is not None:
            raise mistake("row_twice", "give 'row' or 'where', not both")
        if self.normalized and self.norm is None:
            raise mistake(
                "norm_missing",
                "a normalized vector needs 'norm', because CLIPSeg takes raw projections: give the length that the "
                "raw vector had, or 'text' for the mean length of the model's text embeddings",
            )
        if not self.normalized and self.norm is not None:
            raise mistake("field_misplaced", "'norm' belongs to normalized vectors; others keep their length")
        return self

    @property
    def file_kind(self) -> str:
        """``npy``, ``safetensors`` or ``parquet``, by the name's ending; empty for others."""
        ending = self.uri.rpartition(".")[2].lower()
        return ending if ending in ("npy", "safetensors", "parquet") else ""


class Calibrated(Strict):
    """A threshold that an evaluation found."""

    calibrated: Uri = Field(description='URI of a JSON file with {"thresholds": {"<prompt name>": 0.42}}.')
    name: Text | None = Field(default=None, description="Its name in the file; the prompt's own by default.")


class OtsuFloor(Strict):
    """What Otsu's method must not go below."""

    minimum: Share = Field(
        description="The least threshold. What is below is noise, of images that do not show the thing."
    )


class Otsu(Strict):
    """Otsu's method with settings."""

    otsu: OtsuFloor = Field(description="Otsu's method on each map, with a floor.")


def _threshold_kind(value: Any) -> str | None:
    if isinstance(value, Otsu) or (isinstance(value, dict) and "otsu" in value):
        return "<floor>"
    if isinstance(value, dict | Calibrated):
        return "<calibrated>"
    if isinstance(value, str):
        return "<otsu>" if value == "otsu" else None
    return "<number>" if isinstance(value, float | int) else None


#: A probability, Otsu's method on each map, or what an evaluation found.
Threshold = Annotated[
    Annotated[Share, Tag("<number>")]
    | Annotated[Literal["otsu"], Tag("<otsu>")]
    | Annotated[Otsu, Tag("<floor>")]
    | Annotated[Calibrated, Tag("<calibrated>")],
    Discriminator(
        _threshold_kind,
        "threshold_kind",
        'give a number between 0 and 1, "otsu", {"otsu": {"minimum": 0.2}}, or {"calibrated": "<uri>"}',
    ),
]


def _percentage(value: Any) -> Any:
    if isinstance(value, str):
        match = PERCENT.fullmatch(value.strip())
        if not match or not 0 < float(match[1]) <= 100:
            raise mistake(
                "percentage", f"'{value[:100]}' is not a percentage; write '0.1%', or a number of pixels"
            )
    return value


class Cleaning(Strict):
    """What is done to a mask after the threshold, at the size of the source."""

    min_area: Annotated[
        Annotated[int, Field(ge=0)] | Annotated[str, Field(pattern=PERCENT.pattern)],
        BeforeValidator(_percentage),
    ] = Field(
        default=0, description="Smaller parts are removed: pixels, or a share of the image such as '0.1%'."
    )
    fill_holes: Annotated[int, Field(ge=0)] | bool = Field(
        default=False, description="True fills all holes, a number those of up to so many pixels."
    )
    smooth: Annotated[int, Field(ge=0, le=MAX_SMOOTH)] = Field(
        default=0, description="Radius of the smoothing in pixels; 0 is off."
    )
    keep_largest: bool = Field(default=False, description="Keep only the largest connected part.")

    def arguments(self, width: int, height: int) -> dict[str, Any]:
        """The keyword arguments of ``clipseg_kfp.masks.cleanup.clean`` for an image of this size in pixels."""
        area = self.min_area
        if isinstance(area, str):
            area = round(float(area.rstrip("%")) / 100 * width * height)
        return {**self.model_dump(), "min_area": area}
