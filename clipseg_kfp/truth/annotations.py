"""Ground truth in one JSON file for all images: COCO and PhraseCut."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from clipseg_kfp.dataset.ground_truth import GroundTruth
from clipseg_kfp.errors import ParameterError
from clipseg_kfp.truth.match import ByImage


class Coco:
    """COCO's object annotations: https://cocodataset.org/#format-data, and LVIS's.

    All instances of a category in an image are one mask, crowds included. Images are annotated for every
    category, so one without annotations of a category has nothing of it. LVIS's are not: there that holds for
    ``neg_category_ids`` only; categories of ``not_exhaustive_category_ids``, with instances that nobody drew,
    say nothing of the image; and images are named by ``coco_url``. An annotation that has a box and no shape makes
    its category unknown in its image: which pixels are the thing, nobody says.

    Attributes:
        left_out: remarks on what the file says and cannot be used.

    Args:
        value: the file's content.
        uri: of the file.

    Raises:
        ParameterError: a part is missing or refers to nothing; names it.
    """

    place = ""

    def __init__(self, value: dict[str, Any], uri: str) -> None:
        self._uri = uri
        try:
            self._categories = {int(one["id"]): str(one["name"]) for one in value["categories"]}
            images = {int(one["id"]): one for one in value["images"]}
            self._shapes: dict[int, dict[int, list[Any]]] = {key: {} for key in images}
            self._unknown: set[tuple[int, int]] = set()
            self._boxes = 0
            for i, one in enumerate(value["annotations"], start=1):
                self._take(one, i)
            named = {_name(one): one for one in value["images"]}
            if len(named) < len(value["images"]) or len(images) < len(named):
                raise ParameterError(f"{uri}: two images have the same id or file_name.", "Make both unique.")
            self.images = ByImage(named, True, uri)
            self.left_out = self._remarks()
        except (KeyError, TypeError, ValueError) as error:
            raise ParameterError(
                f"{uri} is no COCO file: {type(error).__name__} {error}.",
                "It needs images (id, file_name), annotations (image_id, category_id, segmentation) and "
                "categories (id, name).",
            ) from error

    def _take(self, one: dict[str, Any], number: int) -> None:
        image, category, shape = int(one["image_id"]), int(one["category_id"]), one.get("segmentation")
        if image not in self._shapes or category not in self._categories:
            raise ParameterError(
                f"{self._uri}: annotation {number} names image {image} and category {category}, of which one "
                "is missing."
            )
        if shape:
            self._shapes[image].setdefault(category, []).append(shape)
        else:
            self._unknown.add((image, category))
            self._boxes += 1

    def _remarks(self) -> list[str]:
        if not self._boxes:
            return []
        return [
            f"{self._uri}: {self._boxes:,} annotations have a box and no segmentation, which does not tell the pixels: "
            f"their categories are unknown in their images, {len(self._unknown):,} pairs. Take a file with polygons "
            "or run lengths."
        ]

    @property
    def classes(self) -> list[str]:
        """Names of all categories."""
        return list(self._categories.values())

    def of(self, key: str, wanted: Sequence[str]) -> Iterator[GroundTruth]:
        """Yields the ground truth of an image by category; without wanted ones also what is not there."""
        image = self.images.find(key)
        if image is None:
            return
        found = self._shapes[int(image["id"])]
        absent = set(map(int, image.get("neg_category_ids", self._categories)))
        partly = set(map(int, image.get("not_exhaustive_category_ids", ())))
        size = (int(image["height"]), int(image["width"])) if image.get("height") else None
        for category, name in self._categories.items():
            if category in partly or (int(image["id"]), category) in self._unknown:
                continue
            if category in found or (category in absent and name in wanted):
                yield GroundTruth.of_shapes(name, self._uri, found.get(category, []), size)


def _name(image: dict[str, Any]) -> str:
    """COCO's name, or the end of LVIS's address: ``http://images.cocodataset.org/train2017/000000391895.jpg``."""
    if "file_name" in image or "coco_url" not in image:
        return str(image["file_name"])
    return "/".join(str(image["coco_url"]).split("/")[-2:])


class PhraseCut:
    """PhraseCut's tasks: each a phrase, an image of Visual Genome, and the polygons of what is meant.

    Images are named ``<image_id>.jpg``. Only phrases that were asked of an image say anything of it. Source: Wu
    et al., "PhraseCut: language-based image segmentation in the wild", CVPR 2020; the format is that of
    https://github.com/ChenyunWu/PhraseCutDataset (``refer_val.json``).

    Args:
        value: the file's content.
        uri: of the file.

    Raises:
        ParameterError: a task without its image, phrase or polygons.
    """

    place = ""

    def __init__(self, value: list[dict[str, Any]], uri: str) -> None:
        self._uri = uri
        tasks: dict[str, dict[str, list[Any]]] = {}
        for i, task in enumerate(value, start=1):
            try:
                shapes = [
                    [[float(number) for point in polygon for number in point] for polygon in instance]
                    for instance in task["Polygons"]
                ]
                image = tasks.setdefault(f"{task['image_id']}.jpg", {})
                image.setdefault(str(task["phrase"]), []).extend(shapes)
            except (KeyError, TypeError, ValueError) as error:
                raise ParameterError(
                    f"{uri}: task {i} is none of PhraseCut's: {type(error).__name__} {error}.",
                    "It needs image_id, phrase and Polygons (of each instance, of each part, points x and y).",
                ) from error
        self.left_out: list[str] = []
        self.images = ByImage(tasks, False, uri)
        self.classes = sorted({phrase for image in tasks.values() for phrase in image})

    def of(self, key: str, wanted: Sequence[str]) -> Iterator[GroundTruth]:
        """Yields the ground truth of an image by phrase."""
        for phrase, shapes in (self.images.find(key) or {}).items():
            yield GroundTruth.of_shapes(phrase, self._uri, shapes)
