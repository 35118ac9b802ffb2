"""The real pipeline through kfp's own local runner, on folders and on the real store."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from codes import fails
from grouped import arguments
from PIL import Image
from rich.console import Console

from clipseg_kfp.demo.bucket import DEMO_QUERIES
from clipseg_kfp.demo.one_shot import SEARCHED_SEEDS, SHOWN, one_shot_objects
from clipseg_kfp.demo.scenes import draw_scene
from clipseg_kfp.local.runner import LocalRunError, run_batch
from clipseg_kfp.local.store import EmbeddedStore
from clipseg_kfp.results.summary import RunSummary, read_run, show
from clipseg_kfp.storage import open_folder

MODEL = Path(__file__).parents[2] / "examples" / "demo-model"
PROMPTS = [{"name": "circle", "texts": ["a circle"]}, {"name": "red", "texts": ["red", "the red things"]}]


def fill(uri: str, scenes: int) -> None:
    """Puts scenes with ground truth, and one file that is no image, into a folder."""
    folder = open_folder(uri)
    for i in range(scenes):
        scene = draw_scene(3000 + i, (200, 160))
        folder.write(f"images/s{i}.png", png(scene.image))
        for prompt in ("circle", "red"):
            truth = Image.fromarray(scene.mask(DEMO_QUERIES[prompt]))
            folder.write(f"masks/{prompt}/s{i}.png", png(truth))
    folder.write("images/broken.png", b"no image")


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def run(tmp_path: Path, source: str, output: str, **changes: object) -> RunSummary:
    parameters = {
        "source_uri": source,
        "output_uri": output,
        "model_uri": str(MODEL),
        "prompts": PROMPTS,
        "threshold": 0.5,
        "shard_size": 2,
        "endpoint": "",
        **changes,
    }
    return read_run(run_batch(arguments(parameters), tmp_path / "log").manifest)


def test_a_bucket_is_segmented_and_a_second_run_has_nothing_to_do(
    tmp_path: Path, bucket: str, s3_env: dict[str, str], store: EmbeddedStore
) -> None:
    source, output = f"s3://{bucket}/in", f"s3://{bucket}/out"
    fill(source, scenes=3)

    first = run(tmp_path, source, output, run_id="one")

    assert first.manifest["counts"] == {
        "listed": 4,
        "done": 3,
        "skipped": 0,
        "quarantined": 1,
        "masks": 6,
        "left": 0,
    }
    assert first.metrics["per_prompt"]["circle"]["images"] == 3
    assert first.metrics["mean_iou"] == first.metrics["per_prompt"]["circle"]["iou"] > 0.8
    red = first.metrics["per_prompt"]["red"]
    assert (red["iou"], red["false_alarm_images"]) == (None, 0), "nothing in these scenes is red"
    assert [row["key"] for row in first.quarantine] == ["images/broken.png"]
    rows = pq.read_table(io.BytesIO(first.read("masks.parquet"))).to_pylist()
    place = open_folder(f"{output}/{first.manifest['config']}")
    for row in rows:
        mask = np.asarray(Image.open(io.BytesIO(place.read(row["mask"]))))
        assert mask.shape == (160, 200)
        assert np.count_nonzero(mask) == row["area"]
    for entry in first.manifest["files"]:
        assert len(first.read(entry["name"])) == entry["bytes"]
    # Everything lies under the configuration: nothing strays.
    strays = {e.key.split("/")[0] for e in open_folder(output).entries()}
    assert strays == {first.manifest["config"]}
    log = (tmp_path / "log").read_text("utf-8")
    assert store.secret_key not in log and store.secret_key not in json.dumps(first.manifest)

    second = run(tmp_path, source, output, run_id="two")

    assert second.manifest["counts"] == {
        "listed": 4,
        "done": 0,
        "skipped": 3,
        "quarantined": 1,
        "masks": 0,
        "left": 0,
    }
    assert "nothing to segment" in (tmp_path / "log").read_text("utf-8")

    console = Console(file=io.StringIO(), width=120)
    show(first, console)
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "mean IoU" in shown and "images/broken.png" in shown and first.manifest["run"] in shown


def test_things_that_are_shown_and_not_named_are_found(tmp_path: Path) -> None:
    """The demo's own case, and a folder's name in the logic of a prompt."""
    root = open_folder(str(tmp_path))
    for key, data in one_shot_objects():
        root.write(key, data)
    found = run(
        tmp_path,
        str(tmp_path / "dataset"),
        str(tmp_path / "out"),
        run_id="shown",
        shard_size=20,
        support_uri=str(tmp_path / "support"),
        prompts=[{"name": "not red", "logic": '"blue ring" and not "red circle"'}],
    )
    assert found.manifest["counts"]["done"] == len(SEARCHED_SEEDS)
    assert [prompt["name"] for prompt in found.manifest["prompts"]] == ["not red", *sorted(SHOWN)]
    assert set(found.metrics["per_prompt"]) == set(SHOWN)
    assert found.metrics["mean_iou"] > 0.75


def test_an_empty_folder_ends_well(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    empty = run(tmp_path, str(tmp_path / "in"), str(tmp_path / "out"), run_id="empty", allow_empty=True)
    assert empty.manifest["counts"] == {
        "listed": 0,
        "done": 0,
        "skipped": 0,
        "quarantined": 0,
        "masks": 0,
        "left": 0,
    }
    console = Console(file=io.StringIO(), width=120)
    show(empty, console)
    assert "There were no images." in console.file.getvalue()  # type: ignore[attr-defined]


def test_a_failing_step_ends_the_run_with_its_own_words_and_no_manifest(tmp_path: Path) -> None:
    source = tmp_path / "in"
    fill(str(source), scenes=1)
    # only the model's tokenizer can tell that this is too long
    prompts = [{"name": "long", "texts": ["a circle " * 40]}]
    with fails("text_too_long") as caught:
        run(tmp_path, str(source), str(tmp_path / "out"), prompts=prompts, run_id="bad")
    assert isinstance(caught.value, LocalRunError)
    assert (caught.value.step, caught.value.log) == ("encode_prompts", tmp_path / "log")
    assert not list((tmp_path / "out").rglob("manifest.json"))
