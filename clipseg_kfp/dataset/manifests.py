"""Reads manifest files: tables of image URIs, with masks and prompts where there is ground truth."""

from __future__ import annotations

import io
import json

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from clipseg_kfp.errors import ParameterError
from clipseg_kfp.records import parse_parquet
from clipseg_kfp.storage import open_object

SUFFIXES = (".csv", ".jsonl", ".ndjson", ".parquet")
COLUMNS = ["uri", "mask_uri", "prompt"]
MAX_FIELD = 8192  # bytes of a value in a Parquet file: a URI with a key of 1,024 bytes, all escaped, fits
MAX_ROWS = 10_000_000
MAX_BYTES = 128 << 20  # a table takes several times its file's size in memory


def read_manifest(uri: str, endpoint: str = "") -> pd.DataFrame:
    """Reads and checks a manifest.

    Args:
        uri: of a CSV, JSONL or Parquet file.
        endpoint: S3 endpoint URL, as for ``open_folder``.

    Returns:
        The distinct rows, with the string columns ``uri``, ``mask_uri`` and ``prompt`` (empty where there is
        none). The index is the row's number, from 0.

    Raises:
        ParameterError: not a table, no column ``uri``, or a bad row.
        StorageError: the file is missing, not readable or too large.
    """
    folder, key = open_object(uri, endpoint)
    data = io.BytesIO(folder.read(key, limit=MAX_BYTES))
    lower = uri.lower()
    try:
        if lower.endswith(".csv"):
            table = pd.read_csv(data, dtype=str, keep_default_na=False, encoding="utf-8-sig")
        elif lower.endswith(".parquet"):
            table = _read_parquet(data)
        else:
            table = _read_json_lines(data)
    except (ValueError, OSError, pa.ArrowException) as error:  # pandas' parsers raise ValueErrors
        reason = " ".join(str(error).split()).rstrip(".")
        message = f"The manifest {uri} cannot be read: {reason}."
        remedy = f"Give a table with the columns {', '.join(COLUMNS)} (uri is enough)."
        raise ParameterError(message, remedy, code="manifest_unreadable", where=uri) from error
    if table.empty:
        return pd.DataFrame(columns=COLUMNS)
    if "uri" not in table.columns:
        columns = ", ".join(map(str, table.columns))
        message = f"The manifest {uri} has no column 'uri' (it has: {columns})."
        remedy = "Name the column with the images' URIs 'uri'."
        raise ParameterError(message, remedy, code="manifest_no_uri_column", where=uri)
    table = table.reindex(columns=COLUMNS, fill_value="").fillna("").astype(str)
    _check_rows(table, uri)
    return table.drop_duplicates()


def _check_rows(table: pd.DataFrame, uri: str) -> None:
    has_mask = table["mask_uri"] != ""
    masks = table[has_mask].drop_duplicates()
    for code, bad, what, remedy in (
        ("manifest_uri_empty", table["uri"].str.strip() == "", "no uri", "Give a uri, or remove the row."),
        (
            "manifest_mask_without_prompt",
            has_mask & (table["prompt"] == ""),
            "a mask_uri without a prompt",
            "Name the prompt that the mask belongs to.",
        ),
        (
            "manifest_mask_twice",
            masks.duplicated(["uri", "prompt"]),
            "a second mask for the same image and prompt",
            "Give one mask per image and prompt.",
        ),
    ):
        if bad.any():
            row = int(bad.index[bad][0]) + 1
            message = f"The manifest {uri} has {what} in row {row}."
            raise ParameterError(message, remedy, code=code, where=f"{uri}, row {row}")


def _read_json_lines(data: io.BytesIO) -> pd.DataFrame:
    rows = []
    for i, line in enumerate(data, start=1):
        if line.strip():
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:  # RecursionError: nested too deep
                raise ValueError(f"line {i}: {error}") from error
            if not isinstance(row, dict):
                raise ValueError(f"line {i} is not an object")
            rows.append(row)
    return pd.DataFrame(rows)


def _read_parquet(data: io.BytesIO) -> pd.DataFrame:
    """Reads the known columns as dictionaries, where a long value that repeats a million times takes few bytes.

    Written out, such a file would fill the memory, so its rows and values are limited first.
    """
    file = pq.ParquetFile(data, memory_map=False)
    names = [name for name in file.schema_arrow.names if name in COLUMNS]
    if "uri" not in names:
        return pd.DataFrame(columns=file.schema_arrow.names, index=range(file.metadata.num_rows))
    if file.metadata.num_rows > MAX_ROWS:
        raise ValueError(f"it has more than {MAX_ROWS:,} rows")
    table = parse_parquet(data, columns=names, dictionaries=names)
    longest = 0
    for chunk in (chunk for column in table.columns for chunk in column.chunks):
        values = chunk.dictionary if pa.types.is_dictionary(chunk.type) else chunk
        if pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
            longest = max(longest, pc.max(pc.binary_length(values)).as_py() or 0)
    if longest > MAX_FIELD:
        raise ValueError(f"a value has {longest:,} bytes, more than {MAX_FIELD:,}")
    frame: pd.DataFrame = table.to_pandas().astype(object)
    return frame
