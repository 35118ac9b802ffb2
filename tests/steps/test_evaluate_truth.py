"""Ground truth of every format through the real steps: each says the same, so each gives the same figures."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from codes import fails
from grouped import grouped
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask
from steps_chain import Chain, Run, mask_picture, picture
from test_steps import counts, put

from clipseg_kfp import records
from clipseg_kfp.steps import encode_prompts, fetch_dataset
from clipseg_kfp.steps.artifacts import EncodedPrompts, Listing
from clipseg_kfp.truth import GroundTruth, Reader

PROMPTS = [{"name": "cat", "text": "a circle"}, {"name": "a dog", "text": "red things"}]
CLASSES = {"a dog": "dog"}
WIDTH, HEIGHT = 40, 30


def truths() -> dict[str, dict[str, NDArray[np.bool_]]]:
    """Two images; nothing of the dog in the second. Boxes, so that polygons say exactly the same."""
    found = {name: {c: np.zeros((HEIGHT, WIDTH), bool) for c in ("cat", "dog")} for name in ("a", "b")}
    found["a"]["cat"][2:20, 3:18] = True
    found["a"]["dog"][10:25, 22:39] = True
    found["b"]["cat"][5:12, 1:30] = True
    return found


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def labels_of(name: str) -> NDArray[np.uint8]:
    labels = np.zeros((HEIGHT, WIDTH), np.uint8)
    for value, mask in zip((8, 12), truths()[name].values(), strict=True):
        labels[mask] = value
    return labels


def files(kind: str) -> tuple[dict[str, bytes], str]:
    """The files of a format below ``truth/``, and what a user names."""
    found = truths()
    if kind == "masks":
        masks = {f"{c}/{name}.png": mask_picture(m) for name in found for c, m in found[name].items()}
        return masks, ""
    if kind == "labels":
        table = b'{"classes": {"8": "cat", "12": "dog"}}'
        return {"classes.json": table} | {
            f"{name}.png": png(Image.fromarray(labels_of(name))) for name in found
        }, ""
    if kind == "voc":
        pictures = {}
        for name in found:
            image = Image.fromarray(labels_of(name))
            image.putpalette([value for i in range(256) for value in (i, 255 - i, i * 5 % 256)])
            pictures[f"SegmentationClass/{name}.png"] = png(image)
        return pictures, ""
    shapes: list[Any] = []
    for i, name in enumerate(found):
        for category, (c, mask) in enumerate(found[name].items(), start=1):
            if not mask.any():
                continue
            x, y, w, h = (
                int(v) for v in coco_mask.toBbox(coco_mask.encode(np.asfortranarray(mask.astype(np.uint8))))
            )
            corners = [[x, y], [x + w, y], [x + w, y + h], [x, y + h]]
            if kind == "coco":
                flat = [float(v) for point in corners for v in point]
                shapes.append({"image_id": i, "category_id": category, "segmentation": [flat]})
            else:
                shapes.append({"image_id": name, "phrase": c, "Polygons": [[corners]]})
    if kind == "phrasecut":
        return {"refer.json": json.dumps(shapes).encode()}, "refer.json"
    value = {
        "images": [
            {"id": i, "file_name": f"{n}.png", "width": WIDTH, "height": HEIGHT} for i, n in enumerate(found)
        ],
        "annotations": shapes,
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
    }
    return {"instances.json": json.dumps(value).encode()}, "instances.json"


def lay_out(chain: Chain, kind: str) -> str:
    """Images below ``in/``, ground truth below ``in/truth/``: a place that must not be listed as images."""
    put(chain, {f"{name}.png": picture(i, WIDTH, HEIGHT) for i, name in enumerate(truths())})
    content, name = files(kind)
    put(chain, {f"truth/{key}": data for key, data in content.items()})
    return f"{chain.source}/truth/{name}"


def measured(run: Run) -> dict[str, Any]:
    return {
        name: (c.tp, c.fp, c.fn, c.tn, run.evaluation.histograms[name].tp.tolist())
        for name, c in run.evaluation.prompts.items()
    }


@pytest.mark.parametrize("chain", ["folder", "s3"], indirect=True)
def test_every_format_says_the_same_of_the_same_images(chain: Chain, tmp_path: Path) -> None:
    root = chain.source
    encode_prompts.run(model=chain.model, encoded_prompts=tmp_path / "prompts", prompts=PROMPTS)
    for kind in ("masks", "labels", "voc", "coco", "phrasecut"):
        chain.source = f"{root}/{kind}"
        listing = fetch_dataset.run(
            source_uri=chain.source,
            output_uri=chain.output,
            encoded_prompts=tmp_path / "prompts",
            dataset=tmp_path / kind,
            **grouped(ground_truth_uri=lay_out(chain, kind), ground_truth_classes=CLASSES),
        )
        assert listing.listed == 2, f"{kind}: ground truth is no image"
        rows = list(records.read_parquet(Listing(tmp_path / kind).shard_path("shard-000")))
        found = {
            (row["key"][0], one["prompt"]): Reader().read(GroundTruth(**one), WIDTH, HEIGHT).mask
            for row in rows
            for one in row["ground_truth"]
            if one["kind"] != "unmatched"
        }
        expected = {
            (name, {"dog": "a dog"}.get(c, c)): mask
            for name, masks in truths().items()
            for c, mask in masks.items()
        }
        if kind == "phrasecut":  # a phrase that nobody asked of an image says nothing
            del expected["b", "a dog"]
        assert found.keys() == expected.keys(), kind
        for pair, mask in expected.items():
            np.testing.assert_array_equal(found[pair], mask, str((kind, pair)))


def test_void_pixels_count_nowhere(chain: Chain) -> None:
    place = lay_out(chain, "voc")
    plain = chain(PROMPTS, ground_truth_uri=place, ground_truth_classes=CLASSES)
    for name in truths():
        labels = labels_of(name)
        labels[:, 10:25] = 255
        image = Image.fromarray(labels)
        image.putpalette([value for i in range(256) for value in (i, i, i)])
        put(chain, {f"truth/SegmentationClass/{name}.png": png(image)})
    chain.output += "-void"
    void = chain(PROMPTS, ground_truth_uri=place, ground_truth_classes=CLASSES)
    for name, share in (("cat", 25 / 40), ("a dog", 25 / 40)):
        before, after = plain.evaluation.prompts[name], void.evaluation.prompts[name]
        assert after.tp + after.fp + after.fn + after.tn == share * (
            before.tp + before.fp + before.fn + before.tn
        )
        histogram = void.evaluation.histograms[name]
        assert histogram.positives + histogram.negatives == share * 2 * WIDTH * HEIGHT
        assert histogram.positives == after.tp + after.fn < before.tp + before.fn


def test_ground_truth_that_fits_nothing_is_an_error(chain: Chain) -> None:
    place = lay_out(chain, "coco")
    with fails("truth_without_prompt", where="ground_truth.classes"):
        chain(["a bird"], ground_truth_uri=place)
    with fails("truth_class_without_prompt", where="a cow"):
        chain(PROMPTS, ground_truth_uri=place, ground_truth_classes={"a cow": "cat"})
    value = json.loads(files("coco")[0]["instances.json"])
    for image in value["images"]:
        image["file_name"] = f"other-{image['file_name']}"
    put(chain, {"truth/instances.json": json.dumps(value).encode()})
    with fails("truth_of_other_images", where="ground_truth.uri"):
        chain(PROMPTS, ground_truth_uri=place)


def test_a_class_without_a_prompt_is_reported(chain: Chain, capsys: pytest.CaptureFixture[str]) -> None:
    run = chain(PROMPTS[:1], ground_truth_uri=lay_out(chain, "coco"))
    assert run.evaluation.unmatched == ["dog"] and set(run.evaluation.prompts) == {"cat"}
    assert "'dog'" in capsys.readouterr().out


def test_images_that_are_done_are_measured_again_where_that_is_asked_for(chain: Chain) -> None:
    place = lay_out(chain, "coco")
    first = chain(PROMPTS, ground_truth_uri=place)
    assert chain(PROMPTS, ground_truth_uri=place).published.mean_iou is None
    again = chain(PROMPTS, ground_truth_uri=place, full=True)
    assert counts(again) == (2, 2, 0, 0) and measured(again) == measured(first)


def test_several_sets_are_one_table(chain: Chain, tmp_path: Path) -> None:
    one, two = (
        PROMPTS,
        [{"text": "a square", "name": "cat"}, {"name": "none", "logic": "not cat", "threshold": 0.3}],
    )
    for name, options in (
        ("both", {"prompt_sets": {"one": one, "two": two}}),
        ("one", {"prompts": one}),
    ):
        encode_prompts.run(model=chain.model, encoded_prompts=tmp_path / name, **{"prompts": [], **options})
    both, alone = (
        [row.to_json() for row in EncodedPrompts(tmp_path / name).shown()] for name in ("both", "one")
    )
    assert [(row["name"], row["id"]) for row in both] == [
        ("one/cat", 1), ("one/a dog", 2), ("two/cat", 3), ("two/none", 4),
    ]  # fmt: skip
    assert both[3]["expression"] == "not two/cat" and both[3]["threshold"] == 0.3
    assert [row["texts"] for row in both[:2]] == [row["texts"] for row in alone]
    assert EncodedPrompts(tmp_path / "both").classes() == {
        "one/cat": "cat", "one/a dog": "a dog", "two/cat": "cat", "two/none": "none",
    }  # fmt: skip
    assert EncodedPrompts(tmp_path / "one").classes() == {}


def test_what_cannot_be_used_is_counted_and_not_absence(
    chain: Chain, capsys: pytest.CaptureFixture[str]
) -> None:
    """One bad number of three in the file: its class is not evaluated in its image, and all else is."""
    place = lay_out(chain, "coco")
    plain = chain(PROMPTS, ground_truth_uri=place, ground_truth_classes=CLASSES)
    value = json.loads(files("coco")[0]["instances.json"])
    value["annotations"][0]["segmentation"][0][0] = float("nan")
    put(chain, {"truth/instances.json": json.dumps(value).encode()})
    chain.output += "-bad"
    bad = chain(PROMPTS, ground_truth_uri=place, ground_truth_classes=CLASSES)
    assert counts(bad) == counts(plain)
    assert measured(bad)["a dog"] == measured(plain)["a dog"]
    assert bad.evaluation.prompts["cat"].images == plain.evaluation.prompts["cat"].images - 1
    assert bad.evaluation.unusable_count == 1 and "annotations[0]" in bad.evaluation.unusable[0]
    told = [line for line in capsys.readouterr().out.splitlines() if "annotations[0]" in line]
    assert {line.partition("]")[0] for line in told} == {"[fetch_dataset", "[evaluate_masks"}


def test_an_image_that_the_file_makes_too_large_is_not_evaluated(chain: Chain) -> None:
    place = lay_out(chain, "coco")
    value = json.loads(files("coco")[0]["instances.json"])
    value["images"][0] |= {"width": 40_000, "height": 30_000}
    put(chain, {"truth/instances.json": json.dumps(value).encode()})
    run = chain(PROMPTS, ground_truth_uri=place, ground_truth_classes=CLASSES)
    assert run.evaluation.unusable_count == 2 and "images[0]" in run.evaluation.unusable[0]
    assert {name: c.images for name, c in run.evaluation.prompts.items()} == {"cat": 1, "a dog": 1}


def test_ground_truth_far_larger_than_its_image_is_measured_alone(
    chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(chain, {f"images/{i}.png": picture(i, WIDTH, HEIGHT) for i in range(4)})
    large = np.kron(truths()["a"]["cat"], np.ones((10, 10), bool))
    put(chain, {f"masks/cat/{i}.png": mask_picture(large) for i in range(4)})
    asked: list[float | None] = []
    read = Reader.read

    def spy(self: Reader, *arguments: Any) -> Any:
        asked.append(arguments[3] if len(arguments) > 3 else None)
        return read(self, *arguments)

    monkeypatch.setattr(Reader, "read", spy)
    whole = chain(PROMPTS[:1])
    assert None not in asked[:4] and whole.evaluation.prompts["cat"].images == 4
    chain.output += "-bounded"
    asked.clear()
    monkeypatch.setattr("clipseg_kfp.steps.evaluate_masks.BYTES_AT_ONCE", 4 * 20 * large.size // 2)
    bounded = chain(PROMPTS[:1])
    assert measured(bounded) == measured(whole)
    assert asked.count(large.size // 2) == 4 and asked.count(None) >= 4


def test_masks_beside_images_are_measured_whatever_they_are_called(chain: Chain) -> None:
    put(chain, {f"set/images/{name}.png": picture(i, WIDTH, HEIGHT) for i, name in enumerate(truths())})
    masks = {f"set/masks/cat/{name}_mask.png": mask_picture(found["cat"]) for name, found in truths().items()}
    put(chain, masks | {"set/masks/cat/other.png": mask_picture(truths()["a"]["cat"])})
    run = chain(PROMPTS[:1])
    assert counts(run) == (2, 2, 0, 0) and run.evaluation.prompts["cat"].images == 2
