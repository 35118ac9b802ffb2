"""What decides pixels besides model and prompts; it travels with the encoded prompts to every later step.

encode_prompts checks it, puts it into the configuration's digest and writes it down. So the name under which
results are kept and what the steps do cannot differ.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from clipseg_kfp.engine import check_choices
from clipseg_kfp.errors import ParameterError
from clipseg_kfp.views import Tiling

FILE = "settings.json"


@dataclass(frozen=True)
class Settings:
    """How images are looked at and computed.

    Attributes:
        precision: of inference: ``auto``, ``float32``, ``bfloat16`` or ``int8``.
        tiling: how large images are cut.
        meters_per_pixel: what a pixel of the images covers on the ground; 0 takes what their files say.
        flip: average the maps of every view with those of its mirror image.

    Raises:
        ParameterError: a value outside of what its name allows.
    """

    precision: str = "auto"
    tiling: Tiling = field(default_factory=Tiling)
    meters_per_pixel: float = 0.0
    flip: bool = False

    def __post_init__(self) -> None:
        check_choices(precision=self.precision)
        if not 0 <= self.meters_per_pixel < float("inf"):
            raise ParameterError(
                f"meters_per_pixel is {self.meters_per_pixel}.",
                "Give what a pixel covers on the ground, or 0 to take it from the files.",
            )

    @classmethod
    def of(
        cls,
        *,
        precision: str = "auto",
        tile_size: int = 0,
        tile_ground_resolution: float = 0.0,
        tile_overlap: float = 0.25,
        meters_per_pixel: float = 0.0,
        flip: bool = False,
    ) -> Settings:
        """Makes them of a pipeline's parameters; see the pipeline for what they mean."""
        tiling = Tiling(size=tile_size, ground_resolution=tile_ground_resolution, overlap=tile_overlap)
        return cls(precision, tiling, meters_per_pixel, flip)

    def to_json(self) -> dict[str, Any]:
        """For the digest and for people: without what has no effect."""
        tiles = asdict(self.tiling) if self.tiling.on else {}
        meters = self.meters_per_pixel if self.tiling.ground_resolution else 0.0
        return {
            **({"precision": self.precision} if self.precision not in ("auto", "float32") else {}),
            **({"tiling": tiles} if tiles else {}),
            **({"meters_per_pixel": meters} if meters else {}),
            **({"flip": True} if self.flip else {}),
        }

    def write(self, folder: Path) -> None:
        """Writes them beside the encoded prompts."""
        (folder / FILE).write_text(json.dumps(self.to_json(), indent=2) + "\n", "utf-8")

    @classmethod
    def read(cls, folder: Path) -> Settings:
        """The opposite of ``write``."""
        value = json.loads((folder / FILE).read_text("utf-8"))
        return cls(**{**value, "tiling": Tiling(**value.get("tiling", {}))})
