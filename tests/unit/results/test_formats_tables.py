from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pandas as pd
from mask_rows import HOSTILE, odd_masks, tables

from clipseg_kfp import records
from clipseg_kfp.results.formats import export_csv
from clipseg_kfp.results.formats.tables import plain


def test_pandas_reads_what_was_written(tmp_path: Path) -> None:
    _, rows = tables({(f"{name}.jpg", 1): mask for name, mask in odd_masks().items()})
    assert export_csv(tmp_path / "m.csv", iter(rows)) == len(rows)
    table = pd.read_csv(tmp_path / "m.csv", dtype={"mask_sha256": str})
    names = [name for name in records.MASKS.names if name not in ("bbox", "rle")]
    assert [name for name in table.columns if not name.startswith("bbox_")] == names
    for name in names:
        assert table[name].tolist() == [row[name] for row in rows]
    boxes = table[["bbox_x", "bbox_y", "bbox_width", "bbox_height"]].to_numpy().tolist()
    assert boxes == [row["bbox"] for row in rows]


def test_hostile_keys(tmp_path: Path) -> None:
    keys = [*HOSTILE, "\tx", "\rx", "@SUM(A1)", "\uff1d1+1", "+1", "'quoted", "'+1"]
    _, rows = tables({(key, 1): np.eye(2, dtype=bool) for key in keys})
    export_csv(tmp_path / "m.csv", rows)
    with (tmp_path / "m.csv").open(encoding="utf-8", newline="") as stream:
        found = [row["key"] for row in csv.DictReader(stream)]
    assert not any(key[0] in "=+-@\t\r\n\uff1d" for key in found)
    assert [
        safe if safe == key else safe.removeprefix("'") for safe, key in zip(found, keys, strict=True)
    ] == keys
    assert sum(key != safe for key, safe in zip(keys, found, strict=True)) == 9
    assert len(set(found)) == len(keys)  # "+1" and "'+1" stay two keys


def test_numbers_stay_numbers() -> None:
    assert [plain(value) for value in (-1, -0.5, None, "-1", "a-1", "")] == [-1, -0.5, None, "'-1", "a-1", ""]
