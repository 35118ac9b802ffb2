"""Names of parts: the rows of one shard, in the bucket after its masks."""

from __future__ import annotations

import hashlib
import json
from typing import Any


class PartName:
    """Names a shard's part after the rows it holds, taken one by one and in order.

    Attributes:
        rows: how many there were.
    """

    COLUMNS = ("key", "version", "prompt", "mask_sha256")

    def __init__(self) -> None:
        self._total = hashlib.sha256()
        self.rows = 0

    def add(self, row: dict[str, Any]) -> None:
        """Takes the next row of ``records.MASKS``; of its columns only ``COLUMNS`` matter."""
        self._total.update(json.dumps([row[name] for name in self.COLUMNS]).encode() + b"\n")
        self.rows += 1

    @property
    def key(self) -> str:
        """The part's key below the configuration's folder."""
        return f"parts/{self._total.hexdigest()[:16]}.parquet"
