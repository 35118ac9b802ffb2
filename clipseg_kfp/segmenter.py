"""Segments images in a notebook or a script, without a cluster and without a bucket."""

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
from clipseg_kfp.options import Views
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
from clipseg_kfp.views import averaged_with_flip, cut, meters_per_pixel, mirrored, plan_views
from clipseg_kfp.views.to_masks import make_masks

VIEWS_AT_ONCE = 16


@dataclass(frozen=True)
class Segment:
    """The mask of one prompt in one image.

    Attributes:
        name: of the prompt.
        mask: bool (height, width), cleaned as the prompt says.
        probability: float32 (height, width) in 0 to 1.
        threshold: the probability from which a pixel belongs to the mask.
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
    """A model that segments images by prompts, with the same code as the pipelines.

    Example:
        >>> segmenter = Segmenter("examples/demo-model")
        >>> segments = segmenter("photo.jpg", ["a red circle", {"image": "bolt.jpg", "mask": "bolt-mask.png"}])
        >>> segments["a red circle"].mask.shape  # doctest: +SKIP
        (480, 640)

    Args:
        checkpoint: folder, ``hf://org/name@revision`` or ``s3://bucket/prefix``; the latter two are fetched
            to a temporary folder that is deleted with this object.
        threshold: for prompts without one of their own, between 0 and 1.
        backend: ``auto``, ``torch`` or ``openvino``.
        device: ``auto``, ``cpu`` or ``cuda``.
        precision: ``auto``, ``float32`` or ``bfloat16``.
        endpoint: S3 endpoint URL.

    Raises:
        ModelError: the checkpoint is missing, unsafe or not a CLIPSeg.
        ParameterError: a choice that this machine does not offer.
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
        """Encodes prompts; loaded with the first of them."""
        return Encoder(model.load_model(self.folder), self.facts, lambda: model.load_tokenizer(self.folder))

    def encode(
        self, prompts: str | Path | PromptSet | Sequence[Any] | Mapping[str, Any], where: str = ""
    ) -> PromptTable:
        """Encodes prompts once for many images.

        Args:
            prompts: texts and mappings as in prompt files, a mapping with ``defaults`` and ``prompts``, or the
                path or URI of a JSON or YAML prompt file.
            where: file that relative names in the prompts start beside; a prompt file itself by default.

        Raises:
            ParameterError: a bad prompt, or one that names an unusable file; names the entry.
        """
        if isinstance(prompts, str | Path):
            folder, key = open_object(str(prompts), self._endpoint)
            if folder.stat(key) is None:
                raise ParameterError(
                    f"There is no prompt file '{prompts}'.",
                    f"For a text, give a list: [{str(prompts)!r}].",
                    code="prompt_file_missing",
                    where=str(prompts),
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
        views: Views | Mapping[str, Any] | None = None,
    ) -> dict[str, Segment]:
        """Segments one image.

        Args:
            image: path or URI of a file, or an upright picture in memory; the colors of both are converted in
                the same way.
            prompts: as ``encode`` takes, or what it returned. Equal prompts of consecutive calls are encoded once.
            views: how the image is looked at: the options of the group ``views``, such as ``{"tile_size": 512}``.

        Returns:
            A segment per prompt, by name, in order; hidden prompts are left out.

        Raises:
            ImageRejectedError: the file is not a usable image.
            OptionsError: lists every bad option of ``views``.
            ParameterError: as ``encode``.
            StorageError: the file cannot be read.
        """
        options = views if isinstance(views, Views) else Views.read(views)
        table = prompts if isinstance(prompts, PromptTable) else self._encoded(prompts)
        meters = 0.0
        if isinstance(image, Image.Image):
            picture = _colors_of(image)
        else:
            data, key = self._read(str(image))
            picture = decode_image(data, key)
            meters = meters_per_pixel(open_image(data, key).header)
        size = self.facts.image_size
        boxes = plan_views(options, *picture.size, size, meters)
        maps: list[NDArray[np.uint8]] = []
        for start in range(0, len(boxes), VIEWS_AT_ONCE):
            pixels = np.stack([cut(picture, box, size) for box in boxes[start : start + VIEWS_AT_ONCE]])
            batch = self.engine.probabilities(pixels, table.embeddings)
            if options.flip:
                flipped = self.engine.probabilities(mirrored(pixels), table.embeddings)
                batch = (averaged_with_flip(*pair) for pair in zip(list(batch), flipped, strict=True))
            maps += batch
        stacked = np.stack(maps)
        levels = {row.name: stacked[:, i] for i, row in enumerate(table.base)}
        segments: dict[str, Segment] = {}
        for made in make_masks(table.rows, levels, boxes, *picture.size):
            probability = np.empty((picture.height, picture.width), np.float32)
            for columns, values in made.field:
                probability[:, columns] = values
            coverage = made.measures.area / made.mask.size
            segments[made.prompt.name] = Segment(
                made.prompt.name, made.mask, probability, made.threshold, coverage, made.measures.score
            )
        return segments

    def _encoded(self, prompts: Any) -> PromptTable:
        if isinstance(prompts, str | Path):
            return self.encode(prompts)
        # A copy, to notice prompts that are changed in place.
        prompts = prompts if isinstance(prompts, PromptSet) else copy.deepcopy(prompts)
        if self._last is None or self._last[0] != prompts:
            self._last = (prompts, self.encode(prompts))
        return self._last[1]

    def _read(self, uri: str) -> tuple[bytes, str]:
        folder, key = open_object(uri, self._endpoint)
        return folder.read(key), key


def _colors_of(image: Image.Image) -> Image.Image:
    """The colors that a file of this picture would have; the picture itself is not changed."""
    image.load()
    return to_rgb([image.copy() if image.mode == "RGB" else image])  # to_rgb shares the pixels of RGB


def overlay(image: Image.Image, segments: Mapping[str, Segment], long_side: int = 1024) -> Image.Image:
    """Paints masks over an image, each prompt in its color of the suite's palette.

    Args:
        image: of any mode and size.
        segments: what ``Segmenter`` returned for it.
        long_side: of the result in pixels, at most.

    Returns:
        An RGB picture.
    """
    colors = masks.palette(max(1, len(segments)))
    layers = [(segment.mask, color) for segment, color in zip(segments.values(), colors, strict=False)]
    return paint(image, layers, long_side)


def paint(
    image: Image.Image, layers: Sequence[tuple[masks.Mask, NDArray[np.uint8]]], long_side: int
) -> Image.Image:
    """Paints masks, each with its color, uint8 (3,), over a copy of an image, as the pipelines' overlays."""
    preview = preview_jpeg(_colors_of(image), long_side)
    width, height = Image.open(BytesIO(preview)).size
    small = [(masks.shrink(mask, width, height), color) for mask, color in layers]
    return Image.open(BytesIO(masks.overlay_jpeg(preview, small))).convert("RGB")
