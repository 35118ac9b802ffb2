"""From a URI to ground truth: what kind it is, and where it lies."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from clipseg_kfp.dataset.ground_truth import GroundTruth
from clipseg_kfp.errors import ParameterError
from clipseg_kfp.storage import Folder, open_folder, open_object
from clipseg_kfp.truth.annotations import Coco, PhraseCut
from clipseg_kfp.truth.match import ByImage
from clipseg_kfp.truth.pictures import TABLES, MaskFolders, voc, with_table

FORMATS = ("auto", "masks", "labels", "voc", "coco", "phrasecut")
MAX_FILE_BYTES = 128 << 20  # JSON takes several times its size in memory
_VOC = "SegmentationClass"


class TruthIndex(Protocol):
    """Ground truth of a data set, by image."""

    @property
    def images(self) -> ByImage[Any]:
        """What it knows of, by name."""
        ...

    @property
    def classes(self) -> list[str]:
        """Names of all classes."""
        ...

    @property
    def place(self) -> str:
        """Where its pictures lie: they are no images to segment. Empty for a file that has all in it."""
        ...

    @property
    def left_out(self) -> list[str]:
        """Remarks on what is there and cannot be used."""
        ...

    def of(self, key: str, wanted: Sequence[str]) -> Iterator[GroundTruth]:
        """Yields the ground truth of an image; each names its class in place of a prompt.

        Args:
            key: of the image.
            wanted: classes that are looked for; of others, none is said to be missing in an image.

        Raises:
            ParameterError: the same ground truth belongs to two images.
        """
        ...


def open_truth(uri: str, kind: str = "auto", endpoint: str = "") -> TruthIndex:
    """Opens ground truth.

    Args:
        uri: a COCO or PhraseCut file (``.json``), a table of classes beside its label maps (``classes.json`` or
            ``classes.csv``), or a folder or prefix: of mask folders, of label maps with such a table, or with
            Pascal VOC's ``SegmentationClass``.
        kind: one of ``FORMATS``; ``auto`` looks.
        endpoint: S3 endpoint URL.

    Raises:
        ParameterError: an unknown kind, or content of another.
        StorageError: it cannot be read.
    """
    if kind not in FORMATS:
        raise ParameterError(f"ground_truth_format is '{kind}'.", f"Take one of {', '.join(FORMATS)}.")
    if uri.lower().endswith((".json", ".csv")):
        folder, name = open_object(uri, endpoint)
        if kind == "labels" or (kind == "auto" and name.lower().endswith(".csv")):
            return with_table(folder, name)
        return _file(folder, name, kind)
    folder = open_folder(uri, endpoint)
    if kind in ("auto", "voc"):
        inner = None if uri.rstrip("/").endswith(_VOC) else next(iter(folder.entries(f"{_VOC}/")), None)
        if kind == "voc" or inner or uri.rstrip("/").endswith(_VOC):
            return voc(folder.child(_VOC) if inner else folder)
    tables = [name for name in TABLES if kind in ("auto", "labels") and folder.stat(name) is not None]
    if tables:
        return with_table(folder, tables[0])
    if kind in ("labels", "coco", "phrasecut"):
        wanted = (
            "a table of classes (classes.json) beside the label maps" if kind == "labels" else "a JSON file"
        )
        raise ParameterError(f"ground_truth_format {kind} needs {wanted}; {uri} has none.", "Give its URI.")
    return MaskFolders(folder)


def _file(folder: Folder, name: str, kind: str) -> TruthIndex:
    uri = folder.locate(name)
    try:
        value = json.loads(folder.read(name, limit=MAX_FILE_BYTES))
    except ValueError as error:
        raise ParameterError(f"{uri} is not JSON: {error}.") from error
    if kind == "auto" and isinstance(value, dict) and "classes" in value and "annotations" not in value:
        return with_table(folder, name)
    if kind in ("auto", "coco") and isinstance(value, dict):
        return Coco(value, uri)
    if kind in ("auto", "phrasecut") and isinstance(value, list):
        return PhraseCut(value, uri)
    raise ParameterError(
        f"{uri} is none of the files with ground truth that are read{f' as {kind}' if kind != 'auto' else ''}.",
        "COCO's is an object with images, annotations and categories, PhraseCut's a list of tasks.",
    )
