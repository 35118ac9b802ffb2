"""Decodes untrusted image bytes; scales to model input and preview."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pi_heif
from numpy.typing import NDArray
from PIL import (  # each registers its format
    AvifImagePlugin,
    BmpImagePlugin,  # noqa: F401
    GifImagePlugin,  # noqa: F401
    IcoImagePlugin,  # noqa: F401
    Image,
    Jpeg2KImagePlugin,  # noqa: F401
    JpegImagePlugin,  # noqa: F401
    MpoImagePlugin,  # noqa: F401
    PngImagePlugin,  # noqa: F401
    PpmImagePlugin,  # noqa: F401
    TgaImagePlugin,  # noqa: F401
    TiffImagePlugin,  # noqa: F401
    WebPImagePlugin,  # noqa: F401
)
from PIL.ExifTags import Base as ExifTag

from clipseg_kfp.images.colors import to_rgb
from clipseg_kfp.images.formats import (
    FORMATS,
    IMAGE_SUFFIXES,
    ImageRejectedError,
    accepts,
    not_an_image,
    rejecting,
)
from clipseg_kfp.images.png import open_png
from clipseg_kfp.images.tiff import open_tiff

__all__ = [
    "IMAGE_SUFFIXES",
    "ImageRejectedError",
    "OpenedImage",
    "decode_image",
    "decode_labels",
    "decode_mask",
    "open_image",
    "preview_jpeg",
    "to_model_input",
]

MAX_BYTES_PER_PIXEL = 32  # that decoding takes, in any format

# One image has one thread: the others decode other images, and each thread takes address space, which is limited.
AvifImagePlugin.DEFAULT_MAX_THREADS = 1
pi_heif.register_heif_opener(thumbnails=False, depth_images=False, aux_images=False, decode_threads=1)

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class OpenedImage:
    """An image of which only the header has been read. It can be decoded once.

    Attributes:
        width: as stored, before it is turned upright.
        height: as stored.
        kind: the format, of ``FORMATS``.
    """

    def __init__(self, image: Image.Image, data: bytes, kind: str, name: str) -> None:
        """Made by ``open_image``."""
        self.width, self.height = image.size
        self._image: Image.Image | None = image
        self.kind = kind
        self._mode, self._data, self._name = image.mode, data, name

    @property
    def header(self) -> Image.Image:
        """The opened image, for its metadata only; gone after ``decode``."""
        if self._image is None:
            raise RuntimeError("The image has been decoded: its header is gone.")
        return self._image

    @property
    def peak_bytes(self) -> int:
        """The most memory that ``decode`` takes: decoder's buffers, pixels and their converted copy.

        Pillow takes four bytes per pixel, one if gray. On top of these come a converted or upright copy, a
        progressive JPEG's coefficients (two bytes per channel), and what other decoders keep: WebP's two
        canvases, GIF's last frame, the strips of a TIFF, JPEG 2000's 32 bits per sample.
        """
        per_pixel = {"JPEG2000": MAX_BYTES_PER_PIXEL, "WEBP": 20, "BMP": 9, "PNG": 10}.get(self.kind, 16)
        per_pixel = max(per_pixel, getattr(self._image, "bytes_per_pixel", 0))
        if self.kind == "JPEG":
            progressive = self._image is not None and self._image.info.get("progressive")
            per_pixel = 9 if not progressive and self._mode in ("L", "RGB") else 13
        return self.width * self.height * per_pixel

    def decode(self) -> Image.Image:
        """Decodes the pixels.

        Returns:
            An upright 8-bit RGB image without metadata.

        Raises:
            ImageRejectedError: whatever is wrong with the bytes; nothing else is raised.
        """
        image, self._image = self.header, None
        with rejecting(self._data, self.kind, self._name):
            image.load()
            method = _UPRIGHT.get(_orientation(image))
            if (
                self.kind == "TGA" and not self._data[17] & 15
            ):  # no bits of opacity: the fourth byte is padding
                image = image.convert("RGB")
            holder = [image]
            del image  # each copy of the pixels is freed as soon as the next one is made
            rgb = to_rgb(holder)
            rgb = rgb.transpose(method) if method is not None else rgb
            rgb.info.clear()  # else a later save would embed a profile that no longer applies
            return rgb

    def deep_values(self) -> NDArray[Any] | None:
        """Decodes gray values of more than 8 bits as they are stored, instead of colors.

        Returns:
            The upright values, (height, width), all finite; of pictures in color the largest channel's, or the
            opacity where it varies. ``None`` if the file has 8 bits per channel or less.

        Raises:
            ImageRejectedError: whatever is wrong with the bytes; nothing else is raised.
        """
        image = self.header
        with rejecting(self._data, self.kind, self._name):
            if image.mode.startswith(("I", "F")):
                method = _UPRIGHT.get(_orientation(image))
                image.load()
                values = np.nan_to_num(np.asarray(image))
            elif ";16" in _raw_mode(image):  # color or transparency, of which Pillow keeps the upper 8 bits
                method = _UPRIGHT.get(_orientation(image))
                import cv2  # only here: every decoding worker would load it

                deep = cv2.imdecode(np.frombuffer(self._data, np.uint8), cv2.IMREAD_UNCHANGED)
                if deep is None or deep.dtype.itemsize == 1 or deep.shape[:2] != (self.height, self.width):
                    return None
                channels = deep.reshape(*deep.shape[:2], -1)
                alpha = channels[..., 3] if channels.shape[2] == 4 else None
                varied = alpha is not None and alpha.min() != alpha.max()
                values = alpha if varied else channels[..., :3].max(axis=2)
            else:
                return None
            return values if method is None else np.asarray(Image.fromarray(values).transpose(method))

    def opacity(self) -> Image.Image | None:
        """Decodes only the transparency, instead of the pixels.

        Returns:
            The upright 8-bit alpha channel; ``None`` if the file has none.

        Raises:
            ImageRejectedError: whatever is wrong with the bytes; nothing else is raised.
        """
        image, self._image = self.header, None
        with rejecting(self._data, self.kind, self._name):
            if not image.has_transparency_data:
                return None
            image.load()
            method = _UPRIGHT.get(_orientation(image))
            if image.mode[0] in "IF":  # gray of 16 bits, of which one value is transparent
                opaque = np.asarray(image) != image.info["transparency"]
                alpha = Image.fromarray(opaque.astype(np.uint8) * np.uint8(255))
            else:
                alpha = image.convert("RGBA").getchannel("A")
            return alpha.transpose(method) if method is not None else alpha


def open_image(data: bytes, name: str = "") -> OpenedImage:
    """Reads the header of an image; see ``decode_image``.

    Args:
        data: the whole file.
        name: the file's name or key, for messages.

    Raises:
        ImageRejectedError: whatever is wrong with the bytes; nothing else is raised.
    """
    if not data:
        raise ImageRejectedError("empty", "The file has no bytes.")
    for kind in FORMATS:
        with rejecting(data, kind, name):
            image = _open(data, kind, name)
            if image is not None:
                return OpenedImage(image, data, kind, name)
    raise not_an_image(data, name)


def decode_image(data: bytes, name: str = "", max_pixels: int = 50_000_000) -> Image.Image:
    """Decodes the first frame of an image file in one of ``FORMATS``.

    The content alone decides the format, not the name's suffix (but for TGA, which has no signature). EXIF
    orientation is applied, an embedded color profile is converted to sRGB (a broken one is ignored), transparent
    pixels are laid over white. 16-bit gray is scaled from its full range; 32-bit integers and floats from the
    smallest of 0..1 (floats only), 0..255 and 0..65535 that holds them all, else from their own range.

    Args:
        data: the whole file.
        name: the file's name or key, for messages.
        max_pixels: larger images are rejected, judged by their header. (WebP and tiles of TIFF also have
            Pillow's limit, twice ``Image.MAX_IMAGE_PIXELS``.)

    Returns:
        An upright 8-bit RGB image without metadata.

    Raises:
        ImageRejectedError: whatever is wrong with the bytes; nothing else is raised.
    """
    opened = open_image(data, name)
    _check_size(opened, max_pixels)
    return opened.decode()


def _check_size(opened: OpenedImage, max_pixels: float) -> None:
    if opened.width * opened.height > max_pixels:
        raise ImageRejectedError(
            "too_large",
            f"The header says {opened.width} x {opened.height} pixels; the limit is {max_pixels:,.0f} pixels.",
        )


def to_model_input(image: Image.Image, size: int) -> NDArray[np.uint8]:
    """Stretches an image to the model's square, as ``ViTImageProcessorPil`` does before rescaling.

    Args:
        image: RGB, of any size.
        size: side of the square in pixels.

    Returns:
        uint8 array (size, size, 3).

    Raises:
        ValueError: if the image is not RGB.
    """
    if image.mode != "RGB":
        raise ValueError(f"expected an RGB image, got mode {image.mode}")
    return np.array(image.resize((size, size), Image.Resampling.BILINEAR), dtype=np.uint8)


def decode_mask(data: bytes, name: str = "", max_pixels: float = 50_000_000) -> NDArray[np.bool_]:
    """Decodes a ground-truth mask, in any of the usual forms.

    Foreground is what lies above half of the largest value: 255 in 0/255 files, 1 in 0/1 files (of 8, 16 or 32 bits),
    but not the compression noise of a JPEG. Where pixels differ in transparency, as in a cut-out, their opacity counts
    and their colors do not.

    Args:
        data: content of the file, in one of the formats that ``decode_image`` takes.
        name: of the object, for messages.
        max_pixels: larger pictures are rejected, judged by their header.

    Returns:
        bool (height, width).

    Raises:
        ImageRejectedError: for the reasons of ``decode_image``.
    """
    opened = open_image(data, name)
    _check_size(opened, max_pixels)
    values = opened.deep_values()
    if values is None:
        opacity = open_image(data, name).opacity()
        varied = opacity is not None and opacity.getextrema()[0] != opacity.getextrema()[1]
        values = np.asarray(opacity if varied else open_image(data, name).decode().convert("L"))
    top = values.max()
    return np.asarray(values > top / 2) if top > 0 else np.zeros(values.shape, bool)


def decode_labels(data: bytes, name: str = "", max_pixels: float = 50_000_000) -> NDArray[np.uint16]:
    """Decodes a picture of class numbers: palette indices, or gray values of up to 16 bits.

    Args:
        data: content of a PNG or TIFF file.
        name: of the object, for messages.
        max_pixels: larger pictures are rejected, judged by their header.

    Returns:
        uint16 (height, width): the values as they are stored, never scaled.

    Raises:
        ImageRejectedError: the file is not such a picture.
    """
    opened = open_image(data, name)
    _check_size(opened, max_pixels)
    kinds = ("PNG", "TIFF")
    with rejecting(data, opened.kind, name):
        image = opened.header
        if opened.kind in kinds and image.mode in ("P", "L", "1", "I", "I;16", "I;16B", "I;16L"):
            # Pillow stretches gray values of 2 and 4 bits to 0 to 255; a palette's indices stay.
            stretched = {"L;2": 85, "L;4": 17}.get(_raw_mode(image), 1)
            image.load()
            values = np.asarray(image)
            if values.dtype != bool and (values.min() < 0 or values.max() > 65535):
                raise ImageRejectedError("unsupported_format", "A label map has values from 0 to 65535.")
            return values.astype(np.uint16) // np.uint16(stretched)
    raise ImageRejectedError(
        "unsupported_format",
        f"A label map is a PNG or TIFF with a palette or gray values; this is a {opened.kind} of the mode "
        f"{opened.header.mode}.",
    )


def _raw_mode(image: Image.Image) -> str:
    """How pixels are stored, in Pillow's words (``L;4``, ``RGB;16B``); empty where several parts differ."""
    found = {
        tile.args if isinstance(tile.args, str) else str(tile.args[0] if tile.args else "")
        for tile in getattr(image, "tile", ())
    }
    return found.pop() if len(found) == 1 else ""


def preview_jpeg(image: Image.Image, long_side: int = 512) -> bytes:
    """Returns an RGB image as a JPEG whose long side has at most ``long_side`` pixels; never enlarges."""
    scale = long_side / max(image.size)
    small = image
    if scale < 1:
        width, height = (max(1, round(side * scale)) for side in image.size)
        # A box filter does the large steps: a third of the time, without a visible difference.
        small = image.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=1.0)
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def _open(data: bytes, kind: str, name: str) -> Image.Image | None:
    """Reads the header if the first bytes are of this format.

    This is ``Image.open(file, formats=[kind])`` less its check of the size, which compares with a
    global setting: it would warn or raise on images that ``max_pixels`` allows.
    """
    if not accepts(kind, data, name):
        return None
    own = {"PNG": open_png, "TIFF": open_tiff}.get(kind)
    return own(data) if own else Image.OPEN[kind][0](io.BytesIO(data), "")


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ExifTag.Orientation, 1))
    except Exception:  # damaged metadata does not make the pixels unusable
        return 1
