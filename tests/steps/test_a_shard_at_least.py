"""fetch_dataset always names a shard: on Kubeflow, ``Collected`` over no iteration fails the task behind it."""

from __future__ import annotations

from typing import Any

import pytest
from steps_chain import Chain, picture
from test_steps import encoded, list_dataset, put  # noqa: F401 - a fixture among them

from clipseg_kfp import records
from clipseg_kfp.steps.artifacts import Listing


@pytest.mark.parametrize("files", [{}, {"notes.txt": b"no image"}], ids=["nothing", "other files"])
@pytest.mark.parametrize("options", [{}, {"limit": 5}, {"full": True}, {"shard_size": 1}], ids=str)
def test_of_no_images(chain: Chain, encoded: Any, files: dict[str, bytes], options: dict[str, Any]) -> None:
    put(chain, files)
    found = list_dataset(chain, encoded, allow_empty=True, **options)
    assert (found.listed, found.shards) == (0, ["shard-000"])
    assert list(records.read_parquet(Listing(chain.work / "listed").shard_path("shard-000"))) == []


@pytest.mark.parametrize("limit", [0, 5])
def test_where_all_is_done(chain: Chain, limit: int) -> None:
    put(chain, {"a.png": picture(1), "b.png": picture(2)})
    chain()
    again = chain(limit=limit).dataset
    assert (again.skipped, again.shards) == (2, ["shard-000"])
