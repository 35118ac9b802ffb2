"""The ledger's bench measures what it says, on a small history."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "bench"))
import ledger


def test_the_bench_builds_and_reads_a_history(tmp_path: Path) -> None:
    found = ledger.bench(str(tmp_path / "out"), runs=3, images=5)
    assert found["images"] == 15
    assert all(found[name]["seconds"] > 0 for name in ("list", "read run by run", "read the snapshot"))
    assert len(list((tmp_path / "out").rglob("ledger/*.parquet"))) == 1
