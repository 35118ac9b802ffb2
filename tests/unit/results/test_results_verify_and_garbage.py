"""Verifying results, and removing what no run names."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from codes import fails
from hypothesis import given, settings
from hypothesis import strategies as st
from run_history import write_run

from clipseg_kfp import records
from clipseg_kfp.results import Results
from clipseg_kfp.results.garbage import _staged, find_garbage, remove
from clipseg_kfp.results.inventory import files_of, objects_of
from clipseg_kfp.results.layout import run_key
from clipseg_kfp.results.ledger import Ledger
from clipseg_kfp.results.verify import verify_run
from clipseg_kfp.storage import open_folder

CONFIG = "0123456789abcdef"
IMAGES = [("a/b.jpg", "1", "done"), ("c.jpg", "1", "done"), ("bad.jpg", "1", "quarantined")]


@pytest.fixture(params=["folder", "s3"])
def results(request: pytest.FixtureRequest, tmp_path: Path) -> Results:
    if request.param == "folder":
        return Results(open_folder(str(tmp_path / "out")), CONFIG)
    request.getfixturevalue("s3_env")
    return Results(open_folder(f"s3://{request.getfixturevalue('bucket')}/out"), CONFIG)


def findings(results: Results) -> list[tuple[str, str]]:
    (manifest,) = results.manifests()
    verified = verify_run(results, manifest)
    assert verified.sound == all(finding.problem == "extra" for finding in verified.findings)
    base = f"{results.folder.uri}/"
    return sorted((finding.problem, unquote(finding.uri.removeprefix(base))) for finding in verified.findings)


def names(results: Results) -> dict[str, list[str]]:
    """Keys of what a run consists of, by kind."""
    (manifest,) = results.manifests()
    keys = [named.key for named in (*files_of(manifest), *objects_of(results, manifest))] + manifest["parts"]
    kinds: dict[str, list[str]] = {}
    for key in keys:
        kinds.setdefault(key.partition("/")[0], []).append(key)
    return kinds


def test_a_sound_run(results: Results) -> None:
    write_run(results, "one", IMAGES)
    (manifest,) = results.manifests()
    verified = verify_run(results, manifest)
    kinds = {kind: len(keys) for kind, keys in names(results).items()}
    assert kinds == {"runs": 4, "labels": 2, "masks": 2, "parts": 1}
    assert (verified.objects, verified.findings) == (9, ())
    assert verified.bytes > 0


@pytest.mark.parametrize("kind", ["runs", "labels", "masks", "parts"])
@pytest.mark.parametrize("damage", ["missing", "changed", "grown"])
def test_every_damage_is_found(results: Results, kind: str, damage: str) -> None:
    write_run(results, "one", IMAGES)
    for key in names(results)[kind]:
        if key.endswith("manifest.json"):
            continue
        data = results.folder.read(key)
        if damage == "missing":
            results.folder.delete(key)
        elif damage == "changed":
            results.folder.write(key, data[:7] + bytes([data[7] ^ 1]) + data[8:])
        else:
            results.folder.write(key, data + b"\0")
        ((problem, where),) = findings(results)
        assert where == key
        assert problem == ("missing" if damage == "missing" else "changed")
        results.folder.write(key, data)
        assert findings(results) == []


def test_what_no_manifest_names_is_told_and_harmless(results: Results) -> None:
    write_run(results, "one", IMAGES)
    results.folder.write("runs/one/other/notes.txt", b"")
    assert findings(results) == [("extra", "runs/one/other/notes.txt")]


def test_tables_that_cannot_be_followed_are_an_error(results: Results, tmp_path: Path) -> None:
    attempt = write_run(results, "one", IMAGES, commit=False)
    attempt.files = [file for file in attempt.files if file["name"] != "masks.parquet"]
    records.write_parquet(tmp_path / "masks.parquet", records.GALLERY, [])
    attempt.add("masks.parquet", tmp_path / "masks.parquet")
    attempt.commit(records_counts(), {"dataset_digest": "", "parts": []})
    (manifest,) = results.manifests()
    with fails("run_tables_unreadable", where="runs/one/"):
        verify_run(results, manifest)
    with fails("run_unreadable", where="runs/one/manifest.json"):
        list(find_garbage(results.output, older_than=0, configs=[CONFIG]))


def records_counts() -> Any:
    from clipseg_kfp.results import Counts

    return Counts(3, 2, 0, 1, 2)


def garbage(results: Results, older_than: float = 0, **options: Any) -> list[str]:
    time.sleep(0.01)  # a file of this very instant is not older
    found = find_garbage(results.output, older_than=older_than, configs=[CONFIG], **options)
    return sorted(item.key for item in found)


def listing(results: Results) -> dict[str, bytes]:
    return {entry.key: results.output.read(entry.key) for entry in results.output.entries()}


def age(results: Results) -> None:
    """S3 tells when objects were written in whole seconds in places."""
    if results.output.uri.startswith("s3"):
        time.sleep(1.1)


def test_a_killed_runs_objects_go(results: Results) -> None:
    write_run(results, "one", IMAGES)
    write_run(results, "two", [("late.jpg", "1", "done"), *IMAGES[:1]])
    kept = listing(results)
    write_run(results, "killed", [("new.jpg", "1", "done"), *IMAGES[:1]], commit=False)
    others = {"notes.txt": b"1", f"{CONFIG}/notes.txt": b"2", "images/masks/a.png": b"3", "masks/x.png": b"4"}
    for key, data in others.items():
        results.output.write(key, data)
    left = {f"{CONFIG}/masks", f"{CONFIG}/labels", f"{CONFIG}/runs", f"{CONFIG}/parts"}
    age(results)
    found = garbage(results)
    assert {"/".join(key.split("/")[:2]) for key in found} == left
    assert all("new.jpg" in key or "/runs/killed/" in key or "/parts/" in key for key in found)
    assert garbage(results, older_than=1) == []
    before = listing(results)
    assert listing(results) == before, "looking removes nothing"
    items = list(find_garbage(results.output, older_than=0, configs=[CONFIG]))
    assert remove(results.output, items) == len(items) == len(found)
    assert listing(results) == kept | others
    assert remove(results.output, items) == 0, "they are gone"
    assert garbage(results) == []


def test_what_was_written_again_stays(tmp_path: Path) -> None:
    results = Results(open_folder(str(tmp_path)), CONFIG)
    write_run(results, "killed", [("new.jpg", "1", "done")], commit=False)
    items = list(find_garbage(results.output, older_than=0, configs=[CONFIG]))
    mask = next(tmp_path.rglob("cat.*.png"))
    later = time.time() + 60
    os.utime(mask, (later, later))
    assert remove(results.output, items) == len(items) - 1
    assert mask.exists()


def test_a_claim_that_another_attempt_takes_up_stays(tmp_path: Path) -> None:
    """A killed attempt left it days ago; the next one has the same content, and so the same claim."""
    results = Results(open_folder(str(tmp_path)), CONFIG)
    results.describe({})
    claim = tmp_path / CONFIG / run_key("run", (killed := results.begin("run", "content")).files[0]["name"])
    days_ago = time.time() - 3 * 24 * 3600
    os.utime(claim, (days_ago, days_ago))
    items = list(find_garbage(results.output, older_than=24, configs=[CONFIG]))
    assert [Path(item.key).name for item in items] == [claim.name]
    assert results.begin("run", "content") == killed
    assert remove(results.output, items) == 0
    assert claim.exists()


def test_a_run_that_is_committed_while_objects_are_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = Results(open_folder(str(tmp_path)), CONFIG)
    write_run(results, "first", IMAGES)
    write_run(results, "running", [("new.jpg", "1", "done")], commit=False)
    kind = type(results.folder)
    entries = kind.names

    def slow(self: Any, prefix: str = "") -> Any:
        yield from entries(self, prefix)
        if not prefix:
            write_run(results, "running", [("new.jpg", "1", "done")])

    monkeypatch.setattr(kind, "names", slow)
    assert garbage(results) == []


def test_staging_goes_where_it_is_asked_for(results: Results) -> None:
    write_run(results, "one", IMAGES)
    results.output.write("staging/0123456789abcdef/files/1", b"x")
    age(results)
    assert garbage(results) == []
    assert garbage(results, staging=True) == ["staging/0123456789abcdef/files/1"]


def test_an_archive_goes_as_a_whole_and_its_mark_first(
    results: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = "staging/0123456789abcdef"
    write_run(results, "one", IMAGES)
    for key in ("files/1", "files/2"):
        results.output.write(f"{place}/{key}", b"x")
    results.output.write(f"{place}/index.json", b"{}")
    # the mark is young, and speaks of the others
    assert not list(_staged(results.output, lambda entry: not entry.key.endswith("index.json")))
    found = list(_staged(results.output, lambda _: True))
    assert [item.key for item in found] == [
        f"{place}/{name}" for name in ("index.json", "files/1", "files/2")
    ]
    deleted: list[str] = []
    delete = type(results.output).delete

    def noted(self: Any, key: str) -> None:
        deleted.append(key)
        delete(self, key)

    monkeypatch.setattr(type(results.output), "delete", noted)
    assert remove(results.output, found[::-1]) == 3
    assert deleted[0] == f"{place}/index.json"


def test_snapshots_in_use_stay(results: Results) -> None:
    for i in range(3):
        write_run(results, f"{i}", [(f"{i}", "1", "done")])
        results.folder.write(f"ledger/{i}.parquet", b"x" * i)
    key = Ledger.read(results).compact()
    age(results)
    assert f"{CONFIG}/{key}" not in garbage(results)


def test_what_a_killed_write_left_in_a_folder(tmp_path: Path) -> None:
    results = Results(open_folder(str(tmp_path)), CONFIG)
    write_run(results, "one", IMAGES)
    rest = tmp_path / CONFIG / "masks" / ".part-abc"
    rest.write_bytes(b"half")
    assert garbage(results) == [f"{CONFIG}/masks/.part-abc"]


keys = st.sampled_from(["a.jpg", "b.jpg", "d/a.jpg", "ü.jpg"])
runs = st.lists(
    st.tuples(
        st.sets(st.tuples(keys, st.sampled_from("12"), st.sampled_from(["done", "quarantined"])), max_size=4),
        st.sampled_from(["commit", "killed", "compact", "forgotten"]),
    ),
    max_size=6,
)


@settings(max_examples=25, deadline=None)
@given(history=runs)
def test_nothing_that_a_manifest_names_ever_goes(
    tmp_path_factory: pytest.TempPathFactory, history: list[Any]
) -> None:
    results = Results(open_folder(str(tmp_path_factory.mktemp("out"))), CONFIG)
    results.describe({})
    for number, (images, what) in enumerate(history):
        once = list({image[:2]: image for image in sorted(images)}.values())
        write_run(results, f"{number}", once, commit=what != "killed")
        if what == "compact":
            Ledger.read(results).compact()
        if what == "forgotten":
            results.folder.delete(f"runs/{number}/manifest.json")
    remove(results.output, list(find_garbage(results.output, older_than=0, configs=[CONFIG])))
    manifests = list(results.manifests())
    assert len(manifests) == sum(what in ("commit", "compact") for _, what in history)
    assert all(not verify_run(results, manifest).findings for manifest in manifests)
    named = {"configuration.json", "latest.json"}
    for manifest in manifests:
        named |= {one.key for one in (*files_of(manifest), *objects_of(results, manifest))}
        named |= set(manifest["parts"])
    there = {entry.key for entry in results.folder.names() if not entry.key.startswith("ledger/")}
    assert there <= named, "and everything else is gone"
