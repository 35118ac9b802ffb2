"""Ultralytics' YOLO format for segmentation: a text file of polygons per image, and a ``data.yaml``.

The rules (https://docs.ultralytics.com/datasets/segment/): one line per object, ``class x1 y1 x2 y2 …``, classes from
0, coordinates divided by width and height, at least three points. An image's label file is found by its path: the
last ``/images/`` becomes ``/labels/``, the suffix ``.txt``.

Points lie inside the border pixels, because the format's readers truncate them to whole pixels and fill them with
``cv2.fillPoly``, which fills the outline, too.
"""

from __future__ import annotations

import shutil
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from posixpath import splitext

import yaml

from clipseg_kfp.errors import ParameterError
from clipseg_kfp.naming import digest, safe_key
from clipseg_kfp.results.formats.polygons import polygons
from clipseg_kfp.results.formats.rows import (
    Categories,
    CategoryTable,
    Row,
    pixels,
    replacing,
    require_categories,
    text_file,
    with_masks,
)
from clipseg_kfp.results.formats.tables import CsvWriter

#: Suffixes that the format's readers accept for images.
SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})

IMAGES, CONFIG = "images.csv", "data.yaml"
_LISTED = ("key", "version", "uri", "width", "height")
_HEAD = """\
# Put every image where images.csv says: column "file", relative to this file.
# The format wants images to validate with: split off your own, and name them under "val".
"""


def export_yolo(
    target: Path,
    images: Iterable[Row],
    masks: Iterable[Row],
    categories: Categories,
    *,
    tolerance: float = 1.0,
) -> int:
    """Writes a data set for Ultralytics' YOLO: label files, ``data.yaml``, and ``images.csv``.

    Each 8-connected region of a mask is a line, with its holes joined to the outline: in this format a line is an
    object, so regions are always instances. An image without masks has an empty file. Label files are named after
    keys: ``a/b.jpg`` has ``labels/a/b.txt``, and the image belongs at ``images/a/b.jpg``. Unsafe characters are
    encoded. Where another image (``a/b.png``, another version, a name in other case) has that label file already,
    a digest is added to the name; ``images.csv`` tells where every image belongs. Names are kept to be unique, which
    takes about 150 bytes per image.

    Args:
        target: a folder, or a file ``*.zip``.
        images: rows of ``records.IMAGES``; quarantined ones are left out.
        masks: rows of ``records.MASKS`` in the same order of images.
        categories: ids and names; the class index is the position in this list.
        tolerance: how far polygons may deviate, in pixels, to save points; 0 is exact, with many points.

    Returns:
        The number of images.

    Raises:
        ParameterError: the target has an earlier export, there is no category, a mask's category is not in
            the list, or the tables do not match.
    """
    require_categories(categories)
    table = CategoryTable(categories)
    names = _Names()
    count = 0
    with _open(target) as output, tempfile.TemporaryDirectory() as folder:
        listing = Path(folder, IMAGES)
        with text_file(listing) as stream:
            rows = CsvWriter(stream, ("file", "label", *_LISTED))
            for image, mask_rows in with_masks(images, masks):
                file = names.of(image["key"], image["version"])
                lines = (line for row in mask_rows for line in label_lines(row, table.index(row), tolerance))
                output.add(label_path(file), "".join(lines))
                rows.write([file, label_path(file), *(image.get(name) for name in _LISTED)])
                count += 1
        output.add_file(IMAGES, listing)
        output.add(CONFIG, _config(table.names))
    return count


def label_lines(row: Row, category: int, tolerance: float) -> Iterator[str]:
    """The lines of a mask, one per 8-connected region.

    Args:
        row: of ``records.MASKS``.
        category: class index, from 0.
        tolerance: how far polygons may deviate, in pixels.

    Yields:
        Lines with their line feed; all coordinates are in 0 to 1.
    """
    size = (row["width"], row["height"])
    for points in polygons(pixels(row), tolerance=tolerance, inset=True):
        numbers = " ".join(f"{value:.6f}" for value in (points / size).ravel().tolist())
        yield f"{category} {numbers}\n"


def label_path(image: str) -> str:
    """Where the format's readers look for the labels of an image below the data set's root."""
    return "/labels/".join(f"/{image}".rsplit("/images/", 1)).rsplit(".", 1)[0][1:] + ".txt"


def _config(names: list[str]) -> str:
    body = {"train": "images", "val": "images", "names": dict(enumerate(names))}
    return _HEAD + yaml.safe_dump(body, allow_unicode=True, sort_keys=False, width=1000)


def _looks_like_file(segment: str) -> bool:
    return splitext(segment)[1].lower() in SUFFIXES | {".txt"}


class _Names:
    """Names for images such that no two share a label file or differ in case only."""

    def __init__(self) -> None:
        self._taken: set[int] = set()

    def of(self, key: str, version: str) -> str:
        root, suffix = splitext(key)
        if suffix.lower() not in SUFFIXES:
            # Readers look at the suffix to find images, and at the content to decode them.
            root, suffix = key, ".jpg"
        *folders, name = safe_key(root).split("/")
        # A store may have "a.jpg" beside "a.jpg/b.jpg"; in a file system one name cannot be both.
        root = "/".join([*(f"{part}~" if _looks_like_file(part) else part for part in folders), name])
        attempt = 0
        while True:
            mark = f"-{digest([key, version, attempt], 12)}" if attempt else ""
            image = f"images/{root}{mark}{suffix}"
            label = int(digest(label_path(image).lower()), 16)
            if label not in self._taken:
                self._taken.add(label)
                return image
            attempt += 1


class _Folder:
    """A data set as a folder."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def add(self, name: str, text: str) -> None:
        with text_file(self._root / name) as stream:
            stream.write(text)

    def add_file(self, name: str, path: Path) -> None:
        self._root.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, self._root / name)


class _Zip:
    """A data set as an archive; members have a fixed date, so the same masks give the same bytes."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive

    def add(self, name: str, text: str) -> None:
        self._archive.writestr(self._member(name), text.encode("utf-8", "backslashreplace"))

    def add_file(self, name: str, path: Path) -> None:
        with path.open("rb") as source, self._archive.open(self._member(name), "w") as sink:
            shutil.copyfileobj(source, sink)

    def _member(self, name: str) -> zipfile.ZipInfo:
        member = zipfile.ZipInfo(name)
        member.compress_type = zipfile.ZIP_DEFLATED
        member.external_attr = 0o644 << 16
        return member


@contextmanager
def _open(target: Path) -> Iterator[_Folder | _Zip]:
    if target.suffix.lower() != ".zip":
        old = [name for name in ("labels", IMAGES, CONFIG) if (target / name).exists()]
        if old:
            raise ParameterError(
                f"{target} has '{old[0]}' of an earlier export.",
                "Name a new folder, or remove the old export.",
                code="export_target_used",
                where=str(target),
            )
        yield _Folder(target)
        return
    with replacing(target) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        yield _Zip(archive)
