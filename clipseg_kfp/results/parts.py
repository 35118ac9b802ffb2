"""Names of parts: the rows of one shard, in the bucket after its masks."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq

from clipseg_kfp.results.commit import facts_of


def part_key(table: Path) -> str:
    """The key of a shard's part: the digest of its bytes; empty where the shard has no masks.

    Args:
        table: rows of ``records.MASKS``.
    """
    if not pq.read_metadata(table).num_rows:
        return ""
    return f"parts/{facts_of(table)['sha256'][:32]}.parquet"
