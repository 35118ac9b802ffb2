"""From a URI to ground truth: what format it has, and where it lies."""

from __future__ import annotations

from typing import get_args

from clipseg_kfp.errors import ParameterError
from clipseg_kfp.options import GroundTruth as Options
from clipseg_kfp.storage import Folder, open_folder, open_object, plain_path
from clipseg_kfp.truth.annotations import Coco, PhraseCut
from clipseg_kfp.truth.match import TruthIndex
from clipseg_kfp.truth.pictures import TABLES, MaskFolders, is_table, voc, with_table
from clipseg_kfp.truth.shapes import MAX_PIXELS
from clipseg_kfp.truth.stream import JsonFile

FORMATS: tuple[str, ...] = get_args(Options.model_fields["format"].annotation)
_VOC = "SegmentationClass"


def open_truth(
    uri: str, kind: str = "auto", endpoint: str = "", max_pixels: float = MAX_PIXELS
) -> TruthIndex:
    """Opens ground truth.

    Args:
        uri: a COCO or PhraseCut file (``.json``), a table of classes beside its label maps (``classes.json`` or
            ``classes.csv``), or a folder or prefix: of mask folders, of label maps with such a table, or with
            Pascal VOC's ``SegmentationClass``.
        kind: one of ``FORMATS``; ``auto`` looks.
        endpoint: S3 endpoint URL.
        max_pixels: of an image; where an annotation file tells of a larger one, it is not evaluated.

    Raises:
        ParameterError: an unknown format, or content of another.
        StorageError: it cannot be read.
    """
    if kind not in FORMATS:
        raise ParameterError(
            f"ground_truth.format is '{kind}'.",
            f"Take one of {', '.join(FORMATS)}.",
            code="truth_format_unknown",
            where="ground_truth.format",
        )
    if plain_path(uri).lower().endswith((".json", ".csv")):
        folder, name = open_object(uri, endpoint)
        if kind == "labels" or (kind == "auto" and plain_path(uri).lower().endswith(".csv")):
            return with_table(folder, name)
        return _file(folder, name, kind, max_pixels)
    folder = open_folder(uri, endpoint)
    if kind in ("auto", "voc"):
        is_voc = uri.rstrip("/").endswith(_VOC)
        inner = None if is_voc else next(iter(folder.entries(f"{_VOC}/")), None)
        if kind == "voc" or inner or is_voc:
            return voc(folder.child(_VOC) if inner else folder)
    tables = [name for name in TABLES if kind in ("auto", "labels") and folder.stat(name) is not None]
    if tables:
        return with_table(folder, tables[0])
    if kind in ("labels", "coco", "phrasecut"):
        needed = (
            "a table of classes (classes.json) beside the label maps" if kind == "labels" else "a JSON file"
        )
        raise ParameterError(
            f"ground_truth.format {kind} needs {needed}; there is none under {uri}.",
            "Give its URI.",
            code="truth_other_format",
            where=uri,
        )
    return MaskFolders(folder)


def _file(folder: Folder, name: str, kind: str, max_pixels: float) -> TruthIndex:
    file = JsonFile.of(folder, name)
    begins = file.begins
    if begins == "{" and kind in ("auto", "coco"):
        if kind == "auto" and is_table(file):
            return with_table(folder, name)
        return Coco(file, max_pixels)
    if begins == "[" and kind in ("auto", "phrasecut"):
        return PhraseCut(file)
    for _ in file.elements():  # what is not JSON at all is called so
        pass
    raise ParameterError(
        f"{file.uri} is not ground truth of the format {kind}.",
        "COCO's is an object with images, annotations and categories, PhraseCut's a list of tasks.",
        code="truth_other_format",
        where=file.uri,
    )
