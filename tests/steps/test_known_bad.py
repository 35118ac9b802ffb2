"""Images that were quarantined before and have not changed are not tried again every night."""

from __future__ import annotations

import io
from typing import Any

import pyarrow.parquet as pq
import pytest
from codes import fails
from steps_chain import Chain, Run, picture
from test_steps import counts, put

from clipseg_kfp.errors import ObjectUnreadableError
from clipseg_kfp.images import formats
from clipseg_kfp.results import Results, json_bytes
from clipseg_kfp.results.commit import file_key
from clipseg_kfp.results.current import fold
from clipseg_kfp.results.ledger import Ledger
from clipseg_kfp.steps.artifacts import Listing, ShardMasks
from clipseg_kfp.storage import open_folder
from clipseg_kfp.storage.files import FileFolder

BAD = {"cut.png": picture(7)[:60], "empty.png": b"", "words.png": b"some words"}
REASONS = {"cut.png": "truncated", "empty.png": "empty", "words.png": "mislabelled"}


def tried(run: Run) -> set[str]:
    return {row["key"] for shard in run.shards for row in ShardMasks(shard).images()}


def quarantine(run: Run) -> dict[str, dict[str, Any]]:
    data = run.folder.read(file_key(run.manifest, "quarantine.parquet"))
    rows = pq.read_table(io.BytesIO(data)).to_pylist()
    assert len(rows) == run.manifest["counts"]["quarantined"]
    return {row["key"]: row for row in rows}


@pytest.fixture
def first(chain: Chain) -> Run:
    put(chain, {"good.png": picture(0), **BAD})
    return chain()


@pytest.mark.parametrize("chain", ["folder", "s3"], indirect=True)
def test_a_night_with_nothing_new_tries_nothing(first: Run, chain: Chain) -> None:
    assert (counts(first), first.manifest["quarantined_before"]) == ((4, 1, 0, 3), 0)
    for number in range(2, 5):
        run = chain()
        assert counts(run) == (4, 0, 1, 3)
        assert run.manifest["quarantined_before"] == run.dataset.quarantined_before == 3
        assert tried(run) == set() and run.maps == 0
        listing = Listing(chain.work / f"run-{number}" / "dataset")
        assert pq.read_metadata(listing.shard_path("shard-000")).num_rows == 0
        assert quarantine(run) == quarantine(first), "with their first reasons, and in full"
        assert {key: row["reason"] for key, row in quarantine(run).items()} == REASONS


def test_what_changed_is_tried(first: Run, chain: Chain) -> None:
    put(chain, {"cut.png": picture(7), "empty.png": b"more words"})
    run = chain()
    assert (counts(run), run.manifest["quarantined_before"]) == ((4, 1, 1, 2), 1)
    assert tried(run) == {"cut.png", "empty.png"}
    assert {key: row["reason"] for key, row in quarantine(run).items()} == {
        "empty.png": "mislabelled", "words.png": "mislabelled",
    }  # fmt: skip


def test_all_are_tried_where_that_is_asked_for(first: Run, chain: Chain) -> None:
    for options in ({"retry_quarantined": True}, {"full": True}):
        run = chain(**options)
        assert run.manifest["quarantined_before"] == 0 and set(BAD) <= tried(run)
        assert run.manifest["counts"]["quarantined"] == 3


def test_a_newer_reader_tries_once(first: Run, chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    assert first.manifest["reader"] == {
        "version": formats.READER_VERSION, "max_megapixels": 50.0, "max_megabytes": 100.0,
    }  # fmt: skip
    monkeypatch.setattr(formats, "READER_VERSION", formats.READER_VERSION + 1)
    assert tried(chain()) == set(BAD)
    again = chain()
    assert tried(again) == set() and set(quarantine(again)) == set(BAD)
    monkeypatch.setattr(formats, "READER_VERSION", formats.READER_VERSION - 1)  # an older one knows no better
    assert tried(chain()) == set()


def test_results_of_earlier_versions_have_no_reader(first: Run, chain: Chain) -> None:
    manifest = {name: value for name, value in first.manifest.items() if name != "reader"}
    first.folder.write("runs/run~201/manifest.json", json_bytes(manifest))
    assert tried(chain()) == set(BAD)
    assert tried(chain()) == set()


def test_larger_images_may_be_taken_now(chain: Chain) -> None:
    put(chain, {"large.png": picture(0), **BAD})
    assert set(quarantine(chain(max_megapixels=0.001))) == {"large.png", *BAD}
    assert tried(chain(max_megapixels=0.001)) == set()
    assert tried(chain(max_megabytes=0.001, max_megapixels=0.001)) == set(), "less will not help"
    assert counts(chain()) == (4, 1, 0, 3)


def test_what_the_store_refused_is_tried_every_night(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was never read: its version tells nothing."""
    put(chain, {"good.png": picture(0), "secret.png": picture(1)})
    read = FileFolder.read

    def denied(self: FileFolder, key: str, *given: Any, **more: Any) -> bytes:
        if key == "secret.png":
            raise ObjectUnreadableError(f"Access to {key} is denied.")
        return read(self, key, *given, **more)

    with monkeypatch.context() as patch:
        patch.setattr(FileFolder, "read", denied)
        assert counts(chain()) == (2, 1, 0, 1)
        assert counts(chain()) == (2, 0, 1, 1)
    assert counts(chain()) == (2, 1, 1, 0)


def test_the_bound_is_for_what_is_tried(first: Run, chain: Chain) -> None:
    """Otherwise a bound would fail every night, some day, with nothing new."""
    assert counts(chain(max_quarantined="0")) == (4, 0, 1, 3)
    put(chain, {"another.png": b""})
    with fails("too_many_quarantined", where="limits.max_quarantined"):
        chain(max_quarantined="0")
    assert counts(chain(max_quarantined="1")) == (5, 0, 1, 4)


def test_they_are_known_from_a_gathered_table_and_gone_when_they_are_removed(
    first: Run, chain: Chain
) -> None:
    results = Results(open_folder(chain.output), first.config)
    Ledger.read(results).compact()
    open_folder(chain.source).delete("cut.png")
    run = chain()
    assert counts(run) == (3, 0, 1, 2) and tried(run) == set()
    assert run.manifest["deleted"] == 0, "which counts what was done"
    data = run.folder.read(file_key(run.manifest, "deleted.parquet"))
    assert [(row["key"], row["status"]) for row in pq.read_table(io.BytesIO(data)).to_pylist()] == [
        ("cut.png", "quarantined")
    ]
    state = fold(results, list(results.manifests()))
    assert (state.counts.done, state.counts.quarantined, state.gone) == (1, 2, 1)
    assert {row["key"]: row["reason"] for row in state.quarantine()} == {
        name: REASONS[name] for name in ("empty.png", "words.png")
    }
