"""The suite in a notebook or a script: a model, prompts, an image, masks; no cluster and no bucket."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clipseg_kfp.engine import Engine
from clipseg_kfp.engine import checkpoint as model
from clipseg_kfp.errors import ParameterError
from clipseg_kfp.images.colors import to_rgb
from clipseg_kfp.images.decode import decode_image, open_image, preview_jpeg
from clipseg_kfp.masks import raster as masks
from clipseg_kfp.prompts import (
    Encoder,
    Files,
    PromptSet,
    PromptTable,
    check_threshold,
    encode,
    gather,
    parse_prompts,
    read_prompts,
    read_table,
    write_table,
)
from clipseg_kfp.storage import open_object
from clipseg_kfp.views import Tiling, averaged_with_flip, cut, mirrored
from clipseg_kfp.views.resolution import meters_per_pixel as resolution_of
from clipseg_kfp.views.to_masks import finish

VIEWS_AT_ONCE = 16


@dataclass(frozen=True)
class Segment:
    """What one prompt found in one image.

    Attributes:
        name: of the prompt.
        mask: bool (height, width), cleaned as the prompt says.
        probability: float32 (height, width) in 0 to 1.
        threshold: from which probability a pixel belongs to the mask.
        coverage: share of the image inside the mask, 0 to 1.
        score: mean probability inside the mask; 0 where it is empty.
    """

    name: str
    mask: NDArray[np.bool_]
    probability: NDArray[np.float32]
    threshold: float
    coverage: float
    score: float


class Segmenter:
    """A model that segments images by prompts, with the very code of the pipelines.

    Example:
        >>> segmenter = Segmenter("examples/demo-model")
        >>> found = segmenter("photo.jpg", ["a red circle", {"image": "bolt.jpg", "mask": "bolt-mask.png"}])
        >>> found["a red circle"].mask.shape  # doctest: +SKIP
        (480, 640)

    Args:
        checkpoint: folder, ``hf://org/name@revision`` or ``s3://bucket/prefix``; the latter two are fetched
            to a temporary folder that goes with this object.
        threshold: for prompts that name none of their own, between 0 and 1.
        backend: ``auto``, ``torch`` or ``openvino``.
        device: ``auto``, ``cpu`` or ``cuda``.
        precision: ``auto``, ``float32`` or ``bfloat16``.
        endpoint: S3 endpoint URL.

    Raises:
        ModelError: the checkpoint is missing, unsafe or no CLIPSeg.
        ParameterError: a choice that cannot be had here.
    """

    def __init__(
        self,
        checkpoint: str | Path,
        *,
        threshold: float = 0.5,
        backend: str = "auto",
        device: str = "auto",
        precision: str = "auto",
        endpoint: str = "",
    ) -> None:
        check_threshold(threshold)
        self.threshold, self._endpoint = threshold, endpoint
        self._fetched: tempfile.TemporaryDirectory[str] | None = None
        if "://" in str(checkpoint):
            self._fetched = tempfile.TemporaryDirectory(prefix="clipseg-kfp-")
            self.folder = Path(self._fetched.name)
            model.fetch(str(checkpoint), self.folder, endpoint)
        else:
            self.folder = Path(checkpoint)
        self.facts = model.read_facts(self.folder)
        self.engine = Engine.load(self.folder, backend=backend, device=device, precision=precision)
        self._last: tuple[Any, PromptTable] | None = None

    @cached_property
    def encoder(self) -> Encoder:
        """Encodes prompts; loaded for the first of them."""
        return Encoder(model.load_model(self.folder), self.facts, lambda: model.load_tokenizer(self.folder))

    def encode(
        self, prompts: str | Path | PromptSet | Sequence[Any] | Mapping[str, Any], where: str = ""
    ) -> PromptTable:
        """Encodes prompts, to segment many images by them.

        Args:
            prompts: texts and mappings as in prompt files, a mapping with ``defaults`` and ``prompts``, or the
                path or URI of a JSON or YAML prompt file.
            where: file at whose folder relative names in the prompts start; a prompt file's own by default.

        Raises:
            ParameterError: a bad prompt, or a file that it names and that cannot be used; names the entry.
        """
        if isinstance(prompts, str | Path):
            folder, key = open_object(str(prompts), self._endpoint)
            if folder.stat(key) is None:
                raise ParameterError(
                    f"There is no prompt file '{prompts}'.", f"For a text, give a list: [{str(prompts)!r}]."
                )
            where = where or str(prompts)
            prompts = read_prompts(folder.read(key), str(prompts))
        elif not isinstance(prompts, PromptSet):
            prompts = parse_prompts(prompts if isinstance(prompts, Mapping) else list(prompts))
        gathered = gather(prompts, self.facts, self.threshold, Files(where, self._endpoint))
        rows, embeddings = encode(gathered, self.encoder)
        with tempfile.TemporaryDirectory() as work:
            write_table(Path(work, "prompts.parquet"), rows, embeddings)
            return read_table(Path(work, "prompts.parquet"))

    def __call__(
        self,
        image: str | Path | Image.Image,
        prompts: str | Path | PromptSet | PromptTable | Sequence[Any] | Mapping[str, Any],
        tiling: Tiling | None = None,
        *,
        flip: bool = False,
        meters_per_pixel: float = 0.0,
    ) -> dict[str, Segment]:
        """Segments one image.

        Args:
            image: path or URI of a file, or an upright picture in memory; the colors of either are converted in
                the same way.
            prompts: as ``encode`` takes, or what it returned. A list is encoded once, as long as the next
                call has the same.
            tiling: look at overlapping tiles as well as at the whole image.
            flip: average the maps of every view with those of its mirror image.
            meters_per_pixel: ground resolution of the image, for a tiling by that; 0 takes what the file says.

        Returns:
            What each prompt found, by its name, in order; hidden prompts are left out.

        Raises:
            ImageRejectedError: the file is no image that can be used.
            ParameterError: as ``encode``.
            StorageError: the file cannot be read.
        """
        table = prompts if isinstance(prompts, PromptTable) else self._encoded(prompts)
        if isinstance(image, Image.Image):
            picture = _colors_of(image)
        else:
            data, key = self._read(str(image))
            picture = decode_image(data, key)
            meters_per_pixel = meters_per_pixel or resolution_of(open_image(data, key).header)
        size = self.facts.image_size
        boxes = (tiling or Tiling()).plan(*picture.size, size, meters_per_pixel)
        maps: list[NDArray[np.uint8]] = []
        for start in range(0, len(boxes), VIEWS_AT_ONCE):
            views = np.stack([cut(picture, box, size) for box in boxes[start : start + VIEWS_AT_ONCE]])
            shown = self.engine.probabilities(views, table.embeddings)
            if flip:
                other = self.engine.probabilities(mirrored(views), table.embeddings)
                shown = (averaged_with_flip(*pair) for pair in zip(list(shown), other, strict=True))
            maps += shown
        stacked = np.stack(maps)
        levels = {row.name: stacked[:, i] for i, row in enumerate(table.base)}
        found: dict[str, Segment] = {}
        for one in finish(table.rows, levels, boxes, *picture.size):
            probability = np.empty((picture.height, picture.width), np.float32)
            for columns, values in one.field:
                probability[:, columns] = values
            found[one.prompt.name] = Segment(
                one.prompt.name,
                one.mask,
                probability,
                one.threshold,
                one.measures.area / one.mask.size,
                one.measures.score,
            )
        return found

    def _encoded(self, prompts: Any) -> PromptTable:
        if isinstance(prompts, str | Path):
            return self.encode(prompts)
        # A copy: a prompt that is changed in place is another one.
        wanted = prompts if isinstance(prompts, PromptSet) else copy.deepcopy(prompts)
        if self._last is None or self._last[0] != wanted:
            self._last = (wanted, self.encode(wanted))
        return self._last[1]

    def _read(self, uri: str) -> tuple[bytes, str]:
        folder, key = open_object(uri, self._endpoint)
        return folder.read(key), key


def _colors_of(image: Image.Image) -> Image.Image:
    """What a file of this picture would be read as; the picture stays as it is."""
    image.load()
    return to_rgb([image.copy() if image.mode == "RGB" else image])  # that of RGB shares its pixels


def overlay(image: Image.Image, found: Mapping[str, Segment], long_side: int = 1024) -> Image.Image:
    """Paints masks over an image, each prompt in a color of the suite's palette, by its place.

    Args:
        image: of any mode and size.
        found: what ``Segmenter`` returned for it.
        long_side: of the result, in pixels, at most.

    Returns:
        An RGB picture.
    """
    preview = preview_jpeg(_colors_of(image), long_side)
    width, height = Image.open(BytesIO(preview)).size
    layers = [
        (masks.shrink(one.mask, width, height), color)
        for one, color in zip(found.values(), masks.palette(max(1, len(found))), strict=False)
    ]
    return Image.open(BytesIO(masks.overlay_jpeg(preview, layers))).convert("RGB")
