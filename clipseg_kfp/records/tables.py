"""Reads and writes tables as streams, in Parquet and Arrow files."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

#: Rows that are Python objects at one time; a row of MASKS may hold 100 KB of run lengths.
ROWS_AT_ONCE = 1024

_MAP_CODEC = "zstd"  # probability maps are smooth: it shrinks them to a fifth


def write_parquet(
    path: Path, schema: pa.Schema, rows: Iterable[dict[str, Any]], batch: int = ROWS_AT_ONCE
) -> int:
    """Writes rows as a stream under a temporary name, then renames. Returns their number."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".part")
    stream, written = iter(rows), 0
    try:
        with naming_file(path), pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
            while chunk := list(islice(stream, batch)):
                writer.write_table(pa.Table.from_pylist(chunk, schema=schema))
                written += len(chunk)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)  # unless it was renamed
    return written


def read_parquet(
    path: Path, columns: list[str] | None = None, batch: int = ROWS_AT_ONCE
) -> Iterator[dict[str, Any]]:
    """Streams the rows of a table."""
    with pq.ParquetFile(path) as table:
        for rows in table.iter_batches(batch_size=batch, columns=columns):
            yield from rows.to_pylist()


def parse_parquet(
    data: bytes | BinaryIO, columns: list[str] | None = None, dictionaries: list[str] | None = None
) -> pa.Table:
    """Reads a Parquet file from memory, in this thread alone.

    Arrow's threads may still hold the bytes when the interpreter ends, and releasing them then aborts the process
    ("terminate called without an active exception"). ``pq.read_table`` always opens files in such a thread.

    Args:
        data: the file, or its content.
        columns: to read; all by default.
        dictionaries: columns to keep dictionary-encoded.

    Raises:
        pyarrow.ArrowException: it is not a Parquet file.
    """
    source = pa.BufferReader(data) if isinstance(data, bytes) else data
    with pq.ParquetFile(source, read_dictionary=dictionaries, pre_buffer=False) as file:
        return file.read(columns=columns, use_threads=False)


class ArrowWriter:
    """Writes large rows to an Arrow file under a temporary name; the file gets its name when it is complete.

    Use it as a context manager: on an exception the partial file is removed.

    Args:
        path: of the file.
        schema: of its rows.
        rows_per_batch: rows in memory at one time, here and in a reader.
        compression: ``zstd`` or ``lz4``, of each column of a batch, in one thread. Readers find it out by
            themselves. Pixels and JPEG files hardly shrink.
    """

    def __init__(
        self, path: Path, schema: pa.Schema, rows_per_batch: int = 16, compression: str | None = None
    ) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path, self._temporary = path, path.with_name(path.name + ".part")
        self._schema, self._limit = schema, rows_per_batch
        self._options = pa.ipc.IpcWriteOptions(compression=compression)
        self._rows: list[dict[str, Any]] = []

    def __enter__(self) -> ArrowWriter:
        with naming_file(self._path):
            self._sink = pa.OSFile(str(self._temporary), "wb")
        self._writer = pa.ipc.new_file(self._sink, self._schema, options=self._options)
        return self

    def append(self, row: dict[str, Any]) -> None:
        """Adds one row."""
        self._rows.append(row)
        if len(self._rows) >= self._limit:
            self._flush()

    def _flush(self) -> None:
        if self._rows:
            with naming_file(self._path):
                self._writer.write_batch(pa.RecordBatch.from_pylist(self._rows, schema=self._schema))
            self._rows = []

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._flush()
            with naming_file(self._path):
                self._writer.close()
                self._sink.close()
            if kind is None:
                self._temporary.replace(self._path)
        finally:
            self._sink.close()
            self._temporary.unlink(missing_ok=True)  # unless it was renamed


def read_arrow(path: Path) -> Iterator[pa.RecordBatch]:
    """Streams the batches of an Arrow file; one is in memory unless the caller keeps more.

    The file is read and not mapped: once looked at, pages of a mapping count as the process's memory, so a
    step's peak would grow with its shard.
    """
    with pa.OSFile(str(path)) as source:
        reader = pa.ipc.open_file(source)
        for i in range(reader.num_record_batches):
            yield reader.get_batch(i)


def count_rows(path: Path) -> int:
    """Counts the rows of an Arrow file; it is mapped, so the rows themselves are not read."""
    with pa.memory_map(str(path)) as source:
        reader = pa.ipc.open_file(source)
        return sum(reader.get_batch(i).num_rows for i in range(reader.num_record_batches))


def pack_map(levels: NDArray[np.uint8]) -> bytes:
    """Compresses a map, uint8 (S, S). Several threads may do so at once; Arrow's own writer uses one."""
    packed: bytes = pa.Codec(_MAP_CODEC).compress(np.ascontiguousarray(levels), asbytes=True)
    return packed


def unpack_map(packed: pa.Buffer | bytes, side: int) -> NDArray[np.uint8]:
    """The inverse of ``pack_map``: uint8 (side, side), read-only.

    Raises:
        OSError: these bytes are not a map of that size.
    """
    levels = pa.Codec(_MAP_CODEC).decompress(packed, decompressed_size=side**2)
    return np.frombuffer(levels, np.uint8).reshape(side, side)


@contextmanager
def naming_file(path: Path) -> Iterator[None]:
    """Adds the path to errors of writing, which do not name the file."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            raise OSError(error.errno, os.strerror(error.errno), str(path)) from error
        raise
