"""The demo data set as objects for a bucket: drawn scenes with ground truth, photographs, odd files.

Everything comes from fixed seeds, so a second call gives the same bytes. The demo model was trained on other seeds
and has seen none of these pictures.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.ExifTags import Base as ExifTag

from clipseg_kfp.demo.scenes import Query, Scene, draw_scene

#: Prompt names and their texts.
DEMO_PROMPTS: dict[str, list[str]] = {
    "circle": ["a circle"],
    "star": ["a star"],
    "cross": ["a cross"],
    "red": ["the red things"],
    "blue": ["the blue things"],
    "ring": ["a ring", "the rings"],
}

#: The ground truth of each prompt.
DEMO_QUERIES: dict[str, Query] = {
    "circle": Query(shape="circle"),
    "star": Query(shape="star"),
    "cross": Query(shape="cross"),
    "red": Query(color="red"),
    "blue": Query(color="blue"),
    "ring": Query(shape="ring"),
}

SCENE_COUNT = 24

_FIRST_SEED = 1000
_ODD_SEED = 2000
_SIZES = ((256, 256), (320, 240), (400, 300), (240, 320))


def find_examples(*places: Path) -> Path:
    """The first folder ``examples`` with a demo model, of a checkout or the notebook image; else the first place's."""
    folders = [place / "examples" for place in places]
    return next((folder for folder in folders if (folder / "demo-model").is_dir()), folders[0])


EXAMPLES = find_examples(Path(__file__).parents[2], Path(sys.prefix))


def demo_objects() -> Iterator[tuple[str, bytes]]:
    """Yields the key and the content of every object, an image before its masks.

    Images lie under ``images/``; ground truth, where it is known, under ``masks/<prompt name>/`` at the same relative
    path with the extension ``.png``: 8-bit, 0 or 255, for every prompt of ``DEMO_PROMPTS``, empty where nothing
    matches. Photographs are left out where there is no folder ``examples/photos``, as in an installed wheel.
    """
    yield from _scenes()
    yield from _photos()
    yield from _odd()


def _scenes() -> Iterator[tuple[str, bytes]]:
    for i in range(SCENE_COUNT):
        scene = draw_scene(_FIRST_SEED + i, _SIZES[i % len(_SIZES)])
        # The format alternates by round of sizes, too, so that each size comes in both formats.
        jpeg = (i + i // len(_SIZES)) % 2 == 0
        content = _jpeg(scene.image) if jpeg else png(scene.image)
        yield from _with_truth(f"scenes/scene-{i:02d}.{'jpg' if jpeg else 'png'}", content, scene)


def _photos() -> Iterator[tuple[str, bytes]]:
    photos = EXAMPLES / "photos"
    if photos.is_dir():
        for path in sorted(photos.glob("*.jpg")):
            yield f"images/photos/{path.name}", path.read_bytes()


def _odd() -> Iterator[tuple[str, bytes]]:
    """Odd files of real buckets: three unusable images, and six that only look unusable."""
    whole = _jpeg(draw_scene(_ODD_SEED).image)
    yield "images/odd/truncated.jpg", whole[: len(whole) // 2]
    yield "images/odd/notes.png", b"Not an image: someone renamed their notes.\n"
    yield "images/odd/empty.jpg", b""

    scene = draw_scene(_ODD_SEED + 1)
    exif = Image.Exif()
    exif[ExifTag.Orientation] = 6  # shown turned by 90 degrees clockwise, so stored turned the other way
    turned = scene.image.transpose(Image.Transpose.ROTATE_90)
    yield from _with_truth("odd/rotated.jpg", _jpeg(turned, exif), scene)

    scene = draw_scene(_ODD_SEED + 2)
    yield from _with_truth("odd/cmyk.jpg", _jpeg(scene.image.convert("CMYK")), scene)

    gray = np.asarray(draw_scene(_ODD_SEED + 3).image.convert("L"), dtype=np.uint16)
    yield "images/odd/gray-16-bit.png", png(Image.fromarray(gray * np.uint16(257)))

    for i, name in enumerate(("spaß & мир 画像 (1).png", "left/same.png", "right/same.png")):
        scene = draw_scene(_ODD_SEED + 4 + i)
        yield from _with_truth(f"odd/{name}", png(scene.image), scene)


def _with_truth(name: str, content: bytes, scene: Scene) -> Iterator[tuple[str, bytes]]:
    yield f"images/{name}", content
    stem = PurePosixPath(name).with_suffix("")
    for prompt, query in DEMO_QUERIES.items():
        yield f"masks/{prompt}/{stem}.png", mask_png(scene.mask(query))


def _jpeg(image: Image.Image, exif: Image.Exif | None = None) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=92, exif=exif or Image.Exif())
    return buffer.getvalue()


def mask_png(mask: NDArray[np.bool_]) -> bytes:
    """Encodes a mask, bool (height, width), as an 8-bit PNG of 0 and 255."""
    return png(Image.fromarray(mask.astype(np.uint8) * np.uint8(255)))


def png(image: Image.Image) -> bytes:
    """Encodes a picture as PNG."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
