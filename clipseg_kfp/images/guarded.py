"""Decodes untrusted images in workers: a crash or a hang there is a rejection like any other damage."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clipseg_kfp.errors import ParameterError
from clipseg_kfp.images import decode
from clipseg_kfp.images.decode import ImageRejectedError
from clipseg_kfp.runtime.worker_main import memory_limited
from clipseg_kfp.runtime.workers import WorkerEndedError, WorkerTimeoutError, shared

R = TypeVar("R")

#: The environment variable for the seconds that an image may take, ``SECONDS`` by default. Where images of more
#: than ``SECONDS_PIXELS`` pixels are allowed, the time grows in proportion.
SECONDS_VARIABLE = "CLIPSEG_KFP_DECODE_SECONDS"
SECONDS, SECONDS_PIXELS = 60.0, 50_000_000
HEADER_BYTES = 250_000_000  # Pillow's readers may unpack up to 64 MB of text and 1 MB of each profile


def guarded(function: Callable[..., R], *arguments: Any, max_pixels: float = SECONDS_PIXELS) -> R:
    """Runs a function that decodes one image in a worker.

    Args:
        function: of a module; what it takes, returns and raises can be pickled.
        arguments: of the function.
        max_pixels: the most pixels of an image; decides the time limit.

    Raises:
        ImageRejectedError: ``crashed`` or ``timeout``, or what the function raised.
        ParameterError: the environment's time limit is not a positive number.
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
    """``decode.decode_image`` in a worker; also rejects as ``crashed`` and ``timeout``."""
    arguments = (decode.decode_image, max_pixels, data, name, max_pixels)
    shape, values = guarded(_decode, *arguments, max_pixels=max_pixels)
    return Image.frombytes("RGB", (shape[1], shape[0]), values)


def decode_mask(data: bytes, name: str = "", max_pixels: float = SECONDS_PIXELS) -> NDArray[np.bool_]:
    """``decode.decode_mask`` in a worker; also rejects as ``crashed`` and ``timeout``."""
    shape, values = guarded(
        _decode, decode.decode_mask, max_pixels, data, name, max_pixels, max_pixels=max_pixels
    )
    return np.frombuffer(values, np.bool_).reshape(shape).copy()


def decode_labels(data: bytes, name: str = "", max_pixels: float = SECONDS_PIXELS) -> NDArray[np.uint16]:
    """``decode.decode_labels`` in a worker; also rejects as ``crashed`` and ``timeout``."""
    shape, values = guarded(
        _decode, decode.decode_labels, max_pixels, data, name, max_pixels, max_pixels=max_pixels
    )
    return np.frombuffer(values, np.uint16).reshape(shape)


def _decode(
    function: Callable[..., Any], max_pixels: float, *arguments: Any
) -> tuple[tuple[int, ...], bytes]:
    with memory_limited(HEADER_BYTES + int(decode.MAX_BYTES_PER_PIXEL * max_pixels)):
        array = np.asarray(function(*arguments))
        return array.shape, array.tobytes()


def _seconds() -> float:
    text = os.environ.get(SECONDS_VARIABLE, "")
    try:
        seconds = float(text) if text else SECONDS
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        remedy = "Give a positive number of seconds."
        message = f"{SECONDS_VARIABLE} is '{text}'."
        raise ParameterError(message, remedy, code="setting_invalid", where=SECONDS_VARIABLE)
    return seconds
