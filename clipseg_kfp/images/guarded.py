"""Decodes untrusted images in workers: what crashes or hangs there is rejected like any other damage."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import (  # of the formats that are read: now, and not within the time of a worker's first image
    BmpImagePlugin,  # noqa: F401
    GifImagePlugin,  # noqa: F401
    Image,
    JpegImagePlugin,  # noqa: F401
    PngImagePlugin,  # noqa: F401
    TiffImagePlugin,  # noqa: F401
    WebPImagePlugin,  # noqa: F401
)

from clipseg_kfp.errors import ParameterError
from clipseg_kfp.images import decode as images
from clipseg_kfp.images.decode import ImageRejectedError
from clipseg_kfp.runtime.worker_main import memory_limited
from clipseg_kfp.runtime.workers import WorkerEndedError, WorkerTimeoutError, shared

R = TypeVar("R")

#: Names the environment variable that says how many seconds an image may take, ``SECONDS`` without it. Where
#: images of more than ``SECONDS_PIXELS`` are allowed, they may take longer in proportion.
SECONDS_VARIABLE = "CLIPSEG_KFP_DECODE_SECONDS"
SECONDS, SECONDS_PIXELS = 60.0, 50_000_000
HEADER_BYTES = 250_000_000  # Pillow's readers may unpack up to 64 MB of text and 1 MB of each profile


def guarded(function: Callable[..., R], *arguments: Any, max_pixels: float = SECONDS_PIXELS) -> R:
    """Runs a function that decodes one image in a worker.

    Args:
        function: a module's; what it takes, returns and raises can be pickled.
        arguments: of the function.
        max_pixels: that an image may have; decides the time limit.

    Raises:
        ImageRejectedError: ``crashed`` or ``timeout``; or what the function raised.
        ParameterError: the environment's time limit is no positive number.
    """
    seconds = _seconds() * max(1.0, max_pixels / SECONDS_PIXELS)
    try:
        return shared().call(function, *arguments, seconds=seconds)
    except WorkerTimeoutError as error:
        raise ImageRejectedError(
            "timeout", f"Decoding took longer than {seconds:g} s; {SECONDS_VARIABLE} sets the limit."
        ) from error
    except WorkerEndedError as error:
        why = "Its decoder crashed" + (f" ({error.signal_name})" if error.signal_name else "")
        short = error.signal_name == "SIGKILL"
        hint = ", as when a system short of memory ends it: give the step more memory" if short else ""
        raise ImageRejectedError("crashed", f"{why}{hint}.") from error


def decode_image(data: bytes, name: str = "", max_pixels: int = 50_000_000) -> Image.Image:
    """``images.decode_image`` in a worker.

    Raises:
        ImageRejectedError: for whatever is wrong with the bytes, ``crashed`` and ``timeout`` included.
    """
    size, pixels = guarded(_decode_image, data, name, max_pixels, max_pixels=max_pixels)
    return Image.frombytes("RGB", size, pixels)


def decode_mask(data: bytes, name: str = "") -> NDArray[np.bool_]:
    """``images.decode_mask`` in a worker.

    Raises:
        ImageRejectedError: for whatever is wrong with the bytes, ``crashed`` and ``timeout`` included.
    """
    (height, width), packed = guarded(_decode_mask, data, name)
    bits = np.unpackbits(np.frombuffer(packed, np.uint8), count=height * width)
    return bits.view(np.bool_).reshape(height, width)


def decode_labels(data: bytes, name: str = "") -> NDArray[np.uint16]:
    """``images.decode_labels`` in a worker.

    Raises:
        ImageRejectedError: for whatever is wrong with the bytes, ``crashed`` and ``timeout`` included.
    """
    (height, width), labels = guarded(_decode_labels, data, name)
    return np.frombuffer(labels, np.uint16).reshape(height, width)


def _decode_image(data: bytes, name: str, max_pixels: int) -> tuple[tuple[int, int], bytes]:
    with memory_limited(HEADER_BYTES + images.MOST_BYTES_A_PIXEL * max_pixels):
        image = images.decode_image(data, name, max_pixels)
        return image.size, image.tobytes()


def _decode_labels(data: bytes, name: str) -> tuple[tuple[int, int], bytes]:
    with memory_limited(HEADER_BYTES + images.MOST_BYTES_A_PIXEL * SECONDS_PIXELS):
        labels = images.decode_labels(data, name)
        return (labels.shape[0], labels.shape[1]), labels.tobytes()


def _decode_mask(data: bytes, name: str) -> tuple[tuple[int, int], bytes]:
    with memory_limited(HEADER_BYTES + images.MOST_BYTES_A_PIXEL * SECONDS_PIXELS):
        mask = images.decode_mask(data, name)
        return (mask.shape[0], mask.shape[1]), np.packbits(mask).tobytes()


def _seconds() -> float:
    text = os.environ.get(SECONDS_VARIABLE, "")
    try:
        seconds = float(text) if text else SECONDS
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise ParameterError(f"{SECONDS_VARIABLE} is '{text}'.", "Give a positive number of seconds.")
    return seconds
