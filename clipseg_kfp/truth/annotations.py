"""Ground truth of all images in one JSON file: COCO and PhraseCut.

The file stays on the disk, and memory holds where its elements are. What is wrong with one annotation is counted and
named, and makes its class not evaluated in its image; it costs nothing else.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipseg_kfp.dataset.ground_truth import GroundTruth
from clipseg_kfp.errors import ParameterError
from clipseg_kfp.truth.match import ByImage, TruthIndex, fold
from clipseg_kfp.truth.shapes import MAX_PIXELS, ShapeError, parse, size_of
from clipseg_kfp.truth.stream import Element, JsonFile

MAX_IMAGE_BYTES = 16 << 20  # of one class's annotations in one image
MAX_IMAGES = 2_000_000  # about 600 bytes of memory each
MAX_ANNOTATIONS = 10_000_000  # about 45 bytes each
MAX_NAME = 4096  # characters; keys of object stores have up to 1,024 bytes
NAMED = 10  # problems that the log names
_SHAPE, _BOX, _BAD, _NO_CATEGORY, _LOST = range(5)  # what an annotation is good for
_NONE = -(1 << 63)  # in place of an id
_LISTS = ("images", "annotations", "categories")


class _WrongElementError(Exception):
    """An element of a file that lacks what it needs."""


class _Problems:
    """Counts what cannot be used, and remembers the first."""

    def __init__(self) -> None:
        self.count = 0
        self.first: list[str] = []

    def add(self, place: str, what: object) -> None:
        self.count += 1
        if len(self.first) < NAMED:
            self.first.append(f"{place}: {what}")

    def remarks(self, uri: str) -> list[str]:
        if not self.count:
            return []
        more = self.count - len(self.first)
        named = "; ".join(self.first) + (f"; and {more:,} more" if more else "")
        return [
            f"{uri}: {self.count:,} entries cannot be used, and what they are of is not evaluated. {named}"
        ]


@dataclass(frozen=True)
class _Image:
    """Where an image's element is."""

    id: int
    number: int
    start: int
    end: int


@dataclass
class _Class:
    """What a file says of one class in one image."""

    numbers: list[int]
    unknown: bool = False
    bad: int | None = None


class Coco(TruthIndex):
    """COCO's object annotations (https://cocodataset.org/#format-data), and LVIS's.

    All instances of a category in an image are one mask, crowds included; categories of one name are one class. COCO
    annotates every image for every category, so an image without annotations of a category does not show it. In LVIS
    that holds only for ``neg_category_ids``; categories of ``not_exhaustive_category_ids`` have instances that nobody
    drew, so they are unknown; and images are named by ``coco_url``. An annotation with a box and no shape makes its
    category unknown in its image: it does not tell which pixels are the thing. One that cannot be used makes it
    ``unusable`` there, and so does an image of an impossible size with all of its classes.

    Args:
        file: with the annotations.
        max_pixels: of an image.

    Raises:
        ParameterError: a part is missing, two images are called the same, or no annotation refers to what is there.
    """

    def __init__(self, file: JsonFile, max_pixels: float = MAX_PIXELS) -> None:
        self._file, self._max_pixels, self._uri = file, max_pixels, file.uri
        self._categories: dict[int, str] = {}
        self._problems = _Problems()
        self._numbers: dict[str, array[int]] = {
            name: array(kind)
            for name, kind in {
                "image": "q",
                "category": "q",
                "start": "q",
                "length": "i",
                "state": "b",
            }.items()
        }
        ids: set[int] = set()
        named: dict[str, _Image] = {}
        good = 0
        for element in self._entries():
            try:
                if element.member == "images":
                    image = _Image(_id(element, "id"), element.number, element.start, element.end)
                    named[_name(element.value)] = image
                    ids.add(image.id)
                    good += 1
                elif element.member == "categories":
                    self._add_category(element)
                else:
                    self._add_annotation(element)
            except _WrongElementError as error:
                self._problems.add(f"{element.member}[{element.number}]", error)
        if not len(ids) == len(named) == good:
            raise ParameterError(
                f"{self._uri}: two images have the same id or file_name.",
                "Make both unique.",
                code="truth_duplicate_image",
                where=self._uri,
            )
        if self._problems.count and not (named and self._categories):
            raise self._not_coco(self._problems.first[0])
        self.images = ByImage(named, True, self._uri)
        self._by_name: dict[str, list[int]] = {}
        for category, name in self._categories.items():
            self._by_name.setdefault(name, []).append(category)
        self.classes = list(self._by_name)
        self._settle(ids)

    @property
    def left_out(self) -> list[str]:  # type: ignore[override]
        """Remarks on annotations that cannot be used."""
        remarks = self._problems.remarks(self._uri)
        state = self._column("state")
        if boxes := int((state == _BOX).sum()):
            pairs = np.stack([self._column("image"), self._column("category")])[:, state == _BOX]
            remarks.append(
                f"{self._uri}: {boxes:,} annotations have a box and no segmentation, which does not tell the pixels. "
                f"Their categories are unknown in their images ({np.unique(pairs, axis=1).shape[1]:,} pairs). Take a "
                "file with polygons or run lengths."
            )
        return remarks

    def of(self, key: str, classes: Sequence[str]) -> Iterator[GroundTruth]:
        """As for every index, by category; without ``classes`` it still yields what the image shows."""
        image = self.images.find(key)
        if image is None:
            return
        found, wrong = self._found(image)
        place = f"images[{image.number}]"
        absent, incomplete, size = set(self._categories), set[int](), None
        try:
            value = self._file.read(image.start, image.end)
            if "neg_category_ids" in value:
                absent = _ids(value, "neg_category_ids")
            incomplete = _ids(value, "not_exhaustive_category_ids")
            if value.get("height") and value.get("width"):
                size = size_of((value["height"], value["width"]), self._max_pixels)
        except (_WrongElementError, ShapeError) as error:
            wrong = wrong or (getattr(error, "code", "truth_shape_malformed"), str(error), place)
        # Of "Cat" and "cat", which a prompt may both look for, none is known where one is not.
        unknown = {fold(name) for name, one in found.items() if one.unknown}
        for name, categories in self._by_name.items():
            one = found.get(name)
            if (unknown and fold(name) in unknown) or not incomplete.isdisjoint(categories):
                continue
            if one is None and (name not in classes or absent.isdisjoint(categories)):
                continue
            numbers = one.numbers if one else []
            problem = wrong
            if one and one.bad is not None:
                problem = wrong or self._problem(one.bad)
            if sum(self._numbers["length"][number] for number in numbers) > MAX_IMAGE_BYTES:
                problem = problem or ("truth_shape_too_large", "there are too many annotations", place)
            if problem:
                yield GroundTruth.unusable(name, self._uri, *problem)
                continue
            shapes = [self._annotation(number)["segmentation"] for number in numbers]
            places = [f"annotations[{number}]" for number in numbers]
            yield GroundTruth.of_shapes(name, self._uri, shapes, size, places)

    def _entries(self) -> Iterator[Element]:
        """The elements of the three lists that count."""
        members = set()
        for element in self._file.elements():
            members.add(element.member)
            if element.member not in _LISTS:
                continue
            if element.number >= 0:
                if element.number >= (MAX_IMAGES if element.member != "annotations" else MAX_ANNOTATIONS):
                    raise _too_many(self._uri, element)
                yield element
            elif element.value != []:
                raise self._not_coco(f"'{element.member}' is no list")
        if absent := [name for name in _LISTS if name not in members]:
            raise self._not_coco(f"it has no {', '.join(absent)}")

    def _add_category(self, element: Element) -> None:
        number = _id(element, "id")
        name = _text(element.value, "name")
        if self._categories.setdefault(number, name) != name:
            raise ParameterError(
                f"{self._uri}: the categories '{self._categories[number]}' and '{name}' have the same id {number}.",
                "Make ids unique.",
                code="truth_duplicate_category",
                where=f"categories[{element.number}]",
            )

    def _add_annotation(self, element: Element) -> None:
        image = category = _NONE
        state, problem = _LOST, None
        try:
            image = _id(element, "image_id")
            state = _NO_CATEGORY
            category = _id(element, "category_id")
            state = _SHAPE
        except _WrongElementError as error:
            problem = error
        if state == _SHAPE:
            segmentation = element.value.get("segmentation")
            if segmentation:
                try:
                    parse(segmentation)
                except ShapeError as error:
                    state, problem = _BAD, _WrongElementError(error)
            else:
                state = _BOX
        place = {"start": element.start, "length": element.end - element.start}
        row = {"image": image, "category": category, **place, "state": state}
        for name, value in row.items():
            self._numbers[name].append(value)
        if problem is not None:
            raise problem

    def _settle(self, ids: set[int]) -> None:
        """Finds references to what is not there, and sorts annotations by image."""
        state, image, category = (self._column(name) for name in ("state", "image", "category"))
        referring = state <= _BAD
        images = np.fromiter(ids, np.int64, len(ids))
        strays = (state < _LOST) & ~np.isin(image, images)
        nameless = referring & ~strays & ~np.isin(category, np.fromiter(self._categories, np.int64))
        wrong = strays | nameless | (state >= _NO_CATEGORY)
        if wrong.size and wrong.all():
            if state[0] >= _NO_CATEGORY:
                raise self._not_coco(self._problems.first[0])
            raise ParameterError(
                f"{self._uri}: annotation 1 refers to image {image[0]} and category {category[0]}, and one of "
                "them is missing; so does every other annotation.",
                "Add it to images or categories, or remove the annotation.",
                code="truth_dangling_reference",
                where="annotations[0]",
            )
        for number in np.flatnonzero(strays):
            self._problems.add(
                f"annotations[{number}]", f"it refers to image {image[number]}, which is missing"
            )
        for number in np.flatnonzero(nameless):
            self._problems.add(
                f"annotations[{number}]", f"it refers to category {category[number]}, which is missing"
            )
        state[strays], state[nameless] = _LOST, _NO_CATEGORY
        self._order = np.argsort(image, kind="stable").astype(np.int64)
        self._sorted = image[self._order]

    def _found(self, image: _Image) -> tuple[Mapping[str, _Class], tuple[str, str, str] | None]:
        """What the file says of an image: by class; and what makes all of its classes unusable."""
        first, last = np.searchsorted(self._sorted, [image.id, image.id + 1])
        state, category = self._column("state"), self._column("category")
        found: dict[str, _Class] = {}
        wrong = None
        for number in self._order[first:last].tolist():
            if state[number] == _LOST:
                continue
            if state[number] == _NO_CATEGORY:
                what = "an annotation is of no category of this file"
                wrong = wrong or ("truth_dangling_reference", what, f"annotations[{number}]")
                continue
            one = found.setdefault(self._categories[int(category[number])], _Class([]))
            if state[number] == _SHAPE:
                one.numbers.append(number)
            elif state[number] == _BOX:
                one.unknown = True
            elif one.bad is None:
                one.bad = number
        return found, wrong

    def _problem(self, number: int) -> tuple[str, str, str]:
        place = f"annotations[{number}]"
        try:
            parse(self._annotation(number)["segmentation"])
        except ShapeError as error:
            return error.code, str(error), place
        raise AssertionError(f"{place} was unusable and is not any more")

    def _annotation(self, number: int) -> dict[str, Any]:
        start, length = (self._numbers[name][number] for name in ("start", "length"))
        value: dict[str, Any] = self._file.read(start, start + length)
        return value

    def _column(self, name: str) -> NDArray[Any]:
        return np.frombuffer(self._numbers[name], self._numbers[name].typecode)

    def _not_coco(self, reason: str) -> ParameterError:
        return ParameterError(
            f"{self._uri} is not a COCO file: {reason}.",
            "It needs images (id, file_name), annotations (image_id, category_id, segmentation) and "
            "categories (id, name).",
            code="truth_not_coco",
            where=self._uri,
        )


class PhraseCut(TruthIndex):
    """PhraseCut's tasks: each has a phrase, an image of Visual Genome, and the polygons that the phrase means.

    Images are named ``<image_id>.jpg``. Of an image, only its tasks are known. Source: Wu
    et al., "PhraseCut: language-based image segmentation in the wild", CVPR 2020; the format is that of
    https://github.com/ChenyunWu/PhraseCutDataset (``refer_val.json``).

    Args:
        file: with the tasks.

    Raises:
        ParameterError: no task has an image, a phrase and polygons.
    """

    def __init__(self, file: JsonFile) -> None:
        self._file, self._uri = file, file.uri
        self._start, self._end = array("q"), array("q")
        self._problems = _Problems()
        tasks: dict[str, array[int]] = {}
        phrases: set[str] = set()
        for element in file.elements():
            if element.number >= MAX_IMAGES:
                raise _too_many(self._uri, element)
            self._start.append(element.start)
            self._end.append(element.end)
            try:
                image, phrase = _task(element.value)
                tasks.setdefault(image, array("q")).append(element.number)
                phrases.add(phrase)
                _polygons(element.value)
            except (_WrongElementError, ShapeError) as error:
                self._problems.add(f"[{element.number}]", error)
        if self._problems.count == len(self._start) > 0:
            raise ParameterError(
                f"{self._uri}: task 1 is not one of PhraseCut's, and no other is. {self._problems.first[0]}.",
                "It needs image_id, phrase and Polygons (per instance, per part, points x and y).",
                code="truth_not_phrasecut",
                where="[0]",
            )
        self.images = ByImage(tasks, False, self._uri)
        self.classes = sorted(phrases)
        self.left_out = self._problems.remarks(self._uri)

    def of(self, key: str, classes: Sequence[str]) -> Iterator[GroundTruth]:
        """As for every index, by phrase."""
        found: dict[str, GroundTruth] = {}
        length = 0
        for number in self.images.find(key) or ():
            value = self._file.read(self._start[number], self._end[number])
            _, phrase = _task(value)
            length += self._end[number] - self._start[number]
            try:
                if length > MAX_IMAGE_BYTES:
                    raise ShapeError("there are too many annotations", "truth_shape_too_large")
                shapes = _polygons(value)
                one = GroundTruth.of_shapes(phrase, self._uri, shapes, None, [f"[{number}]"] * len(shapes))
            except (_WrongElementError, ShapeError) as error:
                code = getattr(error, "code", "truth_shape_malformed")
                one = GroundTruth.unusable(phrase, self._uri, code, str(error), f"[{number}]")
            found[phrase] = found[phrase].united(one) if phrase in found else one
        yield from found.values()


def _task(value: Any) -> tuple[str, str]:
    if not isinstance(value, dict):
        raise _WrongElementError("it is no object")
    return f"{_text(value, 'image_id')}.jpg", _text(value, "phrase")


def _polygons(task: dict[str, Any]) -> list[list[list[float]]]:
    """A task's polygons as COCO has them, by instance."""
    instances = task.get("Polygons")
    try:
        shapes = [[[v for point in part for v in point] for part in one] for one in instances or ()]
    except TypeError as error:
        raise _WrongElementError("Polygons has points that are no pairs of numbers") from error
    if not shapes:
        raise _WrongElementError("it has no Polygons")
    for shape in shapes:
        parse(shape)
    return shapes


def _name(image: dict[str, Any]) -> str:
    """COCO's name, or the end of LVIS's address: ``http://images.cocodataset.org/train2017/000000391895.jpg``."""
    if image.get("file_name") is not None or image.get("coco_url") is None:
        return _text(image, "file_name")
    return "/".join(_text(image, "coco_url").split("/")[-2:])


def _text(value: dict[str, Any], name: str) -> str:
    found = value.get(name)
    if found is None:
        raise _WrongElementError(f"it has no {name}")
    if not isinstance(found, str | int | float):
        raise _WrongElementError(f"{name} is no text")
    if len(text := str(found)) > MAX_NAME:
        raise _WrongElementError(f"{name} has more than {MAX_NAME:,} characters")
    return text


def _too_many(uri: str, element: Element) -> ParameterError:
    return ParameterError(
        f"{uri} has more than {element.number:,} {element.member or 'tasks'}.",
        "Split it by images.",
        code="truth_too_many",
        where=element.member or uri,
    )


def _id(element: Element, name: str) -> int:
    if not isinstance(element.value, dict):
        raise _WrongElementError("it is no object")
    return _number(element.value.get(name), name)


def _ids(image: dict[str, Any], name: str) -> set[int]:
    values = image.get(name) or ()
    if not isinstance(values, list | tuple):
        raise _WrongElementError(f"{name} is no list")
    return {_number(value, name) for value in values}


def _number(value: Any, name: str) -> int:
    """An id: a whole number, or one as text."""
    try:
        number = (
            int(value) if isinstance(value, str) or (type(value) in (int, float) and value % 1 == 0) else None
        )
    except (ValueError, OverflowError):
        number = None
    if number is None or abs(number) >= 1 << 62:
        raise _WrongElementError(f"{name} is missing" if value is None else f"{name} is no whole number")
    return number
