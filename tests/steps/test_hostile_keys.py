"""Keys that nobody would choose, through all steps on the real store: each has results of its own."""

from __future__ import annotations

import unicodedata

import pytest
from steps_chain import Chain, picture

from clipseg_kfp.storage import open_folder

KEYS = (
    *("a b.png", "A B.png", "con.png", "nul/aux.png", "dots.../x..png", "caf\u00e9.png", "cafe\u0301.png"),
    *("=1+1.png", "<b>&.png", "~20.png", "%2e%2e.png", "same/x.png", "Same/x.png", "other/same/x.png"),
    *("long/" + "k" * 200 + ".png", "long/" + "K" * 200 + ".png", "deep/" * 150 + "x.png"),
)


@pytest.mark.parametrize("chain", ["s3"], indirect=True)
def test_odd_keys_have_results_of_their_own(chain: Chain) -> None:
    folder = open_folder(chain.source)
    for seed, key in enumerate(KEYS):
        folder.write(key, picture(seed))
    run = chain(prompts=["a thing", "A thing"])
    images = run.images()
    assert {key: row["status"] for key, row in images.items()} == dict.fromkeys(KEYS, "done")
    assert run.manifest["counts"] == {
        "listed": len(KEYS), "done": len(KEYS), "skipped": 0, "quarantined": 0, "masks": 2 * len(KEYS),
        "left": 0,
    }  # fmt: skip
    names = [row["mask"] for row in run.masks()]
    names += [row[kind] for row in images.values() for kind in ("label_map", "overlay")]
    seen = {unicodedata.normalize("NFC", name).casefold() for name in names}
    assert len(names) == 4 * len(KEYS) == len(seen)
    written = {entry.key for entry in run.folder.entries()}
    assert written >= set(names)  # and every one of them is there
    assert all(len(f"{run.folder.uri}/{name}".removeprefix("s3://").encode()) <= 1024 for name in names)
