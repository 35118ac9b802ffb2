from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from clipseg_kfp import records
from clipseg_kfp.errors import StorageError
from clipseg_kfp.results import Counts, Results, configuration_digest
from clipseg_kfp.storage import open_folder

COUNTS = Counts(listed=3, done=2, skipped=0, quarantined=1, masks=4)


@pytest.fixture(params=["folder", "s3"])
def output(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "folder":
        return str(tmp_path / "out")
    request.getfixturevalue("s3_env")
    return f"s3://{request.getfixturevalue('bucket')}/out"


def write_part(output: str, name: str, images: list[tuple[str, str]], folder: Path) -> str:
    rows = [
        {**dict.fromkeys(records.MASKS.names), "key": key, "version": version, "prompt": prompt}
        for key, version in images
        for prompt in ("cat", "dog")
    ]
    records.write_parquet(folder / "part.parquet", records.MASKS, rows)
    key = f"parts/{name}.parquet"
    Results(open_folder(output), "c0").write(key, (folder / "part.parquet").read_bytes())
    return key


@pytest.mark.parametrize(
    "counts", [Counts(1), Counts(0, 1), Counts(5, 1, 1, 1), Counts(3, 1, 1, 0), Counts(2, 1, 1, 1)]
)
def test_counts_must_add_up(counts: Counts, output: str) -> None:
    store = Results(open_folder(output), "c0")
    store.write("configuration.json", b"{}")
    with pytest.raises(StorageError, match="do not add up") as caught:
        store.commit("run", counts, {})
    for number in (counts.listed, counts.done, counts.skipped, counts.quarantined):
        assert str(number) in str(caught.value)
    assert list(store.manifests()) == []


def test_counts_that_add_up() -> None:
    Counts().check()
    COUNTS.check()


def test_the_manifest_is_written_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = open_folder(str(tmp_path))
    write = type(folder).write
    order: list[str] = []

    def spy(self: Any, key: str, data: bytes, content_type: str = "") -> None:
        order.append(key)
        write(self, key, data, content_type)

    monkeypatch.setattr(type(folder), "write", spy)
    store = Results(folder, "c0")
    store.add_to_run("run", "b.json", b"{}\n")
    store.add_to_run("run", "a.html", b"<p>")
    assert list(store.manifests()) == []
    uri = store.commit("run", COUNTS, {"parts": []})
    assert order == ["runs/run/b.json", "runs/run/a.html", "runs/run/manifest.json", "latest.json"]
    assert uri == (tmp_path / "c0/runs/run/manifest.json").as_uri()


def test_a_manifest_says_what_there_is(output: str) -> None:
    store = Results(open_folder(output), "c0")
    store.add_to_run("run 1/x", "b.json", b"{}\n")
    store.add_to_run("run 1/x", "a.html", b"<p>")
    uri = store.commit("run 1/x", COUNTS, {"source_uri": "s3://in"})
    (manifest,) = store.manifests()
    assert manifest["counts"] == {"listed": 3, "done": 2, "skipped": 0, "quarantined": 1, "masks": 4}
    assert (manifest["run"], manifest["config"], manifest["source_uri"]) == ("run 1/x", "c0", "s3://in")
    assert [file["name"] for file in manifest["files"]] == ["a.html", "b.json"]
    base = uri.rpartition("/")[0]
    for file in manifest["files"]:
        data = open_folder(base).read(file["name"])
        assert len(data) == file["bytes"]
        assert hashlib.sha256(data).hexdigest() == file["sha256"]
    latest = json.loads(store.folder.read("latest.json"))
    assert store.folder.locate(latest["manifest"]) == uri


def test_another_attempt_writes_the_same_manifest(output: str, monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter(["2026-01-01T00:00:00Z", "2027-01-01T00:00:00Z", "2028-01-01T00:00:00Z"])
    monkeypatch.setattr(results, "now", lambda: next(times))
    written = []
    for _ in range(2):
        store = Results(open_folder(output), "c0")
        store.add_to_run("run", "a.json", store.created("run").encode())
        store.commit("run", COUNTS, {})
        written.append(store.folder.read("runs/run/manifest.json"))
    assert written[0] == written[1]
    assert b"2026-01-01" in written[0]
    other = Results(open_folder(output), "c0")
    other.commit("other", COUNTS, {})
    assert [m["created"][:4] for m in sorted(other.manifests(), key=lambda m: m["run"])] == ["2027", "2026"]


def test_a_runs_manifest(output: str) -> None:
    store = Results(open_folder(output), "c0")
    store.write("configuration.json", b"{}")
    assert store.manifest("run 1/x") is None
    store.commit("run 1/x", COUNTS, {"parts": []})
    found = Results(open_folder(output), "c0").manifest("run 1/x")
    assert found is not None and (found["run"], found["parts"]) == ("run 1/x", [])
    assert store.manifest("run") is None
    assert Results(open_folder(output), "c1").manifest("run 1/x") is None


def test_a_file_of_a_run_is_the_same_as_its_bytes(output: str, tmp_path: Path) -> None:
    data = bytes(range(256)) * 30_000
    (tmp_path / "file").write_bytes(data)
    store = Results(open_folder(output), "c0")
    store.add_file_to_run("run", "a.parquet", tmp_path / "file")
    store.add_to_run("run", "b.parquet", data)
    store.commit("run", COUNTS, {})
    manifest = store.manifest("run")
    assert manifest is not None
    one, two = manifest["files"]
    assert {**one, "name": ""} == {**two, "name": ""}
    assert store.folder.read("runs/run/a.parquet") == data


def test_quarantined_images_are_remembered_until_they_are_done(output: str, tmp_path: Path) -> None:
    rows = [
        {**dict.fromkeys(records.QUARANTINE.names), "key": key, "version": "1"} for key in ("a.jpg", "b.jpg")
    ]
    records.write_parquet(tmp_path / "quarantine.parquet", records.QUARANTINE, rows)
    store = Results(open_folder(output), "c0")
    store.add_file_to_run("x/y", "quarantine.parquet", tmp_path / "quarantine.parquet")
    store.write("configuration.json", b"{}")
    assert store.history() == (set(), set())  # not committed
    store.commit("x/y", Counts(2, 0, 0, 2), {"parts": []})
    assert store.history() == (set(), {("a.jpg", "1"), ("b.jpg", "1")})
    part = write_part(output, "p1", [("a.jpg", "1")], tmp_path)
    later = Results(open_folder(output), "c0")
    later.commit("later", Counts(1, 1), {"parts": [part]})
    assert later.history() == ({("a.jpg", "1")}, {("b.jpg", "1")})


def test_only_committed_runs_count_as_finished(output: str, tmp_path: Path) -> None:
    first = write_part(output, "p1", [("a.jpg", "1"), ("b ü.jpg", "1")], tmp_path)
    store = Results(open_folder(output), "c0")
    assert store.finished() == set()
    store.commit("one", Counts(2, 2), {"parts": [first]})
    second = write_part(output, "p2", [("a.jpg", "2")], tmp_path)
    assert store.finished() == {("a.jpg", "1"), ("b ü.jpg", "1")}
    store.commit("two", Counts(3, 1, 2), {"parts": [second]})
    store.commit("empty", Counts(), {"parts": []})
    assert store.finished() == {("a.jpg", "1"), ("b ü.jpg", "1"), ("a.jpg", "2")}
    other = Results(open_folder(output), "c1")
    other.write("configuration.json", b"{}")
    assert other.finished() == set()


def test_a_configuration_changes_with_each_of_its_ingredients(monkeypatch: pytest.MonkeyPatch) -> None:
    base: dict[str, Any] = {
        "model": "m",
        "prompts": [
            {"name": "cat", "texts": ["a cat"], "threshold": 0.5},
            {"name": "dog", "texts": ["a dog", "a hound"], "threshold": 0.5},
        ],
        "settings": {"tiles": 1},
    }
    cat, dog = base["prompts"]
    changes: list[dict[str, Any]] = [
        {"model": "n"},
        {"prompts": [{**cat, "threshold": 0.4}, dog]},
        {"prompts": [{**cat, "name": "Cat"}, dog]},
        {"prompts": [{**cat, "texts": ["a kitten"]}, dog]},
        {"prompts": [cat, {**dog, "texts": ["a dog"]}]},
        {"prompts": base["prompts"][::-1]},
        {"prompts": base["prompts"][:1]},
        {"settings": {"tiles": 2}},
        {"settings": {}},
    ]
    digests = [configuration_digest(**{**base, **change}) for change in [{}, *changes]]
    monkeypatch.setattr(layout, "ALGORITHM", layout.ALGORITHM + 1)
    digests.append(configuration_digest(**base))
    assert len(set(digests)) == len(digests)
    assert all(len(value) == 16 and set(value) <= set("0123456789abcdef") for value in digests)


def test_a_configuration_is_the_same_for_equal_ingredients() -> None:
    one = configuration_digest(model="m", prompts=[{"a": 1, "b": 2}], settings={"c": 1, "d": 2})
    two = configuration_digest(model="m", prompts=[{"b": 2, "a": 1}], settings={"d": 2, "c": 1})
    assert one == two
