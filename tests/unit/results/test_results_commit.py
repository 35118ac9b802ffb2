from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from codes import fails

from clipseg_kfp.errors import ParameterError
from clipseg_kfp.results import Attempt, Counts, Results, commit, configuration_digest, layout
from clipseg_kfp.results.commit import commit_order, file_key, file_name
from clipseg_kfp.results.layout import json_bytes
from clipseg_kfp.storage import ConditionUnsupportedError, Folder, open_folder

COUNTS = Counts(listed=3, done=2, skipped=0, quarantined=1, masks=4)
DATA = {"dataset_digest": "d", "parts": ["parts/1.parquet"]}


@pytest.fixture(params=["folder", "s3"])
def output(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "folder":
        return str(tmp_path / "out")
    request.getfixturevalue("s3_env")
    return f"s3://{request.getfixturevalue('bucket')}/out"


def opened(output: str, config: str = "c0") -> Results:
    results = Results(open_folder(output), config)
    results.describe({"configuration": config})
    return results


@pytest.fixture
def add(tmp_path: Path) -> Callable[[Attempt, str, bytes], None]:
    def added(attempt: Attempt, name: str, data: bytes) -> None:
        path = tmp_path / f"{threading.get_ident()}"
        path.write_bytes(data)
        attempt.add(name, path)

    return added


Add = Callable[[Attempt, str, bytes], None]


@pytest.mark.parametrize(
    "counts", [Counts(1), Counts(0, 1), Counts(5, 1, 1, 1), Counts(3, 1, 1, 0), Counts(2, 1, 1, 1)]
)
def test_counts_must_add_up(counts: Counts, output: str) -> None:
    store = opened(output)
    with fails("counts_do_not_add_up") as caught:
        store.begin("run", 1).commit(counts, DATA)
    for number in (counts.listed, counts.done, counts.skipped, counts.quarantined):
        assert str(number) in caught.value.message
    assert list(store.manifests()) == []


def test_counts_that_add_up() -> None:
    Counts().check()
    COUNTS.check()


def test_the_manifest_is_written_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, add: Add) -> None:
    folder = open_folder(str(tmp_path / "out"))
    kind, order = type(folder), []
    for name in ("write", "upload", "create"):

        def spy(self: Any, key: str, *rest: Any, call: Any = getattr(kind, name)) -> Any:  # noqa: B008
            order.append(key)
            return call(self, key, *rest)

        monkeypatch.setattr(kind, name, spy)
    monkeypatch.setattr(kind, "settle", lambda _: order.append("all is on the disk"))
    store = Results(folder, "c0")
    store.describe({})
    attempt = store.begin("run", 1)
    add(attempt, "b.json", b"{}\n")
    add(attempt, "a.html", b"<p>")
    assert list(store.manifests()) == []
    attempt.commit(COUNTS, DATA)
    store.point_to("run")
    assert order == [
        "configuration.json",  # described, and asked for once more: does the store keep to conditions?
        "configuration.json",
        "runs/run/attempt.json",
        "runs/run/b.json",
        "runs/run/a.html",
        "all is on the disk",
        "runs/run/manifest.json",
        "latest.json",
    ]


@pytest.mark.parametrize("fenced", [True, False])
def test_a_run_is_on_the_disk_when_it_is_committed(
    fenced: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What its manifest names before that has its name, and the manifest when the run is said to be there."""
    store = opened(str(tmp_path))
    if not fenced:
        monkeypatch.setattr(Results, "fenced", False)
    attempt = store.begin("run", 1)
    there: list[bool] = []
    monkeypatch.setattr(
        type(store.folder), "settle", lambda _: there.append(store.manifest("run") is not None)
    )
    attempt.commit(COUNTS, DATA)
    assert there == ([False] if fenced else [False, True])


def test_a_manifest_says_what_there_is(output: str, add: Add) -> None:
    store = opened(output)
    attempt = store.begin("run 1/x", 1)
    add(attempt, "b.json", b"{}\n")
    add(attempt, "a.parquet", bytes(range(256)) * 30_000)
    attempt.commit(COUNTS, {"source_uri": "s3://in", **DATA})
    uri = store.point_to("run 1/x")
    (manifest,) = store.manifests()
    assert manifest["counts"] == {
        "listed": 3,
        "done": 2,
        "skipped": 0,
        "quarantined": 1,
        "masks": 4,
        "left": 0,
    }
    assert (manifest["run"], manifest["config"], manifest["source_uri"]) == ("run 1/x", "c0", "s3://in")
    assert [file["name"] for file in manifest["files"]] == ["a.parquet", "attempt.json", "b.json"]
    for file in manifest["files"]:
        data = open_folder(uri.rpartition("/")[0]).read(file["name"])
        assert len(data) == file["bytes"]
        assert hashlib.sha256(data).hexdigest() == file["sha256"]
    latest = json.loads(store.folder.read("latest.json"))
    assert store.folder.locate(latest["manifest"]) == uri
    assert store.manifest("run 1/x") == manifest
    assert store.manifest("run") is None
    assert opened(output, "c1").manifest("run 1/x") is None


def test_latest_never_goes_back(output: str, add: Add, monkeypatch: pytest.MonkeyPatch) -> None:
    """An old run that is tried again, after a lost answer, finds its manifest and points once more."""
    store = opened(output)

    def latest() -> str:
        return str(json.loads(store.folder.read("latest.json"))["run"])

    for run, time in (("old", 1), ("new", 2)):
        monkeypatch.setenv("SOURCE_DATE_EPOCH", f"{time}")
        store.begin(run, run).commit(COUNTS, DATA)
        store.point_to(run)
    assert store.point_to("old").endswith("runs/old/manifest.json")
    assert latest() == "new"
    for damaged in (b"", b"[]", b"{}", b'{"manifest": "../x"}', b'{"manifest": "runs/gone/manifest.json"}'):
        store.write("latest.json", damaged)
        store.point_to("old")
        assert latest() == "old"
    store.point_to("new")
    store.folder.delete("runs/new/manifest.json")
    store.point_to("old")
    assert latest() == "old"


def test_a_clock_that_was_ahead_once_is_not_followed(
    output: str, add: Add, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Commits are numbered, through all configurations; runs of earlier versions come before them, by time."""
    store = opened(output, "0" * 16)

    def commit(store: Results, run: str, day: int, after: int = 0) -> Any:
        monkeypatch.setenv("SOURCE_DATE_EPOCH", f"{86400 * day}")
        manifest = store.begin(run, run).commit(COUNTS, DATA, after)
        store.point_to(run)
        return manifest

    for run, day in (("before", 9), ("older", 3)):  # as an earlier version wrote it
        manifest = commit(store, run, day)
        del manifest["sequence"]
        store.write(f"runs/{run}/manifest.json", json_bytes(manifest))
    store.point_to("before")
    ahead = commit(store, "ahead", 20_000)
    right = commit(store, "right", 5)
    assert json.loads(store.folder.read("latest.json"))["run"] == "right"
    ordered = sorted(store.manifests(), key=commit_order)
    assert [manifest["run"] for manifest in ordered] == ["older", "before", "ahead", "right"]
    other = opened(output, "f" * 16)
    assert commit(other, "elsewhere", 1)["sequence"] == right["sequence"] + 1 == ahead["sequence"] + 2
    store.folder.delete("latest.json")  # for people; the numbers go on without it
    assert commit(store, "next", 1)["sequence"] == right["sequence"] + 2
    assert commit(store, "told", 1, after=40)["sequence"] == 41


def write(add: Add, output: str, table: bytes, **body: Any) -> dict[str, Any]:
    """One attempt of a run whose report tells the time."""
    attempt = opened(output).begin("run", [table.decode(), body])
    add(attempt, "table", table)
    add(attempt, "report.html", f"made {attempt.created}".encode())
    return attempt.commit(COUNTS, {**DATA, **body})


def check_files(output: str) -> dict[str, Any]:
    """The run's only manifest; each file has the bytes that it says."""
    store = opened(output)
    (manifest,) = store.manifests()
    for file in manifest["files"]:
        data = store.folder.read(f"runs/run/{file['name']}")
        assert hashlib.sha256(data).hexdigest() == file["sha256"], file["name"]
    return manifest


@pytest.mark.parametrize("fenced", [True, False])
@pytest.mark.parametrize("same", [True, False])
def test_attempts_at_once_end_in_one_valid_run(
    output: str, add: Add, fenced: bool, same: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the store ignores conditions, which its probe would tell."""
    if not fenced:
        monkeypatch.setattr(Results, "fenced", False)
    seconds = iter(range(10, 60))
    monkeypatch.setattr(commit, "now", lambda: f"2026-01-01T00:00:{next(seconds)}Z")
    opened(output)
    won: list[dict[str, Any]] = []
    lost: list[ParameterError] = []
    gate = threading.Barrier(6)

    def attempt(number: int) -> None:
        gate.wait()
        part = f"parts/{0 if same else number}.parquet"
        try:
            won.append(write(add, output, part.encode(), parts=[part]))
        except ParameterError as error:
            lost.append(error)

    threads = [threading.Thread(target=attempt, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    manifest = check_files(output)
    assert len(won) + len(lost) == 6
    assert manifest in won
    if fenced:
        assert all(each == manifest for each in won), "who lost takes the winner's"
        assert len(won) == (6 if same else 1)
    assert {(error.code, error.where) for error in lost} <= {("run_exists", "outputs.run_id")}


def test_another_attempt_writes_the_same_bytes(
    output: str, add: Add, monkeypatch: pytest.MonkeyPatch
) -> None:
    years = iter(range(2026, 2040))
    monkeypatch.setattr(commit, "now", lambda: f"{next(years)}-01-01T00:00:00Z")
    killed = opened(output).begin("run", ["x", {}])  # wrote its claim and a part of its files
    add(killed, "table", b"x")
    assert write(add, output, b"x")["created"].startswith("2026")
    before = {e.key: e.version for e in opened(output).folder.entries()}
    assert write(add, output, b"x")["created"].startswith("2026")
    assert {e.key: e.version for e in opened(output).folder.entries()} == before


def test_other_content_after_a_killed_attempt_goes_beside_it(output: str, add: Add) -> None:
    store = opened(output)
    killed = store.begin("run", ["killed"])
    add(killed, "table", b"of the killed one")
    manifest = write(add, output, b"new")
    place = manifest["files"][0]["name"].partition("/")[0]
    assert {file["name"] for file in manifest["files"]} == {
        f"{place}/attempt.json", f"{place}/report.html", f"{place}/table",
    }  # fmt: skip
    assert check_files(output)
    assert store.folder.read("runs/run/table") == b"of the killed one"
    assert file_name(manifest, "table") == f"{place}/table"
    assert store.folder.read(file_key(manifest, "table")) == b"new"
    assert file_key(manifest, "none") == ""


def test_an_answer_that_was_lost_is_no_loss(output: str, add: Add, monkeypatch: pytest.MonkeyPatch) -> None:
    """The request succeeded, its repetition was refused: the manifest is this attempt's own."""
    store = opened(output)
    attempt = store.begin("run", 1)
    add(attempt, "table", b"x")
    kind = type(store.folder)
    create = kind.create

    def twice(self: Any, *given: Any) -> bool:
        create(self, *given)
        return bool(create(self, *given))

    monkeypatch.setattr(kind, "create", twice)
    assert attempt.commit(COUNTS, DATA) == check_files(output)


def test_the_probe(output: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = opened(output)
    before = {e.key: e.version for e in store.folder.entries()}
    assert store.fenced
    assert {e.key: e.version for e in store.folder.entries()} == before
    assert set(before) == {"configuration.json"}, "the probe leaves nothing behind"
    kind = type(store.folder)

    def ignoring(self: Folder, key: str, data: bytes, content_type: str = "") -> bool:
        self.write(key, data, content_type)
        return True

    monkeypatch.setattr(kind, "create", ignoring)
    assert not opened(output).fenced
    assert {e.key: e.version for e in store.folder.entries()} == before

    def refusing(*_: Any) -> bool:
        raise ConditionUnsupportedError("no")

    monkeypatch.setattr(kind, "create", refusing)
    assert not opened(output).fenced


def test_an_emptied_output_is_noticed(output: str) -> None:
    store = opened(output)
    store.folder.delete("configuration.json")
    with fails("output_emptied", where="configuration.json"):
        store.begin("run", 1)


def test_a_description_that_is_there_stays(output: str) -> None:
    store = opened(output)
    before = store.folder.read("configuration.json")
    store.describe({"other": "words"})
    assert store.folder.read("configuration.json") == before


def test_the_clock_can_be_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1767225600")
    assert layout.now() == "2026-01-01T00:00:00Z"
    for bad in ("soon", "1e400", "9" * 30):
        monkeypatch.setenv("SOURCE_DATE_EPOCH", bad)
        with fails("not_a_time", where="SOURCE_DATE_EPOCH"):
            layout.now()
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "")
    assert layout.now() > "2026"


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
