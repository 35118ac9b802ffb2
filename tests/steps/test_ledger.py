"""What later runs make of earlier ones, and what is refused, through the whole chain of steps."""

from __future__ import annotations

import io
import re
import time
from collections import Counter
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from codes import fails, refuses
from steps_chain import Chain, Run, picture
from test_steps import contents, counts, put

from clipseg_kfp import records
from clipseg_kfp.engine import Engine
from clipseg_kfp.errors import ObjectUnreadableError, StorageError
from clipseg_kfp.options import Limits
from clipseg_kfp.results import Results, ledger
from clipseg_kfp.results.garbage import find_garbage
from clipseg_kfp.results.ledger import Ledger
from clipseg_kfp.results.verify import verify_run
from clipseg_kfp.steps import publish_results
from clipseg_kfp.steps.artifacts import ShardMasks
from clipseg_kfp.storage import open_folder
from clipseg_kfp.storage.files import FileFolder

FILES = {f"{i}.png": picture(i) for i in range(3)}


def table(run: Run, name: str) -> list[dict[str, Any]]:
    base = f"runs/run~20{run.manifest['run'].removeprefix('run ')}"
    rows: list[dict[str, Any]] = pq.read_table(io.BytesIO(run.folder.read(f"{base}/{name}"))).to_pylist()
    return rows


def test_a_second_run_loads_no_engine(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    put(chain, FILES)
    assert chain().maps == 6

    def load(*_: Any, **__: Any) -> Engine:
        raise AssertionError("the model is not needed")

    monkeypatch.setattr(Engine, "load", load)
    again = chain()
    assert counts(again) == (3, 0, 3, 0)
    (shard,) = again.shards
    assert ShardMasks(shard).engine() == {"maps": 0}
    assert again.manifest["inference"] == []


@pytest.mark.parametrize("chain", ["folder", "s3"], indirect=True)
def test_the_run_names_every_object_and_they_verify(chain: Chain) -> None:
    put(chain, {**FILES, "bad.png": b""})
    run = chain(probability_bits=8, shard_size=2)
    verified = verify_run(Results(open_folder(chain.output), run.config), run.manifest)
    assert verified.findings == ()
    named = 3 * (2 + 2 + 2)  # masks and probability maps of two prompts, label map and overlay
    assert verified.objects == named + len(run.manifest["files"]) + 1 + len(run.manifest["parts"])
    garbage = find_garbage(open_folder(chain.output), older_than=-1, configs=[run.config])
    # What only a run in progress needs may go: a plan, two shards that are done, the images of two parts.
    names = [item.key.partition("/")[2] for item in garbage]
    kinds = Counter(
        re.sub(r"^runs/[^/]+/|\d", "", name).partition(".")[0].partition("-")[0] for name in names
    )
    assert {kind: count for kind, count in kinds.items() if not kind.startswith("parts/")} == {
        "plan": 1, "shards/shard": 2,
    }  # fmt: skip
    assert sum(name.startswith("parts/") and ".images." in name for name in names) == len(names) - 3 == 2
    images = table(run, "images.parquet")
    assert {row["key"]: row["status"] for row in images} == {
        **dict.fromkeys(FILES, "done"), "bad.png": "quarantined",
    }  # fmt: skip


def test_all_again(chain: Chain) -> None:
    put(chain, {**FILES, "bad.png": b""})
    first = chain()
    before = contents(chain.output)
    full = chain(full=True)
    assert counts(full) == counts(first) == (4, 3, 0, 1)
    assert full.maps == first.maps == 6
    assert full.manifest["deleted"] == 0
    after = contents(chain.output)
    assert {key for key in before if before[key] != after[key]} == {f"{first.config}/latest.json"}
    assert counts(chain(full=True, limit=1)) == (4, 1, 3, 0)
    assert counts(chain()) == (4, 0, 3, 1)


@pytest.mark.parametrize("chain", ["folder", "s3"], indirect=True)
def test_what_was_removed_is_reported(chain: Chain, capsys: pytest.CaptureFixture[str]) -> None:
    put(chain, FILES)
    first = chain()
    assert first.manifest["deleted"] == 0
    open_folder(chain.source).delete("1.png")
    put(chain, {"0.png": picture(9)})
    capsys.readouterr()
    second = chain()
    assert counts(second) == (2, 1, 1, 0)
    assert second.manifest["deleted"] == 1, "0.png was replaced, and is there"
    said = capsys.readouterr().out
    assert "1.png" in said and "0.png" not in said
    (row,) = table(second, "deleted.parquet")
    assert (row["key"], row["run"]) == ("1.png", "run 1")
    assert row["version"] == first.images()["1.png"]["version"]
    for mask in first.masks():
        first.pixels(mask["mask"])  # all there
    limited = chain(limit=1)
    assert limited.manifest["deleted"] == 1, "a limit does not end the listing"
    assert chain(["another thing"], limit=1).manifest["counts"]["left"] == 1


def test_runs_are_gathered_when_there_are_many(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "UNCOVERED_RUNS", 1)
    put(chain, {"0.png": picture(0)})
    runs = [chain()]
    for i in range(1, 4):
        put(chain, {f"{i}.png": picture(i)})
        runs.append(chain())
        assert counts(runs[-1]) == (i + 1, 1, i, 0)
    snapshots = [entry.key for entry in runs[0].folder.names("ledger/")]
    assert len(snapshots) == 1
    runs[0].folder.write(snapshots[0], b"damaged")
    assert counts(chain()) == (4, 0, 4, 0)


@pytest.mark.parametrize(
    "error", [OSError(28, "No space"), MemoryError(), pa.ArrowInvalid("odd"), StorageError("x")]
)
def test_a_ledger_that_cannot_be_gathered_fails_no_run(
    chain: Chain, error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The run is committed by then."""

    def fail(_: Ledger) -> str:
        raise error

    results = Results(open_folder(chain.output), "c0")
    results.describe({})
    monkeypatch.setattr(Ledger, "compact", fail)
    publish_results._compact(results)
    out = capsys.readouterr().out
    assert f"[{publish_results.STEP}]" in out and str(error) in out


# What is not committed


def publish(chain: Chain, run: Run, **changes: Any) -> None:
    work = chain.work / "run-1"
    given: dict[str, Any] = {
        "masks": run.shards, "dataset": work / "dataset", "encoded_prompts": work / "prompts",
        "evaluation": work / "evaluation", "report": work / "again.html", "output_uri": chain.output,
        "job_id": "another",
    }  # fmt: skip
    publish_results.run(**{**given, **changes})


def test_losses_doubles_and_strangers_are_not_committed(chain: Chain) -> None:
    put(chain, FILES)
    run = chain(shard_size=2)
    before = contents(chain.output)
    first, second = run.shards
    for shards, key in (([first], "2.png"), ([first, second, second], "2.png"), ([first, first], "0.png")):
        with fails("images_do_not_match", where=key):
            publish(chain, run, masks=shards)
    images = ShardMasks(second).images_path
    rows = list(records.read_parquet(images))
    records.write_parquet(images, records.IMAGES, [*rows, {**rows[0], "key": "stranger.png"}])
    with fails("images_do_not_match", where="stranger.png"):
        publish(chain, run)
    records.write_parquet(images, records.IMAGES, rows)
    masks = list(records.read_parquet(second / "masks.parquet"))
    records.write_parquet(second / "masks.parquet", records.MASKS, masks[:1])
    with fails("masks_missing"):
        publish(chain, run)
    assert contents(chain.output) == before


def test_an_output_that_was_emptied_is_not_committed(chain: Chain) -> None:
    put(chain, FILES)
    run = chain()
    (part,) = run.manifest["parts"]
    run.folder.delete(part)
    with fails("result_gone", where=part):
        publish(chain, run)
    assert run.folder.stat("runs/another/manifest.json") is None


@pytest.mark.parametrize("kind", ["mask", "label_map", "overlay"])
def test_a_long_run_whose_first_masks_were_tidied_up_is_not_committed(
    chain: Chain, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its part may be young enough to stay when they go."""
    put(chain, FILES)
    run = chain(shard_size=2)
    publish(chain, run, job_id="whole")
    monkeypatch.setattr(time, "time", lambda now=time.time: now() + 21 * 3600)
    key = next(row[kind] for row in table(run, "masks.parquet" if kind == "mask" else "images.parquet"))
    run.folder.delete(key)
    with fails("result_gone", where=key):
        publish(chain, run)
    assert run.folder.stat("runs/another/manifest.json") is None


@pytest.mark.parametrize(("bound", "shard_size"), [("1", 1), ("1", 10), ("30%", 1), ("0.3", 10), ("0", 1)])
def test_too_many_bad_images_end_the_run(chain: Chain, bound: str, shard_size: int) -> None:
    """A bound for the whole run; a shard that exceeds it alone ends the run before the inference."""
    put(chain, {**FILES, "bad.png": b"", "worse.png": b"text"})
    with fails("too_many_quarantined", where="limits.max_quarantined") as caught:
        chain(max_quarantined=bound, shard_size=shard_size)
    if bound != "0":
        assert "2 images" in caught.value.message
        assert "empty: 1 (bad.png)" in caught.value.message
        assert "mislabelled: 1 (worse.png)" in caught.value.message
    assert bool(chain.views_seen) == (shard_size == 1)
    told = {key for key in contents(chain.output) if "/runs/" in key}
    assert all("/plan." in key or "/shards/" in key for key in told)


@pytest.mark.parametrize("bound", ["2", "40%", "0.4", ""])
def test_few_bad_images_do_not(chain: Chain, bound: str) -> None:
    put(chain, {**FILES, "bad.png": b"", "worse.png": b"text"})
    assert counts(chain(max_quarantined=bound)) == (5, 3, 0, 2)


@pytest.mark.parametrize("bound", ["few", "-1", "101%", "1.5", "-5%", "nan", "%", "nan%", "1e3"])
def test_bounds_that_are_none(chain: Chain, bound: str) -> None:
    with refuses(("limits.max_quarantined", "no_number_or_share")):
        chain(max_quarantined=bound)


def test_shares_are_of_the_listed_images() -> None:
    def most(bound: str, listed: int) -> int | None:
        return Limits.read({"max_quarantined": bound}).most_quarantined(listed)

    assert most("5%", 100) == 5
    assert most("29%", 100) == 29, "0.29 * 100 is 28.999999999999996"
    assert most("0.5%", 199) == 0
    assert most("1.0", 7) == most("100%", 7) == 7
    assert most(" 12 ", 5) == 12
    assert most("", 5) is None


def test_a_store_that_refuses_everything_is_no_quarantine(
    chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One refused image is its own fault; all of them are the credentials'."""
    put(chain, FILES)
    read, refused = FileFolder.read, {"0.png"}

    def denied(self: FileFolder, key: str, *given: Any, **more: Any) -> bytes:
        if key in refused:
            raise ObjectUnreadableError(f"Access to {key} is denied.")
        return read(self, key, *given, **more)

    monkeypatch.setattr(FileFolder, "read", denied)
    assert counts(chain()) == (3, 2, 0, 1)
    assert counts(chain()) == (3, 0, 2, 1), "and it stays in quarantine"
    refused |= set(FILES)
    with fails("store_refuses_all") as caught:
        chain(["another thing"])
    assert "0.png" in caught.value.message
