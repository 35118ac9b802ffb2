from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from codes import fails, refuses
from grouped import grouped
from PIL import Image
from PIL.ExifTags import Base as ExifTag
from pycocotools.coco import COCO
from steps_chain import Chain, Run, mask_picture, object_bytes, picture

from clipseg_kfp import records
from clipseg_kfp.masks.raster import decode_rle
from clipseg_kfp.results.plan import read_progress
from clipseg_kfp.steps import fetch_dataset, preprocess_images, segment_images, sharding
from clipseg_kfp.steps.artifacts import (
    EncodedPrompts,
    EvaluationTables,
    Listing,
    Probabilities,
    ShardMasks,
    Summary,
)
from clipseg_kfp.storage import open_folder

EXIF = Image.Exif()
EXIF[ExifTag.Orientation] = 6

GOOD = {
    "a.png": picture(1),
    "deep/er/b ü.jpg": picture(2, 61, 47, "JPEG"),
    "turned.jpg": picture(3, 50, 20, "JPEG", exif=EXIF),
    "wide.png": picture(4, 700, 9),
}
BAD = {
    "empty.jpg": (b"", "empty"),
    "notes.png": (b"just some words\n", "mislabelled"),
    "cut.png": (picture(5)[:900], "truncated"),
    "large.png": (picture(6, 300, 300), "too_large"),
}
SIZES = {"a.png": (40, 30), "deep/er/b ü.jpg": (61, 47), "turned.jpg": (20, 50), "wide.png": (700, 9)}


def put(chain: Chain, files: dict[str, bytes]) -> None:
    for key, data in files.items():
        open_folder(chain.source).write(key, data)


def contents(uri: str) -> dict[str, bytes]:
    folder = open_folder(uri)
    return {entry.key: folder.read(entry.key) for entry in folder.entries()}


def counts(run: Run) -> tuple[int, int, int, int]:
    found = run.published.counts
    return found.listed, found.done, found.skipped, found.quarantined


@pytest.mark.parametrize("chain", ["folder", "s3"], indirect=True)
def test_the_whole_chain(chain: Chain, tmp_path: Path) -> None:
    put(chain, GOOD | {key: data for key, (data, _) in BAD.items()} | {"notes.txt": b"left out"})
    run = chain(shard_size=3, max_megapixels=0.05)

    # every image ends as one of the three, with a reason
    assert counts(run) == (8, 4, 0, 4)
    assert run.maps == len(GOOD) * 2
    images = run.images()
    assert {k: r["reason"] for k, r in images.items() if r["status"] != "done"} == {
        k: reason for k, (_, reason) in BAD.items()
    }
    assert {k: (r["width"], r["height"]) for k, r in images.items() if r["status"] == "done"} == SIZES

    # masks, label maps and overlays
    rows = run.masks()
    assert len(rows) == run.published.counts.masks == 8
    for row in rows:
        mask = run.pixels(row["mask"])
        assert mask.shape[::-1] == SIZES[row["key"]]
        assert (mask == decode_rle(row["rle"], row["width"], row["height"]) * 255).all()
        assert row["area"] == (mask > 0).sum()
        assert row["coverage"] == row["area"] / mask.size
    for key, size in SIZES.items():
        assert run.pixels(images[key]["label_map"]).shape[::-1] == size
        assert run.pixels(images[key]["overlay"]).shape == (*_preview(size)[::-1], 3)

    # the run's files
    base = run.published.manifest.rpartition("/")[0]
    files = {file["name"]: object_bytes(f"{base}/{file['name']}") for file in run.manifest["files"]}
    assert sorted(files) == [
        "annotations.coco.json",
        "attempt.json",
        "curves.json",
        "deleted.parquet",
        "evaluation.parquet",
        "images.parquet",
        "masks.parquet",
        "metrics.json",
        "per_image.parquet",
        "quarantine.parquet",
        "report.html",
        "thresholds.json",
    ]
    assert pq.read_table(io.BytesIO(files["masks.parquet"])).to_pylist() == rows
    assert {
        r["key"]: r["reason"] for r in pq.read_table(io.BytesIO(files["quarantine.parquet"])).to_pylist()
    } == {k: reason for k, (_, reason) in BAD.items()}
    (tmp_path / "coco.json").write_bytes(files["annotations.coco.json"])
    coco = COCO(str(tmp_path / "coco.json"))
    assert {image["file_name"] for image in coco.imgs.values()} == set(GOOD)
    assert len(coco.anns) == sum(row["area"] > 0 for row in rows)
    assert json.loads(files["metrics.json"])["counts"] == run.manifest["counts"]
    assert b"deep/er/b" in files["report.html"]

    # a second run infers nothing
    again = chain(shard_size=3, max_megapixels=0.05)
    assert again.config == run.config
    assert counts(again) == (8, 0, 4, 4)
    assert again.maps == 0
    assert again.manifest["parts"] == []


def _preview(size: tuple[int, int]) -> tuple[int, int]:
    image = Image.new("L", size)
    image.thumbnail((512, 512))
    return image.size


def test_only_what_changed_is_done_again(chain: Chain) -> None:
    put(chain, GOOD)
    first = chain()
    before = contents(chain.output)
    put(chain, {"a.png": picture(99), "new.png": picture(7)})
    second = chain()
    assert counts(second) == (5, 2, 3, 0)
    assert {row["key"] for row in second.masks()} == {"a.png", "new.png"}
    old, new = (next(r["mask"] for r in run.masks() if r["key"] == "a.png") for run in (first, second))
    assert old != new
    after = contents(chain.output)
    changed = {key for key in before if after.get(key) != before[key]}
    assert changed == {f"{first.config}/latest.json"}


@pytest.mark.parametrize(
    "change",
    [
        {"threshold": 0.4},
        {"prompts": ["a circle", "blue things"]},
        {"prompts": ["red things", "a circle"]},
        {"prompts": ["a circle", {"text": "red things", "threshold": 0.3}]},
        {"prompts": ["a circle", {"name": "red", "text": "red things"}]},
    ],
)
def test_another_configuration_does_all_again(chain: Chain, change: dict[str, Any]) -> None:
    put(chain, {"a.png": GOOD["a.png"]})
    first, second = chain(), chain(**change)
    assert second.config != first.config
    assert counts(first) == counts(second) == (1, 1, 0, 0)
    assert second.maps == 2


def test_the_last_bits_of_embeddings_do_not_name_a_configuration(
    chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They differ from one kind of CPU to another; the results would all get new names."""
    from clipseg_kfp import prompts

    put(chain, {"a.png": GOOD["a.png"]})
    first = chain()
    encode = prompts.encode

    def nudged(*given: Any) -> Any:
        rows, values = encode(*given)
        return rows, np.nextafter(values, np.float32(9))

    monkeypatch.setattr(prompts, "encode", nudged)
    second = chain()
    assert second.config == first.config
    assert counts(second) == (1, 0, 1, 0)


def test_an_equal_configuration_is_the_same(chain: Chain) -> None:
    put(chain, {"a.png": GOOD["a.png"]})
    first = chain(["a circle"], threshold=0.3)
    second = chain([{"name": "a circle", "texts": ["a circle"], "threshold": 0.3}], threshold=0.9)
    assert second.config == first.config
    assert counts(second) == (1, 0, 1, 0)


@pytest.mark.parametrize("chain", ["folder", "s3"], indirect=True)
def test_an_object_replaced_or_removed_meanwhile_is_noticed(chain: Chain) -> None:
    put(chain, {"kept.png": picture(1), "replaced.png": picture(2)})

    def replace() -> None:
        put(chain, {"replaced.png": picture(3)})

    chain.hook = replace
    run = chain()
    assert counts(run) == (2, 1, 0, 1)
    row = run.images()["replaced.png"]
    assert (row["status"], row["reason"]) == ("quarantined", "changed")
    assert "replaced.png was replaced" in row["detail"]
    chain.hook = lambda: None
    assert counts(chain()) == (2, 1, 1, 0)  # the next run does it


def test_an_object_removed_meanwhile_is_noticed(chain: Chain) -> None:
    put(chain, {"kept.png": picture(1), "gone.png": picture(2)})
    chain.hook = Path(chain.source, "gone.png").unlink
    run = chain()
    assert counts(run) == (2, 1, 0, 1)
    assert run.images()["gone.png"]["reason"] == "changed"


def test_a_missing_object_of_a_manifest_is_quarantined(chain: Chain) -> None:
    put(chain, {"a.png": picture(1), "list.csv": b"uri\na.png\nmissing.png\n"})
    run = chain(source=f"{chain.source}/list.csv")
    assert counts(run) == (2, 1, 0, 1)
    assert "missing.png does not exist" in run.images()["missing.png"]["detail"]


def test_two_attempts_of_a_run_give_the_same_objects(chain: Chain, tmp_path: Path) -> None:
    put(chain, GOOD)
    first = chain(run_id="one")
    before = contents(chain.output)
    # The second attempt of a run starts from the same listing: take the first one's commit away, and its part.
    Path(chain.output, f"{first.config}/runs/one/manifest.json").unlink()
    for part in Path(chain.output, f"{first.config}/parts").iterdir():
        part.unlink()
    second = chain(run_id="one")
    after = contents(chain.output)
    assert {key: after[key] for key in before} == before
    assert all("/plan." in key for key in set(after) - set(before)), "it says when it was made"
    assert counts(second) == counts(first)
    assert second.maps == first.maps


def test_publishing_twice_changes_nothing(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    from clipseg_kfp.results import commit
    from clipseg_kfp.steps import publish_results

    put(chain, GOOD)
    times = iter(f"20{year}-01-01T00:00:00Z" for year in range(26, 99))
    monkeypatch.setattr(commit, "now", lambda: next(times))
    chain(run_id="one")
    before = contents(chain.output)
    work = chain.work / "run-1"
    publish_results.run(
        masks=[work / "shard-000" / "masks"],
        dataset=work / "dataset",
        encoded_prompts=work / "prompts",
        evaluation=work / "evaluation",
        report=work / "again.html",
        output_uri=chain.output,
        job_id="one",
        model_uri="file:///tiny",
    )
    assert contents(chain.output) == before


@pytest.mark.parametrize("chain", ["folder", "s3"], indirect=True)
@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize("changed", [True, False])
def test_a_name_is_for_one_run(chain: Chain, at_once: bool, changed: bool) -> None:
    """The listing says so before any inference, the end where the listing did not know the name."""
    put(chain, {"a.png": picture(1), "bad.png": b""})
    chain(run_id="nightly")
    before = contents(chain.output)
    if changed:
        put(chain, {"b.png": picture(2)})
    with fails("run_exists", where="outputs.run_id"):
        chain(run_id="nightly", check_run_id=at_once)
    assert bool(chain.views_seen) == (changed and not at_once)
    after = contents(chain.output)
    assert {key: after[key] for key in before} == before
    assert not any(
        "/runs/" in key and "/plan." not in key and "/shards/" not in key for key in set(after) - set(before)
    )
    assert counts(chain()) == ((3, 1, 1, 1) if changed else (2, 0, 1, 1))


def test_a_name_may_come_back_under_another_configuration(chain: Chain) -> None:
    put(chain, {"a.png": picture(1)})
    assert chain(run_id="one").config != chain(["blue things"], run_id="one").config


def test_an_attempt_that_ended_before_latest_is_mended(chain: Chain) -> None:
    from clipseg_kfp.steps import publish_results

    put(chain, GOOD)
    run = chain(run_id="one")
    before = contents(chain.output)
    Path(chain.output, run.config, "latest.json").unlink()
    work = chain.work / "run-1"
    publish_results.run(
        masks=run.shards,
        dataset=work / "dataset",
        encoded_prompts=work / "prompts",
        evaluation=work / "evaluation",
        report=work / "again.html",
        output_uri=chain.output,
        job_id="one",
    )
    assert contents(chain.output) == before


def test_a_run_without_a_shard_is_not_committed(chain: Chain) -> None:
    from clipseg_kfp.steps import publish_results

    put(chain, GOOD)
    run = chain(shard_size=2)
    before = contents(chain.output)
    work = chain.work / "run-1"
    with fails("images_do_not_match") as caught:
        publish_results.run(
            masks=run.shards[:1],
            dataset=work / "dataset",
            encoded_prompts=work / "prompts",
            evaluation=work / "evaluation",
            report=work / "again.html",
            output_uri=chain.output,
            job_id="partial",
        )
    assert "shard-001" in caught.value.message
    assert contents(chain.output) == before


def test_an_empty_source(chain: Chain, capsys: pytest.CaptureFixture[str]) -> None:
    with fails("nothing_under_source"):
        chain()
    run = chain(allow_empty=True)
    assert counts(run) == (0, 0, 0, 0)
    assert run.dataset.ignored == run.manifest["ignored"] == {}
    assert run.dataset.shards == ["shard-000"]
    assert run.maps == 0
    assert "there are no images" in capsys.readouterr().out


def test_all_images_are_bad(chain: Chain) -> None:
    put(chain, {"a.png": b"", "b.png": b"text"})
    assert counts(chain()) == (2, 0, 0, 2)


def test_a_limit_takes_new_images(chain: Chain) -> None:
    put(chain, {f"{i}.png": picture(i) for i in range(5)})
    assert counts(chain(limit=2)) == (2, 2, 0, 0)
    assert counts(chain(limit=2)) == (4, 2, 2, 0)
    assert counts(chain(limit=2)) == (5, 1, 4, 0)
    assert counts(chain(limit=2)) == (5, 0, 5, 0)


@pytest.mark.parametrize("chain", ["folder", "s3"], indirect=True)
def test_bad_images_never_use_up_the_limit(chain: Chain, capsys: pytest.CaptureFixture[str]) -> None:
    put(chain, {"1.png": b"", "2.png": b"bad", "3.png": picture(3), "4.png": picture(4)})
    again = {"retry_quarantined": True}
    assert counts(chain(limit=2)) == (2, 0, 0, 2)
    assert counts(chain(limit=1, **again)) == (3, 1, 2, 0)  # what was bad has to wait
    assert counts(chain(limit=3, **again)) == (4, 1, 1, 2)  # what is new comes first, then what was bad
    capsys.readouterr()
    assert counts(chain(**again)) == (4, 0, 2, 2)
    said = capsys.readouterr().out
    assert "2 images that were quarantined before are tried again" in said
    assert "nothing new: 2 images were done before" in said
    put(chain, {"1.png": picture(1)})
    assert counts(chain(limit=1, **again)) == (4, 1, 3, 0)  # replaced, so new again: before 2.png


def test_tables_are_not_read_into_memory(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever grows with the run goes from file to bucket as a stream."""
    from clipseg_kfp.results import Results

    written: list[str] = []
    write = Results.write

    def spy(self: Results, key: str, data: bytes) -> None:
        written.append(key)
        write(self, key, data)

    monkeypatch.setattr(Results, "write", spy)
    put(chain, GOOD)
    run = chain(shard_size=3)
    assert len(run.manifest["parts"]) == 2
    assert not [key for key in written if key.endswith((".parquet", ".coco.json", ".html"))]
    parts = [pq.read_table(io.BytesIO(run.folder.read(part))).to_pylist() for part in run.manifest["parts"]]
    assert [row for rows in parts for row in rows] == run.masks()


def test_many_bad_images_are_counted_and_the_first_are_shown(
    chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    from clipseg_kfp.steps import publish_results

    monkeypatch.setattr(publish_results, "QUARANTINE_ROWS", 2)
    put(chain, {f"{i}.png": b"" for i in range(5)})
    run = chain(shard_size=3)
    assert counts(run) == (5, 0, 0, 5)
    base = run.published.manifest.rpartition("/")[0]
    table = pq.read_table(io.BytesIO(object_bytes(f"{base}/quarantine.parquet")))
    assert sorted(table["key"].to_pylist()) == [f"{i}.png" for i in range(5)]
    assert sum(f"{i}.png" in run.published.report for i in range(5)) == 2


@pytest.fixture
def encoded(chain: Chain) -> Path:
    """encode_prompts' output."""
    from clipseg_kfp.steps import encode_prompts

    target = chain.work / "encoded"
    encode_prompts.run(model=chain.model, encoded_prompts=target, prompts=["a circle"])
    return target


def list_dataset(chain: Chain, encoded: Path, name: str = "listed", **options: Any) -> Summary:
    return fetch_dataset.run(
        source_uri=chain.source,
        output_uri=chain.output,
        encoded_prompts=encoded,
        dataset=chain.work / name,
        **grouped(**options),
    )


@pytest.mark.parametrize(
    ("images", "shard_size", "shards"), [(120, 1, 24), (101, 2, 21), (120, 100, 2), (7, 3, 3), (24, 1, 24)]
)
def test_shards(chain: Chain, encoded: Path, images: int, shard_size: int, shards: int) -> None:
    put(chain, {f"{i}.png": b"%d" % i for i in range(images)})
    found = list_dataset(chain, encoded, shard_size=shard_size)
    assert len(found.shards) == shards <= sharding.MAX_SHARDS
    rows = [
        list(records.read_parquet(Listing(chain.work / "listed").shard_path(name))) for name in found.shards
    ]
    assert sorted(row["key"] for shard in rows for row in shard) == sorted(f"{i}.png" for i in range(images))
    assert all(rows)  # a shard without images would be a pod for nothing


def test_the_digest_of_a_listing(chain: Chain, encoded: Path) -> None:
    put(chain, {"a.png": b"a", "b.png": b"b"})
    digests = [list_dataset(chain, encoded).digest, list_dataset(chain, encoded, "again").digest]
    assert digests[0] == digests[1]
    put(chain, {"a.png": b"A"})
    digests.append(list_dataset(chain, encoded, "changed").digest)
    put(chain, {"c.png": b"c"})
    digests.append(list_dataset(chain, encoded, "more").digest)
    assert len(set(digests)) == 3
    assert Listing(chain.work / "again").summary().digest == digests[0]


@pytest.mark.parametrize("chain", ["folder", "s3"], indirect=True)
@pytest.mark.parametrize("below", ["", "/results"])
def test_results_below_the_images_are_no_images(chain: Chain, below: str) -> None:
    mine = {"a.png", "staging/b.png", "0123456789abcdef/c.png"}
    put(chain, {key: picture(i) for i, key in enumerate(mine)})
    chain.output = f"{chain.source}{below}"
    assert set(chain().images()) == mine
    assert counts(chain()) == (3, 0, 3, 0)


def test_an_archive_is_listed_though_it_is_unpacked_into_the_output(chain: Chain, tmp_path: Path) -> None:
    import zipfile

    with zipfile.ZipFile(tmp_path / "d.zip", "w") as archive:
        archive.writestr("red dir/a ü.png", picture(1))
    run = chain(source=str(tmp_path / "d.zip"))
    assert counts(run) == (1, 1, 0, 0)
    assert list(run.images()) == ["red dir/a ü.png"]
    assert counts(chain(source=str(tmp_path / "d.zip"))) == (1, 0, 1, 0)


# Names


def test_names_of_prompts_are_data(chain: Chain) -> None:
    names = ["labels", "overlay", "a/b", "a~2Fb", "Cat", "cat", "..", "ü" * 90, "masks", "x.png", "CON"]
    put(chain, {"a.png": GOOD["a.png"], "A.png": GOOD["a.png"]})
    run = chain([{"name": name, "text": f"the {name[:8]}"} for name in names])
    rows = run.masks()
    assert [row["prompt"] for row in rows[: len(names)]] == names
    images = [row for row in run.images().values() if row["status"] == "done"]
    keys = [row["mask"] for row in rows]
    keys += [row[kind] for row in images for kind in ("label_map", "overlay")]
    assert len({key.lower() for key in keys}) == len(keys) == 2 * len(names) + 4
    stored = {key.removeprefix(f"{run.config}/") for key in contents(chain.output)}
    assert set(keys) <= stored
    for row in rows:
        assert (run.pixels(row["mask"]) == decode_rle(row["rle"], 40, 30) * 255).all()
    for row in images:
        assert Image.open(io.BytesIO(run.folder.read(row["label_map"]))).mode == "P"


# Ground truth


def test_perfect_ground_truth(chain: Chain) -> None:
    put(chain, {"images/a.png": GOOD["a.png"], "images/s/b.jpg": GOOD["deep/er/b ü.jpg"]})
    rows = chain().masks()
    assert len(rows) == 4
    for row in rows:
        stem = row["key"].removeprefix("images/").rpartition(".")[0]
        mask = decode_rle(row["rle"], row["width"], row["height"])
        put(chain, {f"masks/{row['prompt']}/{stem}.png": mask_picture(mask)})
    chain.output += "-2"
    run = chain()
    assert set(run.evaluation.prompts) == {"a circle", "red things"}
    assert run.published.mean_iou == 1
    assert run.evaluation.to_json()["pairs"] == 4
    assert run.evaluation.figures() == {
        "mean_iou": 1, "iou_fg": 1, "iou_bin": 1, "average_precision": 1, "iou_a~20circle": 1, "iou_red~20things": 1,
    }  # fmt: skip
    table = list(records.read_parquet(EvaluationTables(chain.work / "run-2/evaluation").prompts_path))
    assert [(row["prompt"], row["images"], row["iou"]) for row in table] == [
        ("a circle", 2, 1.0),
        ("red things", 2, 1.0),
    ]


def test_ground_truth_of_another_size_is_the_yardstick(chain: Chain) -> None:
    put(chain, {"images/a.png": GOOD["a.png"]})
    mask = next(row for row in chain().masks() if row["prompt"] == "a circle")
    pixels = decode_rle(mask["rle"], 40, 30)
    put(chain, {"masks/a circle/a.png": mask_picture(np.kron(pixels, np.ones((3, 3), bool)))})
    chain.output += "-2"
    found = chain().evaluation.prompts["a circle"]
    assert found.iou == 1
    assert found.tp + found.fp + found.fn + found.tn == 40 * 30 * 9


def test_ground_truth_that_cannot_be_used(chain: Chain, capsys: pytest.CaptureFixture[str]) -> None:
    put(
        chain,
        {
            "images/a.png": GOOD["a.png"],
            "images/b.png": picture(9),
            "images/bad.png": b"",
            "masks/a circle/a.png": mask_picture(np.zeros((30, 40), bool)),
            "masks/a circle/b.png": b"no picture",
            "masks/a circle/bad.png": mask_picture(np.ones((30, 40), bool)),
            "masks/unknown class/a.png": mask_picture(np.ones((30, 40), bool)),
        },
    )
    run = chain()
    assert counts(run) == (3, 2, 0, 1)
    assert run.evaluation.unmatched == ["unknown class"]
    assert len(run.evaluation.unusable) == 1
    assert "masks/a%20circle/b.png" in run.evaluation.unusable[0]
    assert run.evaluation.prompts["a circle"].images == 1
    assert run.manifest["counts"]["done"] == 2
    output = capsys.readouterr().out
    assert "ground truth for 'unknown class'" in output
    assert "ground truth left out: " in output


def test_ground_truth_above_the_limit_is_left_out(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    from clipseg_kfp.steps import evaluate_masks

    truth = mask_picture(np.zeros((30, 40), bool))
    put(chain, {"images/a.png": GOOD["a.png"], "images/b.png": picture(9), "masks/a circle/a.png": truth})
    put(chain, {"masks/a circle/b.png": truth + bytes(99)})
    monkeypatch.setattr(evaluate_masks, "MAX_TRUTH_BYTES", len(truth))
    run = chain()
    assert run.evaluation.prompts["a circle"].images == 1
    (problem,) = run.evaluation.unusable
    assert "b.png is larger than the limit" in problem


def test_figures_for_kubeflow_are_few_and_plain() -> None:
    from clipseg_kfp.metrics import Confusion
    from clipseg_kfp.metrics.evaluation import Evaluation

    found = Evaluation({f"{i:03d} ü/x": Confusion(tp=1) for i in range(80)})
    names = list(found.figures())
    assert names[:3] == ["mean_iou", "iou_fg", "iou_bin"]
    assert len(names) == 53
    assert names[3] == "iou_000~20~C3~BC~2Fx"
    assert len(found.to_json()["per_prompt"]) == 80


def test_missing_ground_truth_of_a_manifest(chain: Chain) -> None:
    put(chain, {"a.png": GOOD["a.png"], "m.csv": b"uri,mask_uri,prompt\na.png,gone.png,a circle\n"})
    run = chain(source=f"{chain.source}/m.csv")
    assert counts(run) == (1, 1, 0, 0)
    assert run.published.mean_iou is None
    assert "gone.png does not exist" in run.evaluation.unusable[0]


def test_ground_truth_that_the_store_refuses_is_left_out(chain: Chain) -> None:
    put(chain, {"a.png": GOOD["a.png"], "m.csv": b"uri,mask_uri,prompt\na.png,folder,a circle\n"})
    Path(chain.source, "folder").mkdir()
    run = chain(source=f"{chain.source}/m.csv")
    assert counts(run) == (1, 1, 0, 0)
    assert "Is a directory" in run.evaluation.unusable[0]


def test_two_versions_of_a_key_have_their_own_ground_truth(chain: Chain, tmp_path: Path) -> None:
    """Shards join rows by key and version, never by key alone."""
    from clipseg_kfp.steps import evaluate_masks

    full, empty = np.ones((2, 2), bool), np.zeros((2, 2), bool)
    put(chain, {"full.png": mask_picture(full), "empty.png": mask_picture(empty)})
    shard = ShardMasks(tmp_path / "shard")
    images, masks = [], []
    for version, name, rle in (("1", "full", "04"), ("2", "empty", "4")):
        truth = [{"prompt": "cat", "uri": f"{chain.source}/{name}.png", "kind": "mask", "data": ""}]
        common = {"key": "a.jpg", "version": version, "width": 2, "height": 2}
        images.append({**common, "status": "done", "ground_truth": truth})
        masks.append({**common, "prompt": "cat", "rle": rle})
    records.write_parquet(shard.images_path, records.IMAGES, images)
    records.write_parquet(shard.masks_path, records.MASKS, masks)
    with records.ArrowWriter(shard.scores_path, records.SCORES) as scores:
        for row, value in zip(masks, (255, 0), strict=True):
            names = {name: row[name] for name in ("key", "version", "prompt")}
            scores.append({**names, "boxes": [[0, 0, 2, 2]], "maps": bytes([value] * 4)})
    with records.ArrowWriter(shard.gallery_path, records.GALLERY):
        pass  # no pictures
    found = evaluate_masks.run(masks=[shard.folder], evaluation=tmp_path / "out").prompts["cat"]
    assert (found.tp, found.tn, found.fp, found.fn, found.images) == (4, 4, 0, 0, 2)


# Switches


def test_without_label_maps_and_overlays(chain: Chain) -> None:
    put(chain, GOOD)
    run = chain(label_maps=False, overlays=False)
    keys = {entry.key.partition("/")[0] for entry in run.folder.entries()}
    assert keys == {"configuration.json", "latest.json", "masks", "parts", "runs"}
    assert all(row["label_map"] == row["overlay"] == "" for row in run.images().values())


# Mistakes


def test_wrong_buckets_are_named(chain: Chain, s3_env: dict[str, str]) -> None:
    put(chain, GOOD)
    chain.output, output = "s3://not-there/out", chain.output
    with fails("bucket_missing", where="s3://not-there"):
        chain()
    chain.output = output
    with fails("bucket_missing", where="s3://nowhere"):
        chain(source="s3://nowhere/x")
    with fails("folder_missing", where="/missing-folder"):
        chain(source="/missing-folder")


def test_an_output_that_cannot_be_written_fails_before_the_inference(chain: Chain, tmp_path: Path) -> None:
    put(chain, GOOD)
    (tmp_path / "file").write_bytes(b"")
    chain.output = str(tmp_path / "file" / "out")
    with fails("file_error") as caught:
        chain()
    assert str(tmp_path / "file") in caught.value.where
    assert chain.views_seen == []


@pytest.mark.parametrize("threshold", [0, 1, -1, 1.5, float("nan")])
def test_bad_thresholds(chain: Chain, threshold: float) -> None:
    with fails("threshold_out_of_range", where="threshold"):
        chain(threshold=threshold)


def test_bad_prompts(chain: Chain) -> None:
    with fails("name_taken"):
        chain(["cat", "cat"])


def test_prompts_encoded_for_another_precision(encoded: Path, chain: Chain, tmp_path: Path) -> None:
    with refuses(("inference.precision", "precision_differs")):
        segment_images.run(
            views=tmp_path,
            encoded_prompts=encoded,
            model=chain.model,
            probabilities=tmp_path,
            **grouped(precision="bfloat16"),
        )


def test_prompts_of_another_model(encoded: Path, chain: Chain, tmp_path: Path) -> None:
    put(chain, {"a.png": GOOD["a.png"]})
    dataset = list_dataset(chain, encoded)
    preprocess_images.run(
        dataset=chain.work / "listed",
        shard=dataset.shards[0],
        encoded_prompts=encoded,
        views=tmp_path / "views",
    )
    prompts = EncodedPrompts(encoded)
    prompts._write_json("model.json", {**prompts.facts().to_json(), "digest": "0" * 32})
    with fails("prompts_of_another_model", where="encoded_prompts"):
        segment_images.run(
            views=tmp_path / "views",
            encoded_prompts=encoded,
            model=chain.model,
            probabilities=tmp_path / "maps",
        )
    assert not Probabilities(tmp_path / "maps").maps_path.exists()


def test_objects_above_the_size_limit_are_not_fetched(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    put(chain, {"a.png": GOOD["a.png"], "large.png": GOOD["a.png"] + bytes(9000)})
    run = chain(max_megabytes=0.01)
    assert counts(run) == (2, 1, 0, 1)
    assert run.images()["large.png"]["reason"] == "too_large"
    assert "MB" in run.images()["large.png"]["detail"]


def test_what_is_ignored_is_told_everywhere(chain: Chain) -> None:
    source = open_folder(chain.source)
    for key in ("a.png", "x.svg", "deep/y.svg", "_SUCCESS", ".ipynb_checkpoints/a.png"):
        source.write(key, picture(1))
    run = chain(run_id="ignoring")
    ignored = {".svg": 2, "hidden": 1, "marker": 1}
    assert run.dataset.ignored == run.manifest["ignored"] == ignored
    assert run.dataset.listed + sum(ignored.values()) == len(list(source.entries()))
    progress = read_progress(open_folder(chain.output), "ignoring")
    assert progress is not None and progress.plan.ignored == ignored
    assert 'data-note="ignored"' in run.published.report
