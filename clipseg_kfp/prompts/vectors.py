"""Vectors from NumPy, safetensors and Parquet files."""

from __future__ import annotations

import io
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from clipseg_kfp.prompts.entries import StoredEmbedding
from clipseg_kfp.prompts.files import Files, choices, listed, missing, unusable

MAX_TABLE_BYTES = 2 << 30  # of a Parquet file, which is not read whole


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
        names = pq.read_schema(path).names
        for name in (column, *where):
            if name not in names:
                raise unusable(
                    "vector_unknown_name", stored.uri, f"has no column '{name}'.", choices(name, names)
                )
        filters = [(name, "==", value) for name, value in where.items()] or None
        rows = pq.read_table(path, columns=[column], filters=filters, memory_map=True).column(column)
        if where and len(rows) != 1:
            problem = f"has {len(rows)} rows with {where}; one is needed."
            raise unusable("vector_row", stored.uri, problem, "Let 'where' select a single row.")
        row = _row(len(rows), stored)
        return np.array(rows[row].as_py(), float) if rows[row].is_valid else np.empty(0)


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
