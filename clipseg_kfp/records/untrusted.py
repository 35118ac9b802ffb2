"""Reads people's YAML, JSON, JSON Lines, CSV and Parquet with bounds on bytes, rows, fields, depth and decoded size.

A small file can stand for gigabytes: aliases of aliases, nesting, commas, dictionaries of Parquet. All that people
hand over as text or tables is read here. Errors tell the place and never quote the file: it may be a secret that
somebody named by mistake, or on purpose.
"""

from __future__ import annotations

import csv
import io
import json
import stat
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml

MAX_DOCUMENT_BYTES = 16 << 20  # of JSON; parsed, it takes several times as much
MAX_YAML_BYTES = 4 << 20
MAX_NODES = 500_000  # values of a YAML document with all aliases written out
MAX_JSON_VALUES = 2_000_000  # commas and brackets
MAX_DEPTH = 100
MAX_SCALAR = 100_000  # characters of one YAML value: numbers of base 60 take quadratic time
MAX_LINE = 1 << 20  # characters of a row of a table
MAX_FIELDS = 1_000  # of a row
MAX_ROWS = 10_000_000
MAX_COLUMN_BYTES = 512 << 20  # of one column of a Parquet row group, decoded
MAX_FIELD = 8192  # bytes of a value in a Parquet file: a URI with a key of 1,024 bytes, all escaped, fits
DELIMITERS = ",;\t|"

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_MARKS = ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))


class UnreadableError(ValueError):
    """What cannot be read, without any of its content: the place and what is wrong there."""


def read_bounded(path: Path, limit: int = MAX_DOCUMENT_BYTES) -> bytes:
    """Reads a regular file of this machine.

    Raises:
        OSError: it cannot be read.
        UnreadableError: it is a device or pipe, or larger than the limit.
    """
    with path.open("rb") as stream:
        if not stat.S_ISREG(path.stat().st_mode):
            raise UnreadableError("it is not a regular file")
        data = stream.read(limit + 1)
    _bound(len(data), limit, "bytes")
    return data


def parse_document(data: bytes) -> Any:
    """Parses JSON or YAML.

    Raises:
        UnreadableError: it is neither, or stands for more than the bounds allow.
    """
    _bound(len(data), MAX_DOCUMENT_BYTES, "bytes")
    text = decode_text(data)
    # Most JSON is YAML, but not all: PyYAML refuses tabs between tokens, and splits escaped emoji in two.
    values = sum(map(text.count, ",[{"))
    if values > MAX_JSON_VALUES:
        raise UnreadableError(f"it has more than {MAX_JSON_VALUES:,} values")
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        if len(data) > MAX_YAML_BYTES:
            what = f"as JSON, line {error.lineno}, column {error.colno}: {error.msg}"
            raise UnreadableError(f"{what}; as YAML it has more than {MAX_YAML_BYTES:,} bytes") from None
    except (ValueError, RecursionError) as error:
        raise UnreadableError(_plain(error)) from None
    try:
        return _parse_yaml(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise UnreadableError(f"{place}{_problem(error)}") from None
    except UnreadableError:
        raise
    except Exception as error:  # what its constructors pass on of odd scalars, with their text
        raise UnreadableError(_plain(error)) from None


def _plain(error: Exception) -> str:
    """What went wrong, without the value."""
    if isinstance(error, RecursionError):
        return "it nests too deep"
    return f"a value cannot be read ({type(error).__name__})"


def _problem(error: yaml.MarkedYAMLError) -> str:
    if isinstance(error, yaml.constructor.ConstructorError):
        return "a value of a type that is not read"
    problem = str(error.problem or "it is not YAML")
    return problem.split("'", 1)[0].split('"', 1)[0].strip() if len(problem) > 60 else problem


def _parse_yaml(text: str) -> Any:
    _check_events(text)
    loader = _Loader(text)
    try:
        root = loader.get_single_node()
        if root is None:
            return None
        _check_size(root)
        return loader.construct_document(root)
    finally:
        loader.dispose()


def _check_events(text: str) -> None:
    """Counts values and depth before any is kept."""
    nodes = depth = 0
    for event in yaml.parse(text, _Loader):
        if isinstance(event, yaml.events.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.events.CollectionEndEvent):
            depth -= 1
        nodes += isinstance(event, yaml.events.NodeEvent)
        line = event.start_mark.line + 1 if event.start_mark else 1
        if nodes > MAX_NODES:
            raise UnreadableError(f"line {line}: it has more than {MAX_NODES:,} values")
        if depth > MAX_DEPTH:
            raise UnreadableError(f"line {line}: it nests deeper than {MAX_DEPTH} levels")
        if isinstance(event, yaml.events.ScalarEvent) and len(event.value) > MAX_SCALAR:
            raise UnreadableError(f"line {line}: a value has more than {MAX_SCALAR:,} characters")


def _check_size(root: yaml.Node) -> None:
    """Refuses a document whose aliases stand for more than a file can need.

    A few lines of aliases of aliases (the "billion laughs") would keep the checks, and merge keys even the
    parser, busy for ever. Every node's size is counted once, so the count itself is cheap.
    """
    sizes: dict[int, int] = {}

    def size(node: yaml.Node) -> int:
        known = sizes.get(id(node))
        if known == 0:
            raise UnreadableError("an alias stands for a list or mapping that contains it")
        if known is None:
            sizes[id(node)] = 0  # under way
            known = 1
            if isinstance(node, yaml.SequenceNode):
                known += sum(map(size, node.value))
            elif isinstance(node, yaml.MappingNode):
                known += sum(size(key) + size(value) for key, value in node.value)
            sizes[id(node)] = known
        return known

    if size(root) > MAX_NODES:
        raise UnreadableError(f"its aliases stand for more than {MAX_NODES:,} values")


def decode_text(data: bytes) -> str:
    """Decodes UTF-8, or UTF-16 with its mark.

    Raises:
        UnreadableError: it is neither; tells the byte.
    """
    encoding = next((name for mark, name in _MARKS if data.startswith(mark)), "utf-8")
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        raise UnreadableError(f"byte {error.start + 1:,} is not {encoding.upper()[:6].rstrip('-')}") from None


def csv_rows(data: bytes, known: Sequence[str], limit: int = MAX_ROWS) -> Iterator[list[str]]:
    """Streams the rows of a CSV table, the header first, its names without space around them.

    The delimiter is the one of comma, semicolon, tab and bar by which the header has a known name.

    Args:
        data: the file.
        known: names of columns.
        limit: rows that are allowed.

    Raises:
        UnreadableError: it is not CSV, or exceeds a bound; tells the line.
    """
    lines = _Lines(data)
    head = next((line for line in lines if line.strip() and not line.startswith("sep=")), "")
    if not head:
        raise UnreadableError("it is empty")
    delimiter = next(
        (
            sign
            for sign in DELIMITERS
            if any(name.strip().strip('"').strip().lower() in known for name in head.split(sign, MAX_FIELDS))
        ),
        ",",
    )
    spaced = f"{delimiter} " in head
    reader = csv.reader(lines.with_first(head), delimiter=delimiter, strict=True, skipinitialspace=spaced)
    count = -1
    try:
        for row in reader:
            lines.row_ended()
            if len(row) > MAX_FIELDS:
                raise UnreadableError(f"line {lines.number}: it has more than {MAX_FIELDS:,} fields")
            if not row:
                continue  # an empty line
            count += 1
            if count > limit:
                raise UnreadableError(f"it has more than {limit:,} rows")
            yield [name.strip() for name in row] if count == 0 else row
    except csv.Error as error:
        raise UnreadableError(f"line {lines.number}: {error}") from None


def json_lines(data: bytes) -> Iterator[tuple[int, Any]]:
    """Streams the number and the value of each line that is not blank.

    Raises:
        UnreadableError: a line is not JSON, or exceeds a bound; tells the line.
    """
    lines = _Lines(data)
    for line in lines:
        lines.row_ended()
        if not line.strip():
            continue
        if lines.number > MAX_ROWS:
            raise UnreadableError(f"it has more than {MAX_ROWS:,} lines")
        try:
            value = json.loads(line)
        except json.JSONDecodeError as error:
            raise UnreadableError(f"line {lines.number}, column {error.colno}: {error.msg}") from None
        except (ValueError, RecursionError) as error:
            raise UnreadableError(f"line {lines.number}: {_plain(error)}") from None
        yield lines.number, value


class _Lines:
    """The lines of a file, each with its number; what one row takes of them is bounded."""

    def __init__(self, data: bytes) -> None:
        encoding = next((name for mark, name in _MARKS if data.startswith(mark)), "utf-8")
        self._stream = io.TextIOWrapper(io.BytesIO(data), encoding, newline="")
        self._first: list[str] = []
        self._pending = self.number = 0

    def with_first(self, line: str) -> _Lines:
        self._first = [line]
        return self

    def row_ended(self) -> None:
        self._pending = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        if self._first:
            return self._first.pop()
        try:
            line = self._stream.readline(MAX_LINE + 1)
        except UnicodeDecodeError as error:
            what = error.encoding.upper()
            raise UnreadableError(f"after line {self.number}: it has bytes that are not {what}") from None
        if not line:
            raise StopIteration
        self.number += 1
        self._pending += len(line)
        if self._pending > MAX_LINE:
            raise UnreadableError(f"line {self.number}: a row has more than {MAX_LINE:,} characters")
        return line.replace("\r\n", "\n")


def parquet_texts(
    data: bytes | BinaryIO, names: Sequence[str]
) -> tuple[list[str], dict[str, pa.ChunkedArray]]:
    """Reads columns of text as dictionaries, where a long value that repeats a million times takes few bytes.

    Args:
        data: the file.
        names: columns to read, where it has them.

    Returns:
        The names of all columns, and the columns that were read. One that is not text is empty: its type is
        what its reader complains about.

    Raises:
        UnreadableError: it exceeds a bound.
        pyarrow.ArrowException: it is not a Parquet file.
    """
    source = pa.BufferReader(data) if isinstance(data, bytes) else data
    with pq.ParquetFile(source, memory_map=False, pre_buffer=False) as file:
        schema, rows = file.schema_arrow, file.metadata.num_rows
        twice = next((name for name in names if schema.names.count(name) > 1), "")
        if twice:
            raise UnreadableError(f"it has two columns '{twice}'")
        found = [name for name in names if name in schema.names]
        texts = [name for name in found if is_text(schema.field(name).type)]
        if rows > MAX_ROWS:
            raise UnreadableError(f"it has more than {MAX_ROWS:,} rows")
        check_decoded(file, texts)
    if not isinstance(source, pa.BufferReader):
        source.seek(0)
    else:
        source = pa.BufferReader(data)
    columns: dict[str, pa.ChunkedArray] = {
        name: pa.chunked_array([pa.nulls(rows)])
        for name in found
        if pa.types.is_null(schema.field(name).type)
    }
    with pq.ParquetFile(source, memory_map=False, pre_buffer=False, read_dictionary=texts) as file:
        table = file.read(columns=texts, use_threads=False)
    for name in texts:
        columns[name] = table.column(name)
        for chunk in table.column(name).chunks:
            values = chunk.dictionary if pa.types.is_dictionary(chunk.type) else chunk
            longest = pc.max(pc.binary_length(values)).as_py() or 0
            if longest > MAX_FIELD:
                what = f"column '{name}': a value has {longest:,} bytes, more than {MAX_FIELD:,}"
                raise UnreadableError(what)
    for name in found:
        columns.setdefault(name, pa.chunked_array([], type=schema.field(name).type))
    return list(schema.names), columns


def is_text(kind: pa.DataType) -> bool:
    """Whether a column holds text, as such or as a dictionary."""
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def check_decoded(file: pq.ParquetFile, names: Iterable[str], width: int = 4) -> None:
    """Refuses columns that one row group makes larger than ``MAX_COLUMN_BYTES``, by the file's own figures.

    Args:
        file: open.
        names: columns.
        width: bytes of one decoded value, at least: of the index of a dictionary, or of the type.

    Raises:
        UnreadableError: one is larger.
    """
    wanted = set(names)
    for group in range(file.metadata.num_row_groups):
        facts = file.metadata.row_group(group)
        for number in range(facts.num_columns):
            column = facts.column(number)
            if column.path_in_schema.split(".")[0] in wanted:
                size = max(column.num_values * width, column.total_uncompressed_size)
                if size > MAX_COLUMN_BYTES:
                    raise UnreadableError(
                        f"{size:,} bytes of one column in row group {group}; {MAX_COLUMN_BYTES:,} are allowed"
                    )


def _bound(size: int, limit: int, unit: str) -> None:
    if size > limit:
        raise UnreadableError(f"it has more than {limit:,} {unit}")
