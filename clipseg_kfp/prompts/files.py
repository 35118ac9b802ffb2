"""Reads what prompts refer to: support images and masks, vectors, calibrated thresholds."""

from __future__ import annotations

import difflib
import os
import posixpath
from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clipseg_kfp.errors import ObjectChangedError, ParameterError
from clipseg_kfp.images.formats import IMAGE_SUFFIXES, ImageRejectedError
from clipseg_kfp.images.guarded import decode_image, decode_mask
from clipseg_kfp.records.untrusted import UnreadableError, parse_document
from clipseg_kfp.storage import Folder, is_web, open_folder, open_object, split_object_uri, web_reference

MAX_BYTES = 100 << 20  # of a support image, a mask or a file of vectors
MAX_PIXELS = 50_000_000
#: Set in the container of a task by Kubeflow Pipelines and by Argo, and nowhere else.
POD_VARIABLES = ("KFP_POD_NAME", "KFP_POD_UID", "ARGO_CONTAINER_NAME", "ARGO_NODE_ID")
_CALIBRATED = 'Give JSON with {"thresholds": {"<prompt name>": 0.42}}.'


class Files:
    """The files that a prompt set refers to.

    Args:
        prompts_uri: where the prompt set was read; relative names start there. Empty for prompts from a
            parameter: relative names start at the working folder.
        endpoint: S3 endpoint URL.
    """

    def __init__(self, prompts_uri: str = "", endpoint: str = "") -> None:
        self._base = split_object_uri(prompts_uri)[0] if prompts_uri else ""
        self._endpoint = endpoint

    def locate(self, uri: str) -> str:
        """Makes a relative name absolute; leaves everything else.

        >>> Files("s3://bucket/sets/prompts.yaml").locate("../support/bolt.jpg")
        's3://bucket/support/bolt.jpg'

        Raises:
            ParameterError: it leaves the bucket, or a prompt file from the web names a file of this machine.
        """
        if is_web(self._base):
            return web_reference(f"{self._base}/", uri)
        if "://" in uri or uri.startswith(("/", "~")) or not self._base:
            return uri
        scheme, slashes, rest = self._base.rpartition("://")
        if not slashes:
            return posixpath.join(self._base, uri)
        root, _, folder = rest.partition("/")
        end = "/" if uri.endswith("/") else ""
        path = posixpath.normpath(posixpath.join(folder, quote(uri) if scheme.lower() == "file" else uri))
        if path == ".." or path.startswith("../"):
            raise unusable("uri_leaves_bucket", uri, f"leaves {scheme}://{root}.", "Give its full URI.")
        return f"{scheme}://{root}/{path}{end}"

    def folder(self, uri: str) -> Folder:
        """Opens a folder or prefix."""
        return open_folder(allowed_here(self.locate(uri)), self._endpoint)

    def open(self, uri: str) -> tuple[Folder, str]:
        """Opens an object's folder; returns it with the object's key."""
        return open_object(allowed_here(self.locate(uri)), self._endpoint)

    def read(self, uri: str, limit: int = MAX_BYTES) -> bytes:
        """Reads an object whole.

        Raises:
            ParameterError: there is none.
            StorageError: it has more bytes than ``limit``, or the store failed.
        """
        return _read(*self.open(uri), limit)


def allowed_here(uri: str) -> str:
    """Returns the URI, where prompts may read it.

    A pod's own files, such as mounted secrets, are not those of the person who names them, and what is read as a
    prompt becomes a name in published results: in a task of Kubeflow only stores are read.

    Raises:
        ParameterError: it is a file of a pod.
    """
    in_pod = any(os.environ.get(name) for name in POD_VARIABLES)
    if in_pod and not uri.lower().startswith(
        ("s3://", "https://", "http://")
    ):  # http has an error of its own
        remedy = "Put it into a bucket, and give its whole URI (s3://bucket/…)."
        raise unusable("file_of_pod", uri, "is a file of the pod, which prompts may not name.", remedy)
    return uri


def unusable(code: str, where: str, problem: str, remedy: str) -> ParameterError:
    """The error of a file or folder that cannot be used; the message names it first."""
    return ParameterError(f"{where} {problem}", remedy, code=code, where=where)


def no_images(place: str, remedy: str) -> ParameterError:
    """The error of a folder without images."""
    return ParameterError(f"There are no images in {place}.", remedy, code="support_empty", where=place)


def choices(name: str, names: list[str]) -> str:
    """A remedy for an unknown name."""
    close = difflib.get_close_matches(name, names, n=1)
    return f"Did you mean '{close[0]}'?" if close else f"There are: {listed(names)}."


def listed(names: Iterable[str]) -> str:
    """The first ten names, for a message."""
    shown = sorted(names)
    return ", ".join(shown[:10]) + (", …" if len(shown) > 10 else "")


def _read(folder: Folder, key: str, limit: int = MAX_BYTES) -> bytes:
    try:
        return folder.read(key, limit=limit)
    except ObjectChangedError as error:  # nothing was listed before: there is none
        raise missing(folder, key) from error


def missing(folder: Folder, key: str) -> ParameterError:
    """The error of a file that does not exist."""
    return unusable("file_missing", folder.locate(key), "does not exist.", "Check the URI.")


def _is_shown(key: PurePosixPath) -> bool:
    """Whether a key is an image's; hidden ones are copies that editors and systems leave behind."""
    return key.suffix.lower() in IMAGE_SUFFIXES and not any(part.startswith(".") for part in key.parts)


def support_pairs(folder: Folder) -> list[tuple[str, str | None]]:
    """Lists the support images of a folder, each with its mask.

    Images lie in ``images/``, or where there is no such folder anywhere but in ``masks/``. Where there is a
    folder ``masks/``, each image needs a mask there: the same name below it, with the ending of any image.

    Returns:
        Keys of images and masks, sorted.

    Raises:
        ParameterError: no images, or one without its mask.
    """
    keys = [e.key for e in folder.entries() if _is_shown(PurePosixPath(e.key))]
    masks = {_stem(key, "masks/"): key for key in sorted(keys) if key.startswith("masks/")}
    inside = "images/" if any(key.startswith("images/") for key in keys) else ""
    images = sorted(key for key in keys if key.startswith(inside) and not key.startswith("masks/"))
    if not images:
        raise no_images(folder.uri, "Put some there, below images/.")
    pairs: list[tuple[str, str | None]] = []
    for key in images:
        mask = masks.get(_stem(key, inside))
        if masks and mask is None:
            remedy = f"Add masks/{_stem(key, inside)}.png, or remove it."
            raise unusable("support_without_mask", folder.locate(key), "has no mask.", remedy)
        pairs.append((key, mask))
    return pairs


def _stem(key: str, prefix: str) -> str:
    return key.removeprefix(prefix).rpartition(".")[0]


def picture(data: bytes, name: str) -> Image.Image:
    """Decodes a support image; raises ``ParameterError`` with its name where that cannot be done."""
    try:
        return decode_image(data, name, MAX_PIXELS)
    except ImageRejectedError as error:
        raise _rejected(name, "a support image", error) from error


def _rejected(name: str, what: str, error: ImageRejectedError) -> ParameterError:
    problem = f"cannot be used as {what}. {error.detail}"
    return unusable(f"image_{error.code}", name, problem, "Replace it with a sound JPEG or PNG.")


def mask_like(data: bytes, name: str, image: Image.Image) -> NDArray[np.bool_]:
    """Decodes a mask; raises ``ParameterError`` unless it marks a part of an image of its size."""
    try:
        mask = decode_mask(data, name)
    except ImageRejectedError as error:
        raise _rejected(name, "a mask", error) from error
    if mask.shape != (image.height, image.width):
        sides = f"{mask.shape[1]} x {mask.shape[0]} pixels, its image {image.width} x {image.height}"
        raise unusable("mask_size", name, f"has {sides}.", "Give a mask of the upright image's size.")
    if not mask.any():
        remedy = "Paint the thing brighter than half of the mask's largest value."
        raise unusable("mask_empty", name, "marks nothing.", remedy)
    return mask


def calibrated_threshold(data: bytes, uri: str, name: str) -> float:
    """Reads one threshold of ``{"thresholds": {"<prompt name>": 0.42}}``.

    Raises:
        ParameterError: another format, no threshold of that name, or one that is not between 0 and 1.
    """
    try:
        value = parse_document(data)
    except UnreadableError as error:
        raise unusable("calibration_format", uri, f"is not JSON: {error}.", _CALIBRATED) from None
    thresholds = value.get("thresholds") if isinstance(value, dict) else None
    if not isinstance(thresholds, dict):
        raise unusable("calibration_format", uri, "has no thresholds.", _CALIBRATED)
    if name not in thresholds:
        remedy = choices(name, list(thresholds))
        raise unusable("calibration_unknown_name", uri, f"has no threshold for '{name}'.", remedy)
    number = thresholds[name]
    if isinstance(number, bool) or not isinstance(number, int | float) or not 0 < number < 1:
        problem = f"has the threshold {number!r} for '{name}', which is not between 0 and 1."
        raise unusable("calibration_out_of_range", uri, problem, _CALIBRATED)
    return float(number)


def pictures_in(folder: Folder, limit: int) -> Iterator[tuple[str, bytes, str | None, bytes | None]]:
    """Yields names and contents of a folder's support images and masks.

    Raises:
        ParameterError: as ``support_pairs``; or more than ``limit`` images.
    """
    pairs = support_pairs(folder)
    if len(pairs) > limit:
        problem = f"has {len(pairs):,} images; {limit} are allowed."
        raise unusable("support_images_too_many", folder.uri, problem, "Choose the most typical ones.")
    for image, mask in pairs:
        yield (
            folder.locate(image),
            _read(folder, image),
            folder.locate(mask) if mask else None,
            _read(folder, mask) if mask else None,
        )
