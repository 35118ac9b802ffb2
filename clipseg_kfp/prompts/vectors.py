"""Vectors from NumPy, safetensors and Parquet files."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from clipseg_kfp.prompts.entries import StoredEmbedding
from clipseg_kfp.prompts.files import Files, choices, listed, missing, unusable
from clipseg_kfp.records.untrusted import check_decoded

MAX_TABLE_BYTES = 2 << 30  # of a Parquet file, which is not read whole
MAX_WIDTH = 100_000  # numbers of one vector
ROWS_AT_ONCE = 256


def read_vector(files: Files, stored: StoredEmbedding, width: int) -> NDArray[np.float32]:
    """Reads a stored embedding as it is.

    Args:
        files: where to read.
        stored: which one.
        width: what the model takes.

    Returns:
        float32 (width,), finite.

    Raises:
        ParameterError: no such vector, or one of another width.
    """
    try:
        if stored.file_kind == "parquet":
            values = _from_parquet(files, stored)
        elif stored.file_kind == "npy":
            values = np.load(io.BytesIO(files.read(stored.uri)), allow_pickle=False)
        else:
            values = _from_safetensors(files.read(stored.uri), stored)
    except (ValueError, EOFError, OSError, MemoryError, pa.ArrowException) as error:  # of other bytes
        problem = f"is not a usable .{stored.file_kind} file: {' '.join(str(error).split())[:200]}."
        remedy = "Write the file again, without pickled objects."
        raise unusable("vector_format", stored.uri, problem, remedy) from error
    values = _one_row(np.asarray(values), stored)
    if values.dtype.kind not in "fiu" or values.shape != (width,):
        problem = f"holds a vector of {values.dtype} {values.shape}; this model takes ({width},)."
        remedy = "Take vectors of the same CLIP: the projections of its text or vision tower."
        raise unusable("vector_shape", stored.uri, problem, remedy)
    vector = values.astype(np.float32)
    if not np.isfinite(vector).all() or not vector.any():
        problem = "holds a vector of zeros, or one that is not finite."
        raise unusable("vector_values", stored.uri, problem, "Embed the thing again.")
    return vector


def _from_parquet(files: Files, stored: StoredEmbedding) -> NDArray[Any]:
    import pyarrow.parquet as pq

    column, where = stored.column or "embedding", stored.where or {}
    with tempfile.TemporaryDirectory() as work:
        folder, key = files.open(stored.uri)
        entry = folder.stat(key)
        if entry is None:
            raise missing(folder, key)
        if entry.size > MAX_TABLE_BYTES:
            problem = f"has {entry.size:,} bytes; {MAX_TABLE_BYTES:,} are allowed."
            remedy = "Write the vectors that you need into a smaller file."
            raise unusable("vector_file_too_large", stored.uri, problem, remedy)
        path = Path(work, "table.parquet")
        folder.download(key, path)
        with pq.ParquetFile(path, memory_map=False, pre_buffer=False) as file:
            names, rows = file.schema_arrow.names, file.metadata.num_rows
        for name in (column, *where):
            if name not in names:
                raise unusable(
                    "vector_unknown_name", stored.uri, f"has no column '{name}'.", choices(name, names)
                )
        # As dictionaries, a long value that repeats a million times takes few bytes.
        with pq.ParquetFile(path, memory_map=False, pre_buffer=False, read_dictionary=list(where)) as file:
            check_decoded(file, [column, *where])
            if not where:
                return _vector(_nth(file, column, _row(rows, stored)))
            found = [
                row for batch in _batches(file, [column, *where]) for row in _selected(batch, column, where)
            ]
        if len(found) != 1:
            problem = f"has {len(found)} rows with {where}; one is needed."
            raise unusable("vector_row", stored.uri, problem, "Let 'where' select a single row.")
        return _vector(found[0])


def _batches(file: Any, columns: list[str]) -> Iterator[pa.RecordBatch]:
    yield from file.iter_batches(batch_size=ROWS_AT_ONCE, columns=columns, use_threads=False)


def _nth(file: Any, column: str, row: int) -> pa.Scalar:
    """One row of a column; only its row group is read."""
    for group in range(file.metadata.num_row_groups):
        rows = file.metadata.row_group(group).num_rows
        if row < rows:
            for batch in file.iter_batches(
                batch_size=ROWS_AT_ONCE, row_groups=[group], columns=[column], use_threads=False
            ):
                if row < batch.num_rows:
                    return batch.column(column)[row]
                row -= batch.num_rows
        row -= rows
    raise ValueError("it has fewer rows than it says")


def _selected(batch: pa.RecordBatch, column: str, where: Mapping[str, Any]) -> list[pa.Scalar]:
    """The vectors of the rows of a batch that have all these values; two are enough."""
    import pyarrow.compute as pc

    chosen = np.ones(batch.num_rows, bool)
    for name, value in where.items():
        values = batch.column(name)
        coded = pa.types.is_dictionary(values.type)
        equal = pc.equal(values.dictionary if coded else values, value)
        equal = equal.take(values.indices) if coded else equal
        chosen &= np.asarray(pc.fill_null(equal, False))
    return [batch.column(column)[int(row)] for row in np.flatnonzero(chosen)[:2]]


def _vector(value: pa.Scalar) -> NDArray[Any]:
    if not value.is_valid:
        return np.empty(0)
    if not isinstance(value, pa.ListScalar | pa.LargeListScalar | pa.FixedSizeListScalar):
        raise ValueError("the column does not hold lists of numbers")
    if len(value.values) > MAX_WIDTH:
        raise ValueError(f"a vector has more than {MAX_WIDTH:,} numbers")
    return np.array(value.as_py(), float)


def _from_safetensors(data: bytes, stored: StoredEmbedding) -> NDArray[Any]:
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        tensors = load(data)  # torch reads bfloat16, which NumPy does not have
    except SafetensorError as error:
        raise ValueError(str(error)) from error
    name = stored.key or next(iter(tensors), "")
    if stored.key is None and len(tensors) != 1:
        raise unusable(
            "vector_key_missing", stored.uri, f"has {len(tensors)} tensors.", f"Add 'key': {listed(tensors)}."
        )
    if name not in tensors:
        raise unusable(
            "vector_unknown_name", stored.uri, f"has no tensor '{name}'.", choices(name, list(tensors))
        )
    return np.asarray(tensors[name].to(torch.float32).numpy())


def _one_row(values: NDArray[Any], stored: StoredEmbedding) -> NDArray[Any]:
    if stored.file_kind == "parquet":  # one row already
        return values
    if values.ndim == 2:
        row: NDArray[Any] = values[_row(len(values), stored)]
        return row
    if stored.row:
        raise unusable(
            "vector_row", stored.uri, f"holds one vector; there is no row {stored.row}.", "Remove 'row'."
        )
    return values


def _row(count: int, stored: StoredEmbedding) -> int:
    """Which of so many rows is meant."""
    row = stored.row or 0
    if row >= count:
        raise unusable(
            "vector_row", stored.uri, f"has {count} rows; there is no row {row}.", "Rows count from 0."
        )
    if stored.row is None and not stored.where and count != 1:
        more = ", or 'where'" if stored.file_kind == "parquet" else ""
        raise unusable("vector_row", stored.uri, f"has {count} rows.", f"Add 'row', from 0{more}.")
    return row
