"""CSV tables that are safe to open in a spreadsheet."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

from clipseg_kfp import records
from clipseg_kfp.results.formats.rows import Row, text_file

_BOX = ("bbox_x", "bbox_y", "bbox_width", "bbox_height")
#: What a spreadsheet may take for a formula, also behind a tab or line break
#: (https://owasp.org/www-community/attacks/CSV_Injection).
_SIGNS = "=+\\-@\uff1d\uff0b\uff0d\uff20"
#: At the start of a text, and after characters at which a spreadsheet may split cells (semicolon, tab, line break).
_FORMULA = re.compile(rf"\A(?=[{_SIGNS}'\t\r\n])|(?<=[;\t\r\n])(?='*[{_SIGNS}])")


def plain(value: Any) -> Any:
    """Puts an apostrophe before text that a spreadsheet would run as a formula; numbers stay as they are.

    An apostrophe in such a place gets one, too, so that distinct names stay distinct.
    """
    return _FORMULA.sub("'", value) if isinstance(value, str) else value


class CsvWriter:
    """Writes rows of a CSV file (RFC 4180) in UTF-8, with text that cannot become a formula.

    Args:
        stream: opened with ``newline=""``.
        columns: their names.
    """

    def __init__(self, stream: IO[str], columns: Iterable[str]) -> None:
        self._writer = csv.writer(stream)
        self._writer.writerow(columns)

    def write(self, values: Iterable[Any]) -> None:
        """Writes one row."""
        self._writer.writerow(map(plain, values))


def export_csv(path: Path, masks: Iterable[Row]) -> int:
    """Writes one row per mask, empty ones included, as a stream.

    Columns are those of ``records.MASKS`` without the run lengths, which may be 100 KB per row; the box has four:
    ``bbox_x``, ``bbox_y``, ``bbox_width`` and ``bbox_height``. Names of files and prompts come from anywhere, so text
    like a formula gets an apostrophe (see ``plain``).

    Returns:
        The number of rows.
    """
    names = [name for name in records.MASKS.names if name != "rle"]
    columns = [part for name in names for part in (_BOX if name == "bbox" else (name,))]
    count = 0
    with text_file(path) as stream:
        writer = CsvWriter(stream, columns)
        for row in masks:
            writer.write(value for name in names for value in (row[name] if name == "bbox" else (row[name],)))
            count += 1
    return count
