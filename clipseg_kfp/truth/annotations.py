"""Ground truth of all images in one JSON file: COCO and PhraseCut."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from clipseg_kfp.dataset.ground_truth import GroundTruth
from clipseg_kfp.errors import ParameterError
from clipseg_kfp.truth.match import ByImage, TruthIndex


class Coco(TruthIndex):
    """COCO's object annotations (https://cocodataset.org/#format-data), and LVIS's.

    All instances of a category in an image are one mask, crowds included. COCO annotates every image for every
    category, so an image without annotations of a category does not show it. In LVIS that holds only for
    ``neg_category_ids``; categories of ``not_exhaustive_category_ids`` have instances that nobody drew, so they are
    unknown; and images are named by ``coco_url``. An annotation with a box and no shape makes its category unknown
    in its image: it does not tell which pixels are the thing.

    Args:
        value: the file's content.
        uri: of the file.

    Raises:
        ParameterError: a part is missing or refers to nothing; names it.
    """

    def __init__(self, value: dict[str, Any], uri: str) -> None:
        self._uri = uri
        try:
            self._categories = {
                int(category["id"]): str(category["name"]) for category in value["categories"]
            }
            ids = {int(image["id"]) for image in value["images"]}
            named = {_name(image): image for image in value["images"]}
            self._shapes: dict[int, dict[int, list[Any]]] = {image: {} for image in ids}
            self._unknown: set[tuple[int, int]] = set()
            boxes = sum(
                self._add(annotation, number)
                for number, annotation in enumerate(value["annotations"], start=1)
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ParameterError(
                f"{uri} is not a COCO file: {type(error).__name__} {error}.",
                "It needs images (id, file_name), annotations (image_id, category_id, segmentation) and "
                "categories (id, name).",
                code="truth_not_coco",
                where=uri,
            ) from error
        if not len(ids) == len(named) == len(value["images"]):
            raise ParameterError(
                f"{uri}: two images have the same id or file_name.",
                "Make both unique.",
                code="truth_duplicate_image",
                where=uri,
            )
        self.images = ByImage(named, True, uri)
        self.classes = list(self._categories.values())
        if boxes:
            self.left_out = [
                f"{uri}: {boxes:,} annotations have a box and no segmentation, which does not tell the pixels. "
                f"Their categories are unknown in their images ({len(self._unknown):,} pairs). Take a file with "
                "polygons or run lengths."
            ]

    def _add(self, annotation: dict[str, Any], number: int) -> bool:
        """Adds an annotation; tells whether it has no shape."""
        image, category = int(annotation["image_id"]), int(annotation["category_id"])
        shape = annotation.get("segmentation")
        if image not in self._shapes or category not in self._categories:
            raise ParameterError(
                f"{self._uri}: annotation {number} refers to image {image} and category {category}, and one of "
                "them is missing.",
                "Add it to images or categories, or remove the annotation.",
                code="truth_dangling_reference",
                where=f"annotations[{number - 1}]",
            )
        if shape:
            self._shapes[image].setdefault(category, []).append(shape)
        else:
            self._unknown.add((image, category))
        return not shape

    def of(self, key: str, classes: Sequence[str]) -> Iterator[GroundTruth]:
        """As for every index, by category; without ``classes`` it still yields what the image shows."""
        image = self.images.find(key)
        if image is None:
            return
        number = int(image["id"])
        shapes = self._shapes[number]
        absent = set(map(int, image.get("neg_category_ids", self._categories)))
        incomplete = set(map(int, image.get("not_exhaustive_category_ids", ())))
        size = (int(image["height"]), int(image["width"])) if image.get("height") else None
        for category, name in self._categories.items():
            if category in incomplete or (number, category) in self._unknown:
                continue
            if category in shapes or (category in absent and name in classes):
                yield GroundTruth.of_shapes(name, self._uri, shapes.get(category, []), size)


def _name(image: dict[str, Any]) -> str:
    """COCO's name, or the end of LVIS's address: ``http://images.cocodataset.org/train2017/000000391895.jpg``."""
    if "file_name" in image or "coco_url" not in image:
        return str(image["file_name"])
    return "/".join(str(image["coco_url"]).split("/")[-2:])


class PhraseCut(TruthIndex):
    """PhraseCut's tasks: each has a phrase, an image of Visual Genome, and the polygons that the phrase means.

    Images are named ``<image_id>.jpg``. Of an image, only its tasks are known. Source: Wu
    et al., "PhraseCut: language-based image segmentation in the wild", CVPR 2020; the format is that of
    https://github.com/ChenyunWu/PhraseCutDataset (``refer_val.json``).

    Args:
        value: the file's content.
        uri: of the file.

    Raises:
        ParameterError: a task without its image, phrase or polygons.
    """

    def __init__(self, value: list[dict[str, Any]], uri: str) -> None:
        self._uri = uri
        tasks: dict[str, dict[str, list[Any]]] = {}
        for i, task in enumerate(value):
            try:
                shapes = [
                    [[float(number) for point in polygon for number in point] for polygon in instance]
                    for instance in task["Polygons"]
                ]
                image = tasks.setdefault(f"{task['image_id']}.jpg", {})
                image.setdefault(str(task["phrase"]), []).extend(shapes)
            except (KeyError, TypeError, ValueError) as error:
                raise ParameterError(
                    f"{uri}: task {i + 1} is not one of PhraseCut's: {type(error).__name__} {error}.",
                    "It needs image_id, phrase and Polygons (per instance, per part, points x and y).",
                    code="truth_not_phrasecut",
                    where=f"[{i}]",
                ) from error
        self.images = ByImage(tasks, False, uri)
        self.classes = sorted({phrase for image in tasks.values() for phrase in image})

    def of(self, key: str, classes: Sequence[str]) -> Iterator[GroundTruth]:
        """As for every index, by phrase."""
        for phrase, shapes in (self.images.find(key) or {}).items():
            yield GroundTruth.of_shapes(phrase, self._uri, shapes)
