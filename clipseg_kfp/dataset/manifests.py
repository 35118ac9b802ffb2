"""Reads manifest files: tables of image URIs, with masks and prompts where there is ground truth."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd
import pyarrow as pa

from clipseg_kfp.errors import ParameterError, Problem
from clipseg_kfp.naming import shown
from clipseg_kfp.records.untrusted import UnreadableError, csv_rows, is_text, json_lines, parquet_texts
from clipseg_kfp.storage import open_object, plain_path

SUFFIXES = (".csv", ".jsonl", ".ndjson", ".parquet")
COLUMNS = ["uri", "mask_uri", "prompt"]
MAX_BYTES = 128 << 20  # a table takes several times its file's size in memory
MAX_PROBLEMS = 20  # that one message tells


def _bad_manifest(uri: str, problems: list[Problem]) -> ParameterError:
    """The error of a manifest with bad rows; tells up to ``MAX_PROBLEMS`` of them at once."""
    problems = problems[:MAX_PROBLEMS]
    more = "; and more" if len(problems) == MAX_PROBLEMS else ""
    told = "; ".join(f"{one.where}: {one.what}" for one in problems)
    remedy = " ".join(dict.fromkeys(one.remedy for one in problems))
    where = f"{uri}, {problems[0].where.partition(',')[0]}"
    error = ParameterError(f"The manifest {uri}: {told}{more}.", remedy, code=problems[0].code, where=where)
    error.problems = tuple(problems)
    return error


def read_manifest(uri: str, endpoint: str = "") -> pd.DataFrame:
    """Reads and checks a manifest.

    Args:
        uri: of a CSV (with commas, semicolons, tabs or bars), JSONL or Parquet file.
        endpoint: S3 endpoint URL, as for ``open_folder``.

    Returns:
        The distinct rows, with the string columns ``uri``, ``mask_uri`` and ``prompt`` (empty where there is
        none). The index is the row's number, from 0.

    Raises:
        ParameterError: not a table, no column ``uri``, or bad rows; its ``problems`` are the rows.
        StorageError: the file is missing, not readable or too large.
    """
    folder, key = open_object(uri, endpoint)
    data = folder.read(key, limit=MAX_BYTES)
    lower = plain_path(uri).lower()
    problems: list[Problem] = []
    try:
        if lower.endswith(".csv"):
            table = _read_csv(data, uri, problems)
        elif lower.endswith(".parquet"):
            table = _read_parquet(data, uri, problems)
        else:
            table = _read_json_lines(data, uri, problems)
    except (UnreadableError, OSError, pa.ArrowException) as error:
        reason = " ".join(str(error).split())[:300].rstrip(".")
        message = f"The manifest {uri} cannot be read: {reason}."
        remedy = f"Give a table with the columns {', '.join(COLUMNS)} (uri is enough)."
        raise ParameterError(message, remedy, code="manifest_unreadable", where=uri) from None
    if not problems:
        problems += _bad_rows(table)
    if problems:
        raise _bad_manifest(uri, problems)
    return table.drop_duplicates()


def _bad_rows(table: pd.DataFrame) -> Iterator[Problem]:
    has_mask = table["mask_uri"] != ""
    masks = table[has_mask].drop_duplicates()
    found = []
    for code, bad, column, what, remedy in (
        (
            "manifest_uri_empty",
            table["uri"].str.strip() == "",
            "uri",
            "it is empty",
            "Give a uri, or remove the row.",
        ),
        (
            "manifest_mask_without_prompt",
            has_mask & (table["prompt"].str.strip() == ""),
            "prompt",
            "there is a mask_uri without a prompt",
            "Name the prompt that the mask belongs to.",
        ),
        (
            "manifest_mask_twice",
            masks.duplicated(["uri", "prompt"]),
            "mask_uri",
            "it is a second mask for the same image and prompt",
            "Give one mask per image and prompt.",
        ),
    ):
        rows = bad.index[bad][:MAX_PROBLEMS]
        found += [(int(row), Problem(_place(int(row) + 1, column), code, what, remedy)) for row in rows]
    yield from (problem for _, problem in sorted(found, key=lambda one: one[0]))


def _place(row: int, column: str = "") -> str:
    return f"row {row}, column '{column}'" if column else f"row {row}"


def _columns_of(names: list[str], uri: str) -> dict[str, int]:
    """Where the known columns are; names are compared without case and space around them."""
    plain = [name.strip().lower() for name in names]
    twice = next((name for name in COLUMNS if plain.count(name) > 1), "")
    if twice:
        message = f"The manifest {uri} has two columns '{twice}'."
        raise ParameterError(message, "Keep one of them.", code="manifest_column_twice", where=uri)
    if "uri" not in plain:
        columns = ", ".join(shown(name, 40) for name in names[:20])
        message = f"The manifest {uri} has no column 'uri' (it has: {columns})."
        remedy = "Name the column with the images' URIs 'uri'."
        raise ParameterError(message, remedy, code="manifest_no_uri_column", where=uri)
    return {name: plain.index(name) for name in COLUMNS if name in plain}


def _table(columns: dict[str, list[str]]) -> pd.DataFrame:
    return pd.DataFrame(columns, columns=COLUMNS, dtype=object)


def _read_csv(data: bytes, uri: str, problems: list[Problem]) -> pd.DataFrame:
    rows = csv_rows(data, COLUMNS)
    names = next(rows)
    places, width = _columns_of(names, uri), len(names)
    columns: dict[str, list[str]] = {name: [] for name in COLUMNS}
    for number, row in enumerate(rows, start=1):
        if len(row) > width and any(field.strip() for field in row[width:]):
            what = f"it has {len(row)} fields, the header {width}"
            remedy = 'Put values with the delimiter in them in quotes: "a, b.jpg".'
            problems.append(Problem(_place(number), "manifest_row_fields", what, remedy))
            if len(problems) >= MAX_PROBLEMS:
                break
        for name, values in columns.items():
            place = places.get(name, width)
            values.append(row[place] if place < min(width, len(row)) else "")
    return _table(columns)


def _read_json_lines(data: bytes, uri: str, problems: list[Problem]) -> pd.DataFrame:
    columns: dict[str, list[str]] = {name: [] for name in COLUMNS}
    named, first = False, list[str]()
    number = 0
    for line, value in json_lines(data):
        if not isinstance(value, dict):
            raise UnreadableError(f"line {line}: it is not an object")
        number += 1
        places = {name.strip().lower(): name for name in value}
        first = first or list(value)
        named = named or "uri" in places
        for name, values in columns.items():
            one = value.get(places.get(name, name))
            if one is not None and not isinstance(one, str):
                problems.append(_wrong_type(number, name, type(one).__name__))
                one = ""
            values.append(one or "")
        if len(problems) >= MAX_PROBLEMS:
            break
    if number and not named:
        _columns_of(first, uri)
    return _table(columns)


def _wrong_type(row: int, column: str, kind: str) -> Problem:
    kind = {"list": "a list", "dict": "an object", "bool": "a boolean"}.get(kind, kind)
    kind = "a number" if kind in ("int", "float") else kind
    what = f"it is {kind}, and not text"
    remedy = "Write one row per image and prompt, with text in each column."
    return Problem(_place(row, column), "manifest_value_type", what, remedy)


def _read_parquet(data: bytes, uri: str, problems: list[Problem]) -> pd.DataFrame:
    names, found = parquet_texts(data, COLUMNS)
    _columns_of([name for name in names if name in COLUMNS] or names, uri)
    for name, column in found.items():
        if not is_text(column.type) and not pa.types.is_null(column.type):
            problems.append(_wrong_type(1, name, str(column.type)))
    rows = len(found["uri"])
    columns = {}
    for name in COLUMNS:
        column = found.get(name)
        if problems or column is None or pa.types.is_null(column.type):
            columns[name] = [""] * (0 if problems else rows)
        else:
            values = (value for chunk in column.chunks for value in _values(chunk))
            columns[name] = [value or "" for value in values]
    return _table(columns)


def _values(chunk: pa.Array) -> list[str | None]:
    """The values of a chunk; equal ones of a dictionary are one object."""
    if not pa.types.is_dictionary(chunk.type):
        return list(chunk.to_pylist())
    known = chunk.dictionary.to_pylist()
    return [None if index is None else known[index] for index in chunk.indices.to_pylist()]
