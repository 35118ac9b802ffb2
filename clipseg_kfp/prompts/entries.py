"""What entries of a prompt set are made of: support images, stored embeddings, thresholds, cleaning."""

from __future__ import annotations

import re
from itertools import combinations
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    GetJsonSchemaHandler,
    Tag,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import CoreSchema

from clipseg_kfp.naming import spell_out

Text = Annotated[str, Field(min_length=1, max_length=1000)]
#: Of an object: ``s3://bucket/key``, ``file:///path``, a path, or a path relative to the prompt file.
Uri = Annotated[str, Field(min_length=1, max_length=2000)]
Number = Annotated[float, Field(allow_inf_nan=False)]
Share = Annotated[float, Field(gt=0, lt=1)]

#: ``cleaning.MAX_RADIUS``, without importing OpenCV.
MAX_SMOOTH = 100
PERCENT = re.compile(r"(\d+(?:\.\d+)?|\.\d+)\s*%")


class Strict(BaseModel):
    """Base of all parts: unknown fields are mistakes, and nothing changes after the check."""

    model_config = ConfigDict(extra="forbid", str_strip_whitespace=True, frozen=True)


def describe_short_form(
    schema: CoreSchema, handler: GetJsonSchemaHandler, short: list[dict[str, Any]]
) -> dict[str, Any]:
    """Adds to a model's JSON Schema what it takes instead of an object."""
    reference = handler(schema)
    definition = handler.resolve_ref_schema(reference)
    full = dict(definition)
    definition.clear()
    definition["anyOf"] = [*short, full]
    return reference


Point = tuple[Number, Number]


def _points(value: Any) -> Any:
    """COCO writes polygons flat: [x1, y1, x2, y2, …]."""
    if isinstance(value, list | tuple) and value and not any(isinstance(v, list | tuple) for v in value):
        if len(value) % 2:
            raise ValueError("a polygon written flat needs an even number of values: x1, y1, x2, y2, …")
        value = [[value[i], value[i + 1]] for i in range(0, len(value), 2)]
    return value


_POINTS = {
    "type": "array",
    "minItems": 3,
    "items": {"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 2},
    "description": "Corners as [[x, y], …].",
}
_FLAT = {
    "type": "array",
    "minItems": 6,
    "items": {"type": "number"},
    "description": "Corners as COCO writes them: [x1, y1, x2, y2, …].",
}
#: Three corners or more.
Polygon = Annotated[
    tuple[Point, ...],
    Field(min_length=3, max_length=10_000),
    BeforeValidator(_points),
    WithJsonSchema({"anyOf": [_POINTS, _FLAT]}),
]


def _said(name: str) -> dict[str, Any]:
    """A field that says something: not null, and no empty list."""
    return {"required": [name], "properties": {name: {"not": {"enum": [None, []]}}}}


_REGIONS = ("mask", "box", "polygon", "polygons")
#: In the JSON Schema: one way at most to say where the thing is, and units for what has them.
ONE_REGION: list[dict[str, Any]] = [
    *({"not": {"allOf": [_said(first), _said(second)]}} for first, second in combinations(_REGIONS, 2)),
    {"if": {"required": ["units"]}, "then": {"anyOf": [_said(name) for name in _REGIONS[1:]]}},
]


class SupportImage(Strict):
    """A picture of what to look for, and where in it.

    Attributes:
        image: URI of the picture.
        mask: URI of a mask of the same size; the thing is what is above half of its largest value.
        box: x, y, width, height of the thing, x and y of its upper left corner.
        polygons: outlines of the thing; their union counts.
        units: of box and polygons: pixels of the upright image, or fractions of its width and height.
    """

    image: Uri = Field(description="URI of the picture; relative to the prompt file where there is one.")
    mask: Uri | None = Field(default=None, description="URI of a mask of the same size: the thing is bright.")
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

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"image": value}
        if isinstance(value, dict) and "polygon" in value:
            value = dict(value)
            if "polygons" in value:
                raise ValueError("give 'polygon' or 'polygons', not both")
            value["polygons"] = [value.pop("polygon")]
        return value

    @model_validator(mode="after")
    def _one_region(self) -> SupportImage:
        regions = [name for name in ("mask", "box", "polygons") if getattr(self, name) not in (None, ())]
        if len(regions) > 1:
            raise ValueError(f"'{regions[0]}' and '{regions[1]}' both say where the thing is; give one")
        if "units" in self.model_fields_set and regions not in (["box"], ["polygons"]):
            raise ValueError("'units' belongs to 'box' or 'polygon'")
        if self.box is not None and (min(self.box[:2]) < 0 or min(self.box[2:]) <= 0):
            raise ValueError(f"'box' is {list(self.box)}: x and y from 0, width and height above 0")
        numbers = [*(self.box or ()), *(n for polygon in self.polygons for p in polygon for n in p)]
        if self.units == "fractions" and any(not 0 <= number <= 1 for number in numbers):
            raise ValueError("with units 'fractions', all numbers must lie between 0 and 1")
        return self

    @property
    def has_region(self) -> bool:
        """Whether it says where in the picture the thing is."""
        return self.mask is not None or self.box is not None or bool(self.polygons)

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        reference = handler(schema)
        definition = handler.resolve_ref_schema(reference)
        definition["properties"]["polygon"] = {"anyOf": [_POINTS, _FLAT]}
        definition["allOf"] = ONE_REGION
        full = dict(definition)
        definition.clear()
        definition["anyOf"] = [{"type": "string", "minLength": 1}, full]
        return reference


_OFF = {"crop": False, "blur": 0.0, "background": 1.0, "pad": False}


class Engineering(Strict):
    """How a support image is changed so that the model sees the thing and little else.

    The defaults are the best combination of the CLIPSeg paper (section 3.5 and its code). Only images that
    say where the thing is are changed; of others, only ``pad`` is heeded, and only where it is set.

    Attributes:
        crop: cut to the thing's bounding box.
        context: how much is kept around it, as a share of the box's width and height on every side.
        blur: sigma of the Gaussian that blurs the background, in pixels of the picture when it is scaled to
            the model's input; the kernel has 2 x round(7/3 sigma) + 1 pixels, 15 for the default; 0 is off.
        background: how much of the background is left; 1 keeps it, 0 removes it.
        backdrop: what the background fades to, and padding is made of: the model's ``mean`` color, as in the
            paper's code, which works on normalized images, or ``black``.
        pad: make it a square rather than stretch it.
    """

    crop: bool = Field(default=True, description="Cut to the thing's bounding box.")
    context: float = Field(
        default=0.1, ge=0, le=10, description="Kept around the box, as a share of its sides."
    )
    blur: float = Field(default=3.0, ge=0, le=50, description="Sigma of the background's blur; 0 is off.")
    background: float = Field(default=0.1, ge=0, le=1, description="How much of the background is left.")
    backdrop: Literal["mean", "black"] = Field(
        default="mean", description="What the background fades to: the model's mean color, or black."
    )
    pad: bool | None = Field(
        default=None, description="Pad to a square; by default only where the image says where the thing is."
    )

    @model_validator(mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        if isinstance(value, str):
            if value not in ("paper", "none"):
                raise ValueError(
                    f"'{spell_out(value[:100])}' is neither 'paper' nor 'none', nor a mapping of settings"
                )
            return dict(_OFF) if value == "none" else {}
        return value

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return describe_short_form(schema, handler, [{"enum": ["paper", "none"]}])


class StoredEmbedding(Strict):
    """A conditional embedding from a file.

    Attributes:
        uri: of a ``.npy``, ``.safetensors`` or ``.parquet`` file.
        key: the tensor's name in a safetensors file; needed where there are several.
        column: of a Parquet file: lists of numbers.
        row: from 0, where the file holds several embeddings.
        where: column values that select the one row of a Parquet file.
        normalized: whether the vector was scaled to length 1. CLIPSeg is conditioned on raw projections,
            which are not; a wrong word here gives poor masks, so there is no default.
        norm: length to scale a normalized vector to: a number, or ``text`` for the mean length of this
            model's own text embeddings.
    """

    uri: Uri = Field(description="URI of a .npy, .safetensors or .parquet file.")
    key: Text | None = Field(default=None, description="Name of the tensor in a safetensors file.")
    column: Text | None = Field(default=None, description="Column of a Parquet file; 'embedding' by default.")
    row: Annotated[int, Field(ge=0)] | None = Field(default=None, description="Row, from 0.")
    where: Annotated[dict[str, str | int | bool], Field(min_length=1)] | None = Field(
        default=None, description="Column values that select one row of a Parquet file."
    )
    normalized: bool = Field(description="Whether the vector has been scaled to length 1.")
    norm: Annotated[float, Field(gt=0, allow_inf_nan=False)] | Literal["text"] | None = Field(
        default=None,
        description="Length that a normalized vector is scaled to; 'text': as the model's own texts have.",
    )

    @model_validator(mode="after")
    def _consistent(self) -> StoredEmbedding:
        kind = self.file_kind
        if not kind:
            raise ValueError(f"'{self.uri}' ends in none of .npy, .safetensors and .parquet")
        for name, owner in (("key", "safetensors"), ("column", "parquet"), ("where", "parquet")):
            if getattr(self, name) is not None and kind != owner:
                raise ValueError(f"'{name}' belongs to .{owner} files")
        if self.where is not None and self.row is not None:
            raise ValueError("give 'row' or 'where', not both")
        if self.normalized and self.norm is None:
            raise ValueError(
                "a normalized vector needs 'norm': CLIPSeg takes raw projections. Give the length that yours "
                "had, or 'text' for the mean length of this model's text embeddings"
            )
        if not self.normalized and self.norm is not None:
            raise ValueError("'norm' belongs to normalized vectors; others are taken as they are")
        return self

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        reference = handler(schema)
        definition = handler.resolve_ref_schema(reference)
        definition["allOf"] = [
            {
                "if": {"required": ["normalized"], "properties": {"normalized": {"const": True}}},
                "then": _said("norm"),
                "else": {"not": _said("norm")},
            },
            {"not": {"allOf": [_said("row"), _said("where")]}},
        ]
        return reference

    @property
    def file_kind(self) -> str:
        """``npy``, ``safetensors`` or ``parquet``, by the name's ending; empty for others."""
        ending = self.uri.rpartition(".")[2].lower()
        return ending if ending in ("npy", "safetensors", "parquet") else ""


class Calibrated(Strict):
    """A threshold that an evaluation found.

    Attributes:
        calibrated: URI of a JSON file with ``{"thresholds": {"<prompt name>": 0.42}}``.
        name: of the threshold in the file; the prompt's own name by default.
    """

    calibrated: Uri = Field(description='URI of a JSON file with {"thresholds": {"<prompt name>": 0.42}}.')
    name: Text | None = Field(default=None, description="Its name in the file; the prompt's own by default.")


class OtsuFloor(Strict):
    """What Otsu's method must not go below.

    Attributes:
        minimum: the least threshold: what is below is noise, of images that do not show the thing.
    """

    minimum: Share = Field(description="The least threshold; without one, every map is parted in two.")


class Otsu(Strict):
    """Otsu's method with settings.

    Attributes:
        otsu: its settings.
    """

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
        "threshold",
        'give a number between 0 and 1, "otsu", {"otsu": {"minimum": 0.2}}, or {"calibrated": "<uri>"}',
    ),
]


def _area(value: Any) -> Any:
    if isinstance(value, str):
        match = PERCENT.fullmatch(value.strip())
        if not match or not 0 < float(match[1]) <= 100:
            raise ValueError(
                f"'{spell_out(value[:100])}' is no percentage; write '0.1%', or a number of pixels"
            )
    return value


class Cleaning(Strict):
    """What is done to a mask after the threshold, at the size of the source.

    Attributes:
        min_area: connected parts below this are removed: pixels, or a share of the image such as ``"0.1%"``.
        fill_holes: all holes, or those of up to so many pixels.
        smooth: radius of the smoothing, in pixels, at most 100.
        keep_largest: keep the largest connected part only.
    """

    min_area: Annotated[int, Field(ge=0)] | Annotated[str, Field(pattern=PERCENT.pattern)] = Field(
        default=0, description="Smaller parts are removed: pixels, or a share of the image such as '0.1%'."
    )
    fill_holes: Annotated[int, Field(ge=0)] | bool = Field(
        default=False, description="True fills all holes, a number those of up to so many pixels."
    )
    smooth: Annotated[int, Field(ge=0, le=MAX_SMOOTH)] = Field(
        default=0, description="Radius in pixels; 0 is off."
    )
    keep_largest: bool = Field(default=False, description="Keep the largest part only.")

    @model_validator(mode="before")
    @classmethod
    def _percentages(cls, value: Any) -> Any:
        if isinstance(value, dict) and "min_area" in value:
            _area(value["min_area"])
        return value

    def arguments(self, width: int, height: int) -> dict[str, Any]:
        """The keyword arguments of ``clipseg_kfp.masks.cleanup.clean`` for an image of this size in pixels."""
        area = self.min_area
        if isinstance(area, str):
            match = PERCENT.fullmatch(area)
            assert match
            area = round(float(match[1]) / 100 * width * height)
        return {**self.model_dump(), "min_area": area}
