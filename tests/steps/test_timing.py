"""How long steps took, from their artifacts to the manifest and the report; and what a run was made with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from steps_chain import Chain, Run, picture
from test_steps import put

from clipseg_kfp.report.facts import facts_of, time_by_step
from clipseg_kfp.steps import publish_results
from clipseg_kfp.steps.timing import FILE, summed

TIMED = [
    *("encode_prompts", "fetch_dataset"),
    *("preprocess_images", "segment_images", "postprocess_masks", "evaluate_masks"),
]


def publish_again(chain: Chain, run: Run) -> publish_results.Published:
    """As a retry does: the same inputs, which a later attempt may have computed anew in another time."""
    work = chain.work / f"run-{chain.runs}"
    for path in work.rglob(FILE):
        path.write_text(json.dumps({"evaluate_masks": 99.5}))
    return publish_results.run(
        encoded_prompts=work / "prompts", dataset=work / "dataset", evaluation=work / "evaluation", masks=run.shards,
        report=work / "again.html", output_uri=chain.output, job_id=run.manifest["run"],
        model_uri="file:///tiny",
    )  # fmt: skip


@pytest.mark.parametrize("chain", ["folder", "s3"], indirect=True)
def test_a_run_says_how_long_its_steps_took(chain: Chain) -> None:
    put(chain, {"a.png": picture(1), "b.png": picture(2)})
    run = chain(shard_size=1)
    seconds = run.manifest["seconds"]
    assert list(seconds) == TIMED
    shards = [json.loads((shard / FILE).read_text()) for shard in run.shards]
    assert len(shards) == 2 and all(list(shard) == TIMED[2:5] for shard in shards)
    for step in TIMED[2:5]:
        assert seconds[step] == pytest.approx(sum(shard[step] for shard in shards))
    assert "Time by step" in run.published.report and "segment_images" in run.published.report
    assert publish_again(chain, run).report == run.published.report, "the committed times stay"


def test_an_attempt_takes_the_times_of_the_one_before(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    put(chain, {"a.png": picture(1)})

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("clipseg_kfp.results.commit.Attempt.commit", killed)
        with pytest.raises(KeyboardInterrupt):
            chain(run_id="run")
    work = chain.work / "run-1"
    again = publish_results.run(
        encoded_prompts=work / "prompts", dataset=work / "dataset", evaluation=work / "evaluation",
        masks=[path.parent for path in work.rglob("scores.arrow")], report=work / "again.html",
        output_uri=chain.output, job_id="run", model_uri="file:///tiny",
    )  # fmt: skip
    manifest = json.loads(Path(again.manifest.removeprefix("file://")).read_text())
    assert "seconds" in manifest and len({file["name"] for file in manifest["files"]}) == len(
        manifest["files"]
    )
    assert not any("/" in file["name"] for file in manifest["files"]), "in the first attempt's place"


def test_a_run_that_is_to_be_repeatable_tells_no_times(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    put(chain, {"a.png": picture(1)})
    run = chain()
    assert "seconds" not in run.manifest and "Time by step" not in run.published.report
    assert list(chain.work.rglob(FILE)) == [] and summed([chain.work]) == {}


def test_durations() -> None:
    ((name, said),) = time_by_step(
        {"encode_prompts": 1.25, "segment_images": 754.0, "evaluate_masks": 7300.0}
    )
    assert name == "Time by step" and time_by_step({}) == ()
    assert said.startswith("encode_prompts 1.2 s, segment_images 12 min 34 s, evaluate_masks 2 h 1 min (")


def test_a_report_names_all_that_decides_pixels(chain: Chain) -> None:
    put(chain, {"a.png": picture(1)})
    run = chain(
        [
            {"text": "a circle", "threshold": "otsu", "cleaning": {"min_area": "0.1%", "fill_holes": True}},
            {"text": "red things", "threshold": 0.4},
        ],
        tile_size=48,
        flip=True,
    )
    facts = dict(facts_of(run.config, run.manifest))
    assert facts["Thresholds"] == "Otsu (1), 0.40 (1)"
    assert facts["Cleaning"] == "a circle: min area 0.1%, fill holes"
    assert facts["Tiling"].startswith("size 48") and facts["Average with the mirror image"] == "on"
    assert facts["Precision"] == "float32"
    for value in facts.values():
        assert value in run.published.report
    plain = dict(facts_of(run.config, chain().manifest))
    assert (plain["Cleaning"], plain["Tiling"], plain["Thresholds"]) == ("none", "off", "0.50")
