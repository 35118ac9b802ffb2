"""Every component of every pipeline under the options that change what it hands to Kubeflow.

The fixture ``handed_over`` fails a local run on what a real backend would refuse.
"""

from pathlib import Path
from typing import Any

import pytest
from backend_rules import HandedOver
from grouped import arguments
from test_local_run import MODEL, PROMPTS, fill

from clipseg_kfp.components import ALL
from clipseg_kfp.local.runner import run_batch, run_evaluation
from clipseg_kfp.results.summary import RunSummary, read_run
from clipseg_kfp.storage import open_folder

MAIN = {component.component_spec.name for component in ALL} - {"rank-prompts"}


def run(tmp_path: Path, *, evaluate: bool = False, **changes: Any) -> RunSummary:
    parameters = {
        "source_uri": str(tmp_path / "in"),
        "output_uri": str(tmp_path / "out"),
        "model_uri": str(MODEL),
        "shard_size": 2,
        "endpoint": "",
        **({} if evaluate else {"prompts": PROMPTS}),
        **changes,
    }
    pipeline = run_evaluation if evaluate else run_batch
    return read_run(pipeline(arguments(parameters), tmp_path / "log").manifest)


def counts(found: RunSummary) -> tuple[int, int, int, int]:
    of = found.manifest["counts"]
    return of["listed"], of["done"], of["skipped"], of["quarantined"]


def components(handed_over: HandedOver) -> set[str]:
    return {name for name, _ in handed_over.tasks}


def metadata(handed_over: HandedOver, component: str, artifact: str) -> dict[str, Any]:
    (output,) = [output for name, output in handed_over.tasks if name == component]
    found: dict[str, Any] = output["artifacts"][artifact]["artifacts"][0].get("metadata", {})
    return found


def test_a_bucket_with_a_limit_then_in_full_then_with_nothing_new(
    tmp_path: Path, handed_over: HandedOver
) -> None:
    fill(str(tmp_path / "in"), scenes=3)

    assert counts(run(tmp_path, limit=2, run_id="limited")) == (2, 1, 0, 1)
    assert components(handed_over) == MAIN
    listed = metadata(handed_over, "fetch-dataset", "dataset")
    assert listed.items() >= {"listed": 2, "skipped": 0, "shards": 1}.items()
    assert 0 < metadata(handed_over, "evaluate-masks", "metrics")["mean_iou"] <= 1
    assert metadata(handed_over, "publish-results", "metrics")["done"] == 1

    handed_over.tasks.clear()
    assert counts(run(tmp_path, full=True, run_id="full")) == (4, 3, 0, 1)
    assert len(handed_over.tasks) == 2 * 3 + 5, "two shards"

    handed_over.tasks.clear()
    (tmp_path / "in/images/broken.png").unlink()
    assert counts(run(tmp_path, run_id="again")) == (3, 0, 3, 0)
    assert components(handed_over) == MAIN
    assert metadata(handed_over, "segment-images", "probabilities") == {"maps": 0}
    assert metadata(handed_over, "evaluate-masks", "metrics") == {}


def test_images_that_are_all_bad_and_gone_ones(tmp_path: Path, handed_over: HandedOver) -> None:
    folder = open_folder(str(tmp_path / "in"))
    for name in ("a.png", "b.png"):
        folder.write(name, b"no image")
    assert counts(run(tmp_path, run_id="bad")) == (2, 0, 0, 2)
    assert components(handed_over) == MAIN


@pytest.mark.parametrize("measured", [True, False])
def test_sets_of_prompts_with_and_without_ground_truth(
    tmp_path: Path, handed_over: HandedOver, measured: bool
) -> None:
    fill(str(tmp_path / "in"), scenes=2)
    source = tmp_path / "in" if measured else tmp_path / "in" / "images"
    sets = {"good": PROMPTS, "bad ä": [{"name": "circle", "texts": ["a blue square"]}]}
    found = run(tmp_path, evaluate=True, source_uri=str(source), prompt_sets=sets, limit=3, run_id="sets")
    assert counts(found)[1:] == (2, 0, 1)
    assert components(handed_over) == MAIN | {"rank-prompts"}
    ranked = metadata(handed_over, "rank-prompts", "metrics")
    assert bool(ranked) == measured
    classified = metadata(handed_over, "rank-prompts", "classification")
    assert len(classified["confidenceMetrics"]) == 51


def test_example_pictures(tmp_path: Path, handed_over: HandedOver) -> None:
    fill(str(tmp_path / "in"), scenes=1)
    support = open_folder(str(tmp_path / "support"))
    support.write("thing/images/a.png", (tmp_path / "in/images/s0.png").read_bytes())
    found = run(tmp_path, prompts=[], support_uri=str(tmp_path / "support"), run_id="shown", limit=1)
    assert found.manifest["counts"]["listed"] == 1 and components(handed_over) == MAIN


def test_a_local_run_fails_on_what_a_backend_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from kfp import dsl

    from clipseg_kfp.local.runner import LocalRunError, run_pipeline

    @dsl.component(base_image="python", install_kfp_package=False)
    def careless(made: dsl.Output[dsl.Dataset]) -> str:
        made.metadata["deleted"] = None
        return "s3://bucket/manifest.json"

    @dsl.pipeline
    def pipeline() -> str:
        return careless().outputs["Output"]  # type: ignore[no-any-return]

    with pytest.raises(LocalRunError) as caught:
        run_pipeline(pipeline, {}, tmp_path / "log")
    assert "careless" in caught.value.message and "made.deleted" in caught.value.message
