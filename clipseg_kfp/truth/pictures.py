"""Ground truth as one picture per image, or per image and class: label maps, Pascal VOC, mask folders."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from clipseg_kfp.dataset.ground_truth import GroundTruth
from clipseg_kfp.errors import ParameterError
from clipseg_kfp.images.formats import IMAGE_SUFFIXES
from clipseg_kfp.naming import spell_out
from clipseg_kfp.records.untrusted import MAX_DOCUMENT_BYTES, csv_rows, parse_document
from clipseg_kfp.storage import Folder
from clipseg_kfp.truth.match import ByImage, TruthIndex
from clipseg_kfp.truth.stream import JsonFile

#: Pascal VOC's classes from 1 (0 is the background); 255 are outlines and what is too hard to tell.
VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
VOC_IGNORED = (255,)
TABLES = ("classes.json", "classes.csv")
MAX_VALUE = 65535  # of a label map


class LabelMaps(TruthIndex):
    """A picture of class numbers per image, with the image's name.

    Args:
        folder: with the pictures.
        table: class by number.
        ignored: numbers of pixels that are left out of all counts.
    """

    def __init__(self, folder: Folder, table: dict[int, str], ignored: Sequence[int] = ()) -> None:
        self._folder, self._ignored = folder, ignored
        self.place = folder.locate("").rstrip("/") + "/"
        self._values: dict[str, list[int]] = {}
        for value, name in table.items():
            self._values.setdefault(name, []).append(value)
        self.classes = list(self._values)
        self.images = ByImage({key: key for key in _pictures(folder)}, False, folder.uri)

    def of(self, key: str, classes: Sequence[str]) -> Iterator[GroundTruth]:
        """As for every index: all classes of the table."""
        picture = self.images.find(key)
        if picture is None:
            return
        for name, values in self._values.items():
            yield GroundTruth.of_labels(name, self._folder.locate(picture), values, self._ignored)


class MaskFolders(TruthIndex):
    """A folder per class, with a black and white picture per image: ``<class>/<name>.png``.

    Args:
        folder: with the folders.

    Raises:
        ParameterError: there are no such folders.
    """

    def __init__(self, folder: Folder) -> None:
        by_stem: dict[str, dict[str, str]] = {}
        for key in _pictures(folder):
            name, slash, rest = key.partition("/")
            if slash:
                by_stem.setdefault(rest.rpartition(".")[0], {})[spell_out(name)] = key
        if not by_stem:
            raise ParameterError(
                f"There is no ground truth under {folder.uri}.",
                "It takes <class>/<image's name>.png; or label maps with a classes.json, a COCO or PhraseCut "
                "file, or Pascal VOC's SegmentationClass.",
                code="truth_empty",
                where=folder.uri,
            )
        self._folder = folder
        self.place = folder.locate("").rstrip("/") + "/"
        self.images = ByImage({f"{stem}.png": masks for stem, masks in by_stem.items()}, False, folder.uri)
        self.classes = sorted({name for masks in by_stem.values() for name in masks})

    def of(self, key: str, classes: Sequence[str]) -> Iterator[GroundTruth]:
        """As for every index: the classes that have a picture of the image."""
        for name, mask in (self.images.find(key) or {}).items():
            yield GroundTruth(name, self._folder.locate(mask))


def voc(folder: Folder) -> LabelMaps:
    """Pascal VOC's ``SegmentationClass``: pictures with a palette, in which 255 is ignored."""
    return LabelMaps(folder, dict(enumerate(VOC_CLASSES, start=1)), VOC_IGNORED)


def with_table(folder: Folder, name: str) -> LabelMaps:
    """Label maps beside a table of their classes.

    The table is JSON, ``{"classes": {"1": "cat", "2": "dog"}, "ignored": [255]}`` (or a list of names from 0),
    or CSV with the columns ``value`` and ``name``, where values without a name are ignored.

    Raises:
        ParameterError: another form.
    """
    uri, data = folder.locate(name), folder.read(name, limit=MAX_DOCUMENT_BYTES)
    try:
        if name.lower().endswith(".csv"):
            head, *rows = csv_rows(data, ("value", "name"), MAX_VALUE + 1)
            number, text = (head.index(column) for column in ("value", "name"))
            names = {int(row[number]): row[text].strip() for row in rows}
            table = {value: text for value, text in names.items() if text}
            ignored = [value for value, text in names.items() if not text]
        else:
            value: dict[str, Any] = parse_document(data)
            classes = value["classes"]
            pairs = enumerate(classes) if isinstance(classes, list) else classes.items()
            table = {int(number): str(text) for number, text in pairs}
            ignored = [int(number) for number in value.get("ignored", ())]
        if not all(0 <= number <= MAX_VALUE for number in (*table, *ignored)):
            raise ValueError(f"class numbers are from 0 to {MAX_VALUE:,}")
    except (
        ValueError,
        KeyError,
        IndexError,
        TypeError,
        AttributeError,
        ArithmeticError,
    ) as error:
        raise ParameterError(
            f"{uri} is not a table of classes: {type(error).__name__} {error}.",
            'Write {"classes": {"1": "cat"}, "ignored": [255]}, or CSV with the columns value and name.',
            code="truth_not_a_table",
            where=uri,
        ) from error
    return LabelMaps(folder, table, ignored)


def is_table(file: JsonFile) -> bool:
    """Whether a JSON object is a table of classes, and not annotations."""
    if file.size > MAX_DOCUMENT_BYTES:
        return False
    members = {element.member for element in file.elements()}
    return "classes" in members and "annotations" not in members


def _pictures(folder: Folder) -> Iterator[str]:
    for entry in folder.entries():
        if entry.key[entry.key.rfind(".") :].lower() in IMAGE_SUFFIXES:
            yield entry.key
