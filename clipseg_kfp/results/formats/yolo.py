"""Ultralytics' YOLO format for segmentation: a text file of polygons an image, and a ``data.yaml``.

The rules (https://docs.ultralytics.com/datasets/segment/): a line an object, ``class x1 y1 x2 y2 …``, classes
from 0, coordinates divided by width and height, at least three points. An image's label file is found by its
path: the last ``/images/`` becomes ``/labels/``, the suffix ``.txt``.

Points lie in the border pixels and not on their edges, as the format's readers truncate them to whole pixels
and fill with ``cv2.fillPoly``, which fills the outline, too.
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
from clipseg_kfp.results.formats.rows import Categories, CategoryTable, Row, pixels, text_file, with_masks
from clipseg_kfp.results.formats.tables import CsvWriter

#: Suffixes that the format's readers take for images.
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

    Each 8-connected region of a mask is a line of its own, with its holes joined to the outline: in this format
    a line is an object, so regions are instances whether they were asked for or not. An image without masks
    has an empty file: it was searched, and nothing was found. Label files lie as the keys do:
    for ``a/b.jpg`` there is ``labels/a/b.txt``, and the image belongs at ``images/a/b.jpg``. Unsafe
    characters are encoded, and an image gets a digest behind its name where another one (``a/b.png``, another
    version, a name of other case) has that label file already; ``images.csv`` says for every image where it
    belongs. Names must not come twice, so it takes about 150 bytes an image to remember them.

    Args:
        target: a folder, or a file ``*.zip``.
        images: rows of ``records.IMAGES``; those of the quarantine are left out.
        masks: rows of ``records.MASKS`` in the same order of images.
        categories: ids and names; the class index is the place in this list.
        tolerance: how far polygons may deviate, in pixels, to save points; 0 is exact, with many points.

    Returns:
        The number of images.

    Raises:
        ParameterError: the target has an earlier export, there is no category, a mask's category is not in
            the list, or the tables do not fit each other.
    """
    if not categories:
        raise ParameterError("There is no category, and the format needs one.", "Give the run's prompts.")
    table = CategoryTable(categories)
    names = _Names()
    done = 0
    with _open(target) as place, tempfile.TemporaryDirectory() as folder:
        listing = Path(folder, IMAGES)
        with text_file(listing) as stream:
            rows = CsvWriter(stream, ("file", "label", *_LISTED))
            for image, found in with_masks(images, masks):
                file = names.of(image["key"], image["version"])
                lines = (line for row in found for line in label_lines(row, table.place(row), tolerance))
                place.add(label_path(file), "".join(lines))
                rows.write([file, label_path(file), *(image.get(name) for name in _LISTED)])
                done += 1
        place.add_file(IMAGES, listing)
        place.add(CONFIG, _config(table.names))
    return done


def label_lines(row: Row, category: int, tolerance: float) -> Iterator[str]:
    """The lines of a mask, one for each 8-connected region.

    Args:
        row: of ``records.MASKS``.
        category: class index, from 0.
        tolerance: how far polygons may deviate, in pixels.

    Yields:
        Lines with their line feed; no coordinate is outside of 0 to 1.
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
    """Places for images such that no two share a label file, nor differ in case only."""

    def __init__(self) -> None:
        self._taken: set[int] = set()

    def of(self, key: str, version: str) -> str:
        root, suffix = splitext(key)
        if suffix.lower() not in SUFFIXES:
            # Readers look at the suffix to find images, and at the content to decode them.
            root, suffix = key, ".jpg"
        *folders, name = safe_key(root).split("/")
        # A store may have "a.jpg" beside "a.jpg/b.jpg"; in a folder of files one name is not both.
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
            )
        yield _Folder(target)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(target.name + ".part")
    try:
        with zipfile.ZipFile(temporary, "w") as archive:
            yield _Zip(archive)
        temporary.replace(target)
    finally:  # after the rename there is nothing of that name
        temporary.unlink(missing_ok=True)
