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
#: At the start, and behind what parts cells where a spreadsheet expects semicolons or tabs: it would cut there.
_FORMULA = re.compile(rf"\A(?=[{_SIGNS}'\t\r\n])|(?<=[;\t\r\n])(?='*[{_SIGNS}])")


def plain(value: Any) -> Any:
    """Puts an apostrophe where a spreadsheet would find a formula in text; numbers stay as they are.

    One comes before an apostrophe in those places, too, so that distinct names stay distinct.
    """
    return _FORMULA.sub("'", value) if isinstance(value, str) else value


class CsvWriter:
    """Writes rows of a CSV file (RFC 4180) in UTF-8, with text that cannot become a formula.

    Args:
        stream: where to, opened with ``newline=""``.
        columns: names of the columns.
        formulas: leave text that looks like a formula as it is.
    """

    def __init__(self, stream: IO[str], columns: Iterable[str], *, formulas: bool = False) -> None:
        self._writer = csv.writer(stream)
        self._formulas = formulas
        self._writer.writerow(columns)

    def write(self, values: Iterable[Any]) -> None:
        """Writes one row."""
        self._writer.writerow(values if self._formulas else map(plain, values))


def export_csv(path: Path, masks: Iterable[Row], *, rle: bool = False, formulas: bool = False) -> int:
    """Writes a row a mask, empty ones included, as a stream.

    Columns are those of ``records.MASKS``, the box as four: ``bbox_x``, ``bbox_y``, ``bbox_width`` and
    ``bbox_height``.

    Args:
        path: the file to write.
        masks: rows of ``records.MASKS``.
        rle: with the run lengths, which may be 100 KB a row.
        formulas: leave text as it is. Otherwise an apostrophe comes before text that begins like a formula
            (``=``, ``+``, ``-``, ``@``, tab or line break), and before such a sign where a spreadsheet may
            cut the text (``;``, tab, line break): names of files and prompts come from anywhere, and a
            spreadsheet would run them. Programs that look up such keys want the text as it is.

    Returns:
        The number of rows.
    """
    names = [name for name in records.MASKS.names if rle or name != "rle"]
    columns = [part for name in names for part in (_BOX if name == "bbox" else (name,))]
    count = 0
    with text_file(path) as stream:
        writer = CsvWriter(stream, columns, formulas=formulas)
        for row in masks:
            writer.write(value for name in names for value in (row[name] if name == "bbox" else (row[name],)))
            count += 1
    return count
