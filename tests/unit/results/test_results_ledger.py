from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from codes import fails
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from run_history import write_run

from clipseg_kfp.results import Results, ledger
from clipseg_kfp.results.commit import facts_of
from clipseg_kfp.results.layout import image_id, json_bytes
from clipseg_kfp.results.ledger import DONE, NEW, QUARANTINED, Ledger, ids_of
from clipseg_kfp.storage import open_folder


@pytest.fixture(params=["folder", "s3"])
def results(request: pytest.FixtureRequest, tmp_path: Path) -> Results:
    if request.param == "folder":
        return described(Results(open_folder(str(tmp_path / "out")), "c0"))
    request.getfixturevalue("s3_env")
    return described(Results(open_folder(f"s3://{request.getfixturevalue('bucket')}/out"), "c0"))


def described(results: Results) -> Results:
    results.describe({})
    return results


def gone(results: Results, source: str, *listed: str) -> list[tuple[str, str, str]]:
    rows = Ledger.read(results).gone(source, ids_of(image_id(key) for key in listed))
    return sorted((row["key"], row["version"], row["run"]) for row in rows)


def snapshots(results: Results) -> list[str]:
    return [entry.key for entry in results.folder.names("ledger/")]


def test_only_committed_runs_count(results: Results) -> None:
    images = [("a.jpg", "1"), ("b ü.jpg", "1"), ("c.jpg", "1"), ("a.jpg", "2")]
    assert Ledger.read(results).states(images) == [NEW] * 4
    write_run(results, "killed", [("a.jpg", "1", "done")], commit=False)
    assert Ledger.read(results).states(images) == [NEW] * 4
    write_run(results, "one", [("a.jpg", "1", "done"), ("b ü.jpg", "1", "quarantined")])
    assert Ledger.read(results).states(images) == [DONE, QUARANTINED, NEW, NEW]
    write_run(results, "two", [("b ü.jpg", "1", "done"), ("c.jpg", "1", "quarantined")])
    write_run(results, "empty", [])
    assert Ledger.read(results).states(images) == [DONE, DONE, QUARANTINED, NEW]
    assert Ledger.read(described(Results(results.output, "c1"))).states(images) == [NEW] * 4
    results.folder.delete("runs/two/manifest.json")
    assert Ledger.read(results).states(images) == [DONE, QUARANTINED, NEW, NEW]


@pytest.mark.parametrize("compacted", [False, True])
def test_what_is_gone(results: Results, compacted: bool) -> None:
    write_run(results, "1", [("a", "1", "done"), ("b", "1", "done"), ("bad", "1", "quarantined")], "s3://in/")
    write_run(results, "2", [("b", "2", "done"), ("c", "1", "done")], "s3://in")
    write_run(results, "3", [("d", "1", "done")], "s3://elsewhere")
    if compacted:
        Ledger.read(results).compact()
    assert gone(results, "s3://in", "a", "b", "c", "d") == []
    assert gone(results, "s3://in/", "a", "x") == [("b", "2", "2"), ("c", "1", "2")], "its latest version"
    assert gone(results, "s3://in") == [("a", "1", "1"), ("b", "2", "2"), ("c", "1", "2")]
    assert gone(results, "s3://nowhere") == []


@pytest.mark.parametrize("compacted", [False, True])
def test_the_latest_run_is_the_one_that_was_committed_last(
    results: Results, compacted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock was ahead for one run."""
    for run, day in (("ahead", 20_000), ("right", 5)):
        monkeypatch.setenv("SOURCE_DATE_EPOCH", f"{86400 * day}")
        write_run(results, run, [("a", run, "done"), ("b", "1", "done")])
    if compacted:
        Ledger.read(results).compact()
    found = Ledger.read(results)
    assert gone(results, "s3://in") == [("a", "right", "right"), ("b", "1", "right")]
    assert found.turns([("a", "ahead"), ("a", "right"), ("b", "1")]) == [1, 2, 2]
    assert found.sequence == 2


def test_forty_runs_are_gathered(results: Results) -> None:
    for i in range(40):
        write_run(results, f"{i}", [(f"{i}.jpg", "1", "done"), ("bad", f"{i}", "quarantined")], objects=False)
    before = Ledger.read(results)
    assert before.uncovered == 40 and before.overdue
    before.compact()
    write_run(results, "40", [("40.jpg", "1", "done")], objects=False)
    after = Ledger.read(results)
    assert (after.uncovered, after.overdue, len(after.runs)) == (1, False, 41)
    images = [(f"{i}.jpg", "1") for i in range(42)] + [("bad", "7"), ("bad", "40")]
    assert after.states(images) == [DONE] * 41 + [NEW, QUARANTINED, NEW]
    # Of what was committed nothing is read twice, but a run that went is forgotten.
    results.folder.delete("runs/7/manifest.json")
    assert Ledger.read(results).states([("7.jpg", "1"), ("8.jpg", "1")]) == [NEW, DONE]
    assert gone(results, "s3://in", *(f"{i}.jpg" for i in range(1, 41))) == [("0.jpg", "1", "0")]


def test_a_run_under_an_old_name_is_read_anew(results: Results) -> None:
    """Someone removed a run, and another one took its name: the snapshot speaks of the first."""
    write_run(results, "nightly", [("a", "1", "done")])
    Ledger.read(results).compact()
    for entry in list(results.folder.names("runs/")):
        results.folder.delete(entry.key)
    write_run(results, "nightly", [("b", "1", "done")])
    assert Ledger.read(results).states([("a", "1"), ("b", "1")]) == [NEW, DONE]


@pytest.mark.parametrize("damage", ["flipped", "cut", "empty", "words", "another table"])
def test_a_damaged_snapshot_is_left_out(
    results: Results, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for i in range(3):
        write_run(results, f"{i}", [(f"{i}", "1", "done")])
    key = Ledger.read(results).compact()
    data = results.folder.read(key)
    middle = len(data) // 2
    bad = {
        "flipped": data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :],
        "cut": data[:-9],
        "empty": b"",
        "words": b"hello",
        "another table": results.folder.read("runs/0/images.parquet"),
    }[damage]
    if damage == "another table":  # whole, and of the right name
        results.folder.delete(key)
        key = f"ledger/{ledger.digest(bad, 32)}.parquet"
    results.folder.write(key, bad)
    found = Ledger.read(results)
    assert found.uncovered == 3
    assert found.states([(f"{i}", "1") for i in range(4)]) == [DONE] * 3 + [NEW]
    assert key in capsys.readouterr().out


@pytest.mark.parametrize("damage", ["flipped", "cut", "empty", "another table", "of another version"])
def test_a_damaged_table_of_a_run_is_named(results: Results, damage: str, tmp_path: Path) -> None:
    write_run(results, "one", [("a", "1", "done")], "s3://in")
    write_run(results, "two", [("b", "1", "done")], "s3://in")
    key = "runs/one/images.parquet"
    data = results.folder.read(key)
    middle = data.index(b"s3://in/a")  # of a column that nobody reads
    bad = {
        "flipped": data[:middle] + b"X" + data[middle + 1 :],
        "cut": data[:-9],
        "empty": b"",
        "another table": results.folder.read("runs/two/images.parquet"),
    }
    results.folder.write(key, bad.get(damage, data))
    if damage == "of another version":  # and its manifest tells of it
        pq.write_table(pa.table({"name": ["a"]}), tmp_path / "other")
        results.folder.upload(key, tmp_path / "other")
        manifest = results.read_manifest("runs/one/manifest.json")
        (file,) = (file for file in manifest["files"] if file["name"] == "images.parquet")
        file.update(facts_of(tmp_path / "other"))
        results.write("runs/one/manifest.json", json_bytes(manifest))
    with fails("run_table_damaged", where=key) as caught:
        Ledger.read(results)
    assert results.folder.locate("runs/one/manifest.json") in caught.value.remedy
    results.folder.delete("runs/one/manifest.json")
    assert Ledger.read(results).states([("a", "1"), ("b", "1")]) == [NEW, DONE]


def test_old_snapshots_go_but_the_last(results: Results) -> None:
    for i in range(4):
        write_run(results, f"{i}", [(f"{i}", "1", "done")])
        Ledger.read(results).compact()
    assert len(snapshots(results)) == 2
    assert Ledger.read(results).compact() in snapshots(results), "the same runs give the same bytes"
    assert len(snapshots(results)) == 1, "and none is needless"


def test_a_run_that_lost_its_table_is_done_again(
    results: Results, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(results, "one", [("a", "1", "done")])
    results.folder.delete("runs/one/images.parquet")
    assert Ledger.read(results).states([("a", "1")]) == [NEW]
    assert "'one'" in capsys.readouterr().out


keys = st.sampled_from(["a", "A", "b", "a\0", "", "ü", "x" * 300])
histories = st.lists(
    st.tuples(
        st.lists(
            st.tuples(keys, st.sampled_from(["1", "2"]), st.sampled_from(["done", "quarantined"])), max_size=5
        ),
        st.sampled_from(["s3://in", "s3://in/", "s3://other"]),
        st.sampled_from(["commit", "commit", "commit", "killed", "compact"]),
    ),
    max_size=7,
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(history=histories, listed=st.sets(keys))
def test_it_tells_what_a_plain_history_does(
    tmp_path_factory: pytest.TempPathFactory, history: list[Any], listed: set[str]
) -> None:
    results = described(Results(open_folder(str(tmp_path_factory.mktemp("out"))), "c0"))
    done: dict[tuple[str, str], None] = {}
    quarantined: set[tuple[str, str]] = set()
    mine: set[str] = set()
    for number, (drawn, source, what) in enumerate(history):
        images = list({image[:2]: image for image in drawn}.values())
        write_run(results, f"{number:02d}", images, source, commit=what != "killed", objects=False)
        if what != "killed":
            done |= {image[:2]: None for image in images if image[2] == "done"}
            quarantined |= {image[:2] for image in images if image[2] != "done"}
            mine |= {key for key, _, state in images if state == "done" and source != "s3://other"}
        if what == "compact":
            Ledger.read(results).compact()
    every = [(key, version) for key in ["a", "A", "b", "a\0", "", "ü", "x" * 300] for version in "12"]
    expected = [DONE if i in done else QUARANTINED if i in quarantined else NEW for i in every]
    assert Ledger.read(results).states(every) == expected
    assert {key for key, _, _ in gone(results, "s3://in", *listed)} == mine - listed


def test_digests_that_end_in_zeros_stay_apart() -> None:
    """NumPy's text type pads with zeros."""
    ids = [b"\0" * 16, b"a" + b"\0" * 15, b"a" * 15 + b"\0", b"\0" * 15 + b"a"]
    known = ledger.np.sort(ids_of(ids))
    assert ledger.among(ids_of(ids), known).all()
    for i in range(4):
        rest = ledger.np.sort(ids_of(ids[:i] + ids[i + 1 :]))
        assert ledger.among(ids_of(ids), rest).sum() == 3


@pytest.mark.parametrize("content", [b"", b'{"run": 1', b"[]", b'{"other": "file"}', b"\xff"])
def test_a_damaged_manifest_is_named(tmp_path: Path, content: bytes) -> None:
    results = described(Results(open_folder(str(tmp_path)), "c0"))
    write_run(results, "a", [("x", "1", "done")], "s3://in", objects=False)
    (key,) = [entry.key for entry in results.committed()]
    results.folder.write(key, content)
    for read in (
        Ledger.read,
        lambda results: list(results.manifests()),
        lambda results: results.manifest("a"),
    ):
        with fails("manifest_damaged", where="runs/a/manifest.json"):
            read(results)


def test_a_manifest_that_goes_while_all_are_read_is_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = described(Results(open_folder(str(tmp_path)), "c0"))
    for name in ("a", "b"):
        write_run(results, name, [(name, "1", "done")], "s3://in", objects=False)
    listed = list(results.committed())
    monkeypatch.setattr(Results, "committed", lambda self: iter(listed))
    results.folder.delete(listed[0].key)
    assert [manifest["run"] for manifest in results.manifests()] == ["b"]
