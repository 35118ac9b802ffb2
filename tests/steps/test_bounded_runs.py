"""Buckets that do not fit into a run, and what a run makes of parts that a failed attempt left behind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from codes import fails
from grouped import grouped
from steps_chain import Chain, Run, mask_picture, picture
from test_steps import contents, counts, put

from clipseg_kfp.results import Results
from clipseg_kfp.results.garbage import find_garbage
from clipseg_kfp.results.plan import Progress, read_progress
from clipseg_kfp.results.verify import verify_run
from clipseg_kfp.steps import fetch_dataset, postprocess_masks, publish_results, sharding
from clipseg_kfp.steps.artifacts import Listing
from clipseg_kfp.storage import open_folder

on_both = pytest.mark.parametrize("chain", ["folder", "s3"], indirect=True)
FILES = {f"{i}.png": picture(i) for i in range(6)}
PROMPTS = 2


class FailedError(Exception):
    """What ends an attempt in these tests."""


def attempt(chain: Chain, patch: pytest.MonkeyPatch, shards: int, **options: Any) -> None:
    """A run that fails before it publishes, when so many shards are done."""
    real, done = postprocess_masks.run, 0

    def some(**given: Any) -> int:
        nonlocal done
        if done == shards:
            raise FailedError
        done += 1
        return real(**given)

    def none(**_: Any) -> None:
        raise FailedError

    with patch.context() as inner, pytest.raises(FailedError):
        inner.setattr(postprocess_masks, "run", some)
        inner.setattr(publish_results, "run", none)
        chain(**options)


def masks_of(run: Run) -> dict[tuple[str, str], bytes]:
    """Each image's masks, as the committed table names them."""
    (name,) = (file["name"] for file in run.manifest["files"] if file["name"].endswith("masks.parquet"))
    return {(row["key"], row["prompt"]): run.folder.read(row["mask"]) for row in table(run, name)}


def table(run: Run, name: str) -> list[dict[str, Any]]:
    import io

    import pyarrow.parquet as pq

    place = run.published.manifest.rpartition("/")[0].rpartition("/runs/")[2]
    rows: list[dict[str, Any]] = pq.read_table(
        io.BytesIO(run.folder.read(f"runs/{place}/{name}"))
    ).to_pylist()
    return rows


def progress(chain: Chain, run: str) -> Progress:
    found = read_progress(open_folder(chain.output), run)
    assert found is not None
    return found


def check_sound(chain: Chain, run: Run) -> None:
    found = run.published.counts
    assert found.listed == found.done + found.skipped + found.quarantined
    assert found.masks == found.done * PROMPTS
    verified = verify_run(Results(open_folder(chain.output), run.config), run.manifest, quiet=True)
    assert verified.findings == ()
    assert len(table(run, "images.parquet")) == found.done + found.quarantined
    names = [(row["key"], row["version"]) for row in table(run, "images.parquet") if row["status"] == "done"]
    masks = [(row["key"], row["version"]) for row in table(run, "masks.parquet")]
    assert masks == [name for name in names for _ in range(PROMPTS)], "in the order of images"


# What fits into a run


def small(monkeypatch: pytest.MonkeyPatch, shards: int, images: int) -> None:
    """Bounds runs to so many shards of so many images, which have 40 x 30 pixels here."""
    one = 64_000 + 32**2 * (3 + PROMPTS / 2)
    monkeypatch.setattr(sharding, "MAX_SHARDS", shards)
    monkeypatch.setattr(sharding, "SHARD_BYTES", int(one * (images + 0.5)))


@on_both
def test_runs_that_do_not_fit_go_on_where_the_last_one_ended(
    chain: Chain, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small(monkeypatch, shards=3, images=2)
    put(chain, {**{f"{i:02}.png": picture(i) for i in range(13)}, "bad.png": b"", "worse.png": b"text"})
    left, done, seen = 15, 0, []
    for expected in (9, 3, 0):
        run = chain(shard_size=1)
        check_sound(chain, run)
        found = run.published.counts
        assert found.left == expected
        assert found.listed + found.left == 15
        assert found.done + found.quarantined - (2 if found.left == 0 else 0) <= left - found.left <= 6
        left, done = found.left, done + found.done
        seen += [row["key"] for row in table(run, "images.parquet") if row["status"] == "done"]
        assert json.loads(run.folder.read(f"runs/run~20{chain.runs}/metrics.json"))["counts"]["left"] == left
        assert ("are left for the next run" in capsys.readouterr().out) == bool(left)
        assert len(run.dataset.shards) <= 3
        plan = progress(chain, f"run {chain.runs}").plan
        assert (plan.left, plan.listed, plan.to_do) == (
            left,
            found.listed,
            sum(s.images for s in plan.shards),
        )
    assert sorted(seen) == [f"{i:02}.png" for i in range(13)]
    assert done == 13
    assert counts(chain())[:3] == (15, 0, 13)


def test_thousands_of_images_in_shards_of_ten(chain: Chain, tmp_path: Path) -> None:
    from clipseg_kfp.steps import encode_prompts

    encode_prompts.run(model=chain.model, encoded_prompts=tmp_path / "prompts", prompts=["a circle"])
    put(chain, {f"{i}.png": b"%d" % i for i in range(2_500)})
    given: dict[str, Any] = {
        "source_uri": chain.source, "output_uri": chain.output, "encoded_prompts": tmp_path / "prompts",
    }  # fmt: skip
    found = fetch_dataset.run(**given, dataset=tmp_path / "all", **grouped(shard_size=10))
    assert (found.listed, found.left, len(found.shards)) == (2_500, 0, 24)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sharding, "SHARD_BYTES", 50 * 68_000)
        bounded = fetch_dataset.run(**given, dataset=tmp_path / "some", **grouped(shard_size=10))
    assert bounded.listed + bounded.left == 2_500
    assert bounded.listed == 24 * 50
    listing = Listing(tmp_path / "some")
    assert max(pq.read_metadata(listing.shard_path(name)).num_rows for name in bounded.shards) == 50
    values = json.loads((tmp_path / "some" / Listing.SUMMARY).read_text()).values()
    assert None not in values, "the backend refuses it"


def test_a_schedule_goes_on_night_by_night(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failed night, a good one, images that come in between: in the end all are done, each once."""
    small(monkeypatch, shards=2, images=2)
    put(chain, FILES)
    attempt(chain, monkeypatch, 1)
    second = chain()
    assert counts(second) == (6, 6, 0, 0), "2 taken over, and 4 that fit"
    put(chain, {f"late-{i}.png": picture(i + 20) for i in range(5)})
    third = chain()
    assert counts(third) == (10, 4, 6, 0)
    assert third.published.counts.left == 1
    fourth = chain()
    assert counts(fourth) == (11, 1, 10, 0)
    for run in (second, third, fourth):
        check_sound(chain, run)


def test_images_that_were_set_aside_wait_and_take_turns(
    chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    small(monkeypatch, shards=1, images=2)
    put(chain, {f"{i}.png": b"bad" for i in range(3)})
    tried = []
    for expected in ((2, 0, 0, 2), (3, 0, 2, 1), (3, 0, 1, 2), (3, 0, 1, 2)):
        run = chain(retry_quarantined=True)
        assert counts(run) == expected or (run.published.counts.left == 0 and counts(run)[0] == 3)
        tried.append({row["key"] for row in table(run, "images.parquet")})
    assert set.union(*tried[-2:]) == {"0.png", "1.png", "2.png"}


def test_full_runs_take_turns(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    put(chain, FILES)
    assert counts(chain()) == (6, 6, 0, 0)
    small(monkeypatch, shards=2, images=1)
    tried = [{row["key"] for row in table(chain(full=True), "images.parquet")} for _ in range(3)]
    assert [len(keys) for keys in tried] == [2, 2, 2]
    assert set.union(*tried) == set(FILES)
    assert counts(chain(full=True)) == (6, 2, 4, 0)


# Taking over


@on_both
def test_parts_of_a_failed_attempt_are_taken_over(
    chain: Chain, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    put(chain, {**FILES, "bad.png": b""})
    output, chain.output = chain.output, f"{chain.output}-undisturbed"
    whole = chain(shard_size=2)
    chain.output = output
    attempt(chain, monkeypatch, 2, shard_size=2)
    assert progress(chain, "run 2").images_done == 4
    capsys.readouterr()
    run = chain(shard_size=2, formats=("labelstudio", "yolo", "csv"), run_id="second")
    assert "are taken over" in capsys.readouterr().out
    assert run.dataset.taken_over == run.manifest["taken_over"] == 4
    assert counts(run) == counts(whole) == (7, 6, 0, 1)
    assert run.maps == 2 * PROMPTS
    check_sound(chain, run)
    assert masks_of(run) == masks_of(whole)
    assert len(run.manifest["parts"]) == 2 + 1
    assert run.manifest["inference"] == whole.manifest["inference"]
    rows = {row["key"]: row for row in table(run, "images.parquet")}
    for row in table(whole, "images.parquet"):
        assert {**rows[row["key"]]} == row
    tasks = json.loads(run.folder.read("runs/second/annotations.labelstudio.json"))
    assert {Path(task["data"]["image"]).name for task in tasks} == set(FILES)
    followed = progress(chain, "second")
    assert followed.committed and followed.images_done == 7
    assert (followed.plan.taken_over, followed.plan.to_do) == (4, 3)
    assert counts(chain()) == (7, 0, 6, 1), "and they count as done"
    garbage = {item.key.partition("/")[2] for item in find_garbage(
        open_folder(chain.output), older_than=-1, configs=[run.config]
    )}  # fmt: skip
    assert not garbage & {*run.manifest["parts"], *(row["mask"] for row in table(run, "masks.parquet"))}


def test_attempts_that_always_fail_get_further(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is killed after its first shard, the way that a cluster which is too small does it."""
    put(chain, FILES)
    to_do = []
    for number in range(1, 6):
        attempt(chain, monkeypatch, 1, shard_size=1)
        to_do.append(progress(chain, f"run {number}").plan.to_do)
    assert to_do == [6, 5, 4, 3, 2]
    run = chain(shard_size=1)
    assert (counts(run), run.maps) == ((6, 6, 0, 0), PROMPTS)
    check_sound(chain, run)


def test_an_attempt_that_failed_at_its_very_end(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    put(chain, FILES)
    attempt(chain, monkeypatch, 99)
    run = chain(run_id="run 1")
    assert (counts(run), run.maps, run.dataset.shards) == ((6, 6, 0, 0), 0, ["shard-000"])
    check_sound(chain, run)


def test_images_with_ground_truth_are_done_again(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    put(chain, {f"images/{name}": data for name, data in FILES.items()})
    attempt(chain, monkeypatch, 99)
    mask = np.ones((30, 40), bool)
    put(chain, {"masks/a circle/3.png": mask_picture(mask)})
    run = chain()
    assert run.dataset.taken_over == 5
    assert run.maps == PROMPTS
    assert run.evaluation.prompts["a circle"].images == 1
    check_sound(chain, run)


def test_a_limit_counts_what_is_taken_over(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    put(chain, FILES)
    attempt(chain, monkeypatch, 2, shard_size=2)
    first = chain(limit=3)
    assert (counts(first), first.maps, first.published.counts.left) == ((3, 3, 0, 0), 0, 3)
    second = chain(limit=3)
    assert (counts(second), second.maps, second.published.counts.left) == ((6, 3, 3, 0), 3 * PROMPTS, 0)
    # One of its two parts has an image more, but a manifest names it now: it is not looked into again.
    for run in (first, second):
        check_sound(chain, run)


def test_full_takes_nothing_over(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    put(chain, FILES)
    attempt(chain, monkeypatch, 99)
    assert chain(full=True).maps == 6 * PROMPTS


def test_what_is_not_listed_any_more_or_elsewhere_is_not_taken_over(
    chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(chain, FILES)
    attempt(chain, monkeypatch, 99)
    folder = open_folder(chain.source)
    folder.delete("0.png")
    put(chain, {"1.png": picture(99)})
    for key in ("2.png", "3.png"):
        folder.child("elsewhere").write(key, FILES[key])
    elsewhere = chain(source=f"{chain.source}/elsewhere")
    assert (counts(elsewhere), elsewhere.maps) == ((2, 2, 0, 0), 2 * PROMPTS)
    for key in ("2.png", "3.png"):
        folder.delete(f"elsewhere/{key}")
    run = chain()
    assert {row["key"] for row in table(run, "images.parquet")} == {"1.png", "4.png", "5.png"}
    assert run.dataset.taken_over == 2
    for one in (elsewhere, run):
        check_sound(chain, one)


def test_an_image_in_two_parts_is_taken_over_once(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    put(chain, FILES)
    attempt(chain, monkeypatch, 99, shard_size=6)
    attempt(chain, monkeypatch, 99, shard_size=4, full=True)
    attempt(chain, monkeypatch, 99, full=True, shard_size=1)
    runs = []
    for number in range(2):
        run = chain(run_id=f"{number}")
        assert (counts(run), run.maps) == ((6, 6, 0, 0), 0)
        check_sound(chain, run)
        runs.append(run.manifest["parts"])
        run.folder.delete(f"runs/{number}/manifest.json")
    assert runs[0] == runs[1]


@on_both
def test_two_runs_at_once_take_over_the_same_parts(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    put(chain, FILES)
    attempt(chain, monkeypatch, 2, shard_size=2)
    inner: list[Run] = []

    def meanwhile() -> None:
        chain.hook = lambda: None
        inner.append(chain(shard_size=1))

    chain.hook = meanwhile
    outer = chain(shard_size=2, run_id="outer")
    assert outer.dataset.taken_over == inner[0].dataset.taken_over == 4
    for run in (outer, inner[0]):
        assert counts(run) == (6, 6, 0, 0)
        check_sound(chain, run)
    assert masks_of(outer) == masks_of(inner[0])


# Parts that are of no use


def place(chain: Chain) -> Path:
    (found,) = Path(chain.output).glob("*/parts")
    return found.parent


def damage(path: Path, how: str) -> None:
    data = path.read_bytes()
    if how == "missing":
        path.unlink()
    else:
        path.write_bytes(
            {"empty": b"", "cut": data[:-20], "other": data[:9] + bytes([data[9] ^ 1]) + data[10:]}[how]
        )


@pytest.mark.parametrize("table_of", ["images", "masks"])
@pytest.mark.parametrize("how", ["missing", "empty", "cut", "other"])
def test_damaged_parts_are_done_again(
    chain: Chain, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], table_of: str, how: str
) -> None:
    put(chain, FILES)
    attempt(chain, monkeypatch, 2, shard_size=2)
    parts = sorted(place(chain).glob("parts/*"))
    damaged = next(path for path in parts if (".images." in path.name) == (table_of == "images"))
    damage(damaged, how)
    capsys.readouterr()
    run = chain()
    said = capsys.readouterr().out
    assert (f"{damaged.name.partition('.')[0]}.parquet" in said) == (how != "missing")
    assert (run.dataset.taken_over, run.maps) == (2, 4 * PROMPTS)
    assert counts(run) == (6, 6, 0, 0)
    check_sound(chain, run)


@pytest.mark.parametrize("kind", ["masks", "labels", "overlays"])
def test_a_part_whose_objects_are_gone_is_done_again(
    chain: Chain, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    put(chain, FILES)
    attempt(chain, monkeypatch, 2, shard_size=2)
    next(path for path in place(chain).glob(f"{kind}/**/*") if path.is_file()).unlink()
    run = chain()
    assert "is gone" in capsys.readouterr().out
    assert (counts(run), run.dataset.taken_over) == ((6, 6, 0, 0), 2)
    check_sound(chain, run)


@pytest.mark.parametrize("kind", ["masks", "labels", "parts"])
def test_what_goes_after_it_was_taken_over_is_not_committed(
    chain: Chain, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """'results gc' may meet what a failed attempt left, while a run that takes it over goes on."""
    put(chain, FILES)
    attempt(chain, monkeypatch, 2, shard_size=2)
    victim = next(path for path in sorted(place(chain).glob(f"{kind}/**/*")) if path.is_file())
    chain.hook = victim.unlink
    with fails("result_gone"):
        chain(run_id="second")
    assert not list(place(chain).glob("runs/*/manifest.json"))
    chain.hook = lambda: None
    run = chain()
    assert counts(run) == (6, 6, 0, 0)
    check_sound(chain, run)


def test_parts_of_earlier_versions_are_no_use_and_no_harm(
    chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They have no table of images."""
    put(chain, FILES)
    attempt(chain, monkeypatch, 99)
    for path in place(chain).glob("parts/*.images.*"):
        path.unlink()
    run = chain()
    assert (counts(run), run.dataset.taken_over) == ((6, 6, 0, 0), 0)


def test_committed_parts_are_not_read_again(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    from clipseg_kfp.results import ledger, shard_tables

    monkeypatch.setattr(ledger, "UNCOVERED_RUNS", 1)
    for i in range(4):  # the last of them are in a snapshot of the ledger
        put(chain, {f"{i}.png": picture(i)})
        chain()

    def read(*_: Any) -> None:
        raise AssertionError("this part is committed")

    monkeypatch.setattr(shard_tables, "_download_images", read)
    assert counts(chain()) == (4, 0, 4, 0)


def test_a_run_that_only_has_a_plan_is_no_run(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    put(chain, FILES)
    attempt(chain, monkeypatch, 1, shard_size=2)
    results = Results(open_folder(chain.output), place(chain).name)
    assert list(results.manifests()) == []
    before = set(contents(chain.output))
    garbage = {item.key for item in find_garbage(results.output, older_than=-1, configs=[results.config])}
    assert before - garbage == {f"{results.config}/configuration.json"}
    assert not list(find_garbage(results.output, older_than=1, configs=[results.config])), "young"
