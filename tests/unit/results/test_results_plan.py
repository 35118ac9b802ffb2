"""How far a run is, as the bucket tells it."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from clipseg_kfp.results import Results
from clipseg_kfp.results.plan import (
    FinishedShard,
    Plan,
    PlannedShard,
    is_progress,
    read_progress,
    write_finished,
    write_plan,
)
from clipseg_kfp.storage import open_folder

CONFIG, OTHER = "0123456789abcdef", "fedcba9876543210"
SHARDS = (PlannedShard("shard-000", 100), PlannedShard("shard-001", 40))
PLAN = Plan("one", "s3://in", 165, 5, 20, 7, 140, SHARDS)


@pytest.fixture(params=["folder", "s3"])
def results(request: pytest.FixtureRequest, tmp_path: Path) -> Results:
    if request.param == "folder":
        (tmp_path / "out").mkdir()
        return Results(open_folder(str(tmp_path / "out")), CONFIG)
    request.getfixturevalue("s3_env")
    return Results(open_folder(f"s3://{request.getfixturevalue('bucket')}/out"), CONFIG)


def pause(results: Results) -> None:
    """Some stores tell whole seconds."""
    time.sleep(1.1 if results.output.uri.startswith("s3") else 0.02)


def shard(number: int, images: int, quarantined: int = 0) -> FinishedShard:
    done = images - quarantined
    return FinishedShard(SHARDS[number].name, images, done, quarantined, 2 * done, f"parts/{number}.parquet")


def test_a_run_is_followed_from_its_plan_to_its_end(results: Results) -> None:
    before = time.time()
    assert read_progress(results.output, "one") is None
    write_plan(results, PLAN)
    begun = read_progress(results.output, "one")
    assert begun is not None
    assert (begun.config, begun.finished, begun.committed) == (CONFIG, (), False)
    assert begun.images_done == 20, "those that were taken over"
    assert begun.plan.shards == SHARDS
    assert (begun.plan.listed, begun.plan.left, begun.plan.to_do) == (165, 7, 140)
    assert begun.plan.created.endswith("Z")
    write_finished(results, "one", shard(1, 40, quarantined=3))
    write_finished(results, "one", shard(0, 100))
    done = read_progress(results.output, "one")
    assert done is not None
    assert [(one.shard, one.done, one.quarantined) for one in done.finished] == [
        ("shard-000", 100, 0), ("shard-001", 37, 3)
    ]  # fmt: skip
    assert done.images_done == 160
    assert all(before - 1 <= one.at <= time.time() + 1 for one in done.finished)
    results.write("runs/one/manifest.json", b"{}")
    committed = read_progress(results.output, "one")
    assert committed is not None and committed.committed
    assert read_progress(results.output, "two") is None


def test_the_newest_plan_counts_and_only_what_was_done_since(results: Results) -> None:
    write_plan(results, PLAN)
    write_finished(results, "one", shard(0, 100))
    write_finished(results, "one", shard(1, 40))
    pause(results)
    write_plan(results, Plan("one", "s3://in", 140, 0, 100, 0, 40, SHARDS[:1]))
    found = read_progress(results.output, "one")
    assert found is not None
    assert (found.plan.taken_over, found.finished) == (100, ())
    write_finished(results, "one", shard(0, 40))
    pause(results)
    write_finished(results, "one", shard(0, 40, quarantined=1))
    found = read_progress(results.output, "one")
    assert found is not None
    assert [one.quarantined for one in found.finished] == [1], "of two records of a shard the newest"


def test_a_repeated_record_is_the_same_object(results: Results) -> None:
    for _ in range(2):
        write_finished(results, "one", shard(0, 100))
    (key,) = [entry.key for entry in results.folder.names()]
    assert is_progress("one", key)
    assert not is_progress("another", key)
    assert not is_progress("one", "runs/one/attempt.json")
    assert not is_progress("one", "runs/one/0123456789abcdef/report.html")


def test_of_two_configurations_the_one_that_was_planned_last(results: Results) -> None:
    write_plan(results, PLAN)
    pause(results)
    write_plan(Results(results.output, OTHER), PLAN)
    found = read_progress(results.output, "one")
    assert found is not None and found.config == OTHER


@pytest.mark.parametrize("damage", [b"", b"no JSON", b"[]", b"{}", b'{"run": "one"}', b'{"shards": 7}'])
def test_damaged_records_are_passed_over(results: Results, damage: bytes) -> None:
    write_plan(results, PLAN)
    write_finished(results, "one", shard(1, 40))
    pause(results)
    results.write("runs/one/plan.000000000000.json", damage)
    results.write("runs/one/shards/shard-000.000000000000.json", damage)
    found = read_progress(results.output, "one")
    assert found is not None
    assert [one.shard for one in found.finished] == ["shard-001"]
    assert found.plan.listed == 165


@pytest.mark.parametrize("run", ["a/b", "../x", "名 [1]", "x" * 300])
def test_any_name_of_a_run(results: Results, run: str) -> None:
    write_plan(results, Plan(run, "s3://in", 1, 0, 0, 0, 1, (PlannedShard("shard-000", 1),)))
    write_finished(results, run, FinishedShard("shard-000", 1, 1, 0, 1, ""))
    found = read_progress(results.output, run)
    assert found is not None
    assert (found.plan.run, len(found.finished)) == (run, 1)
