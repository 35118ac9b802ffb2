"""Vectors from NumPy, safetensors and Parquet files."""

from __future__ import annotations

import io
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from clipseg_kfp.errors import ParameterError
from clipseg_kfp.prompts.entries import StoredEmbedding
from clipseg_kfp.prompts.files import Files, choices, listed

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
        words = " ".join(str(error).split())[:200]
        raise ParameterError(f"'{stored.uri}' is no usable .{stored.file_kind} file: {words}.") from error
    values = _one_row(np.asarray(values), stored)
    if values.dtype.kind not in "fiu" or values.shape != (width,):
        raise ParameterError(
            f"'{stored.uri}' holds a vector of {values.dtype} {values.shape}; this model takes ({width},).",
            "Take vectors of the same CLIP: the projections of its text or vision tower.",
        )
    vector = values.astype(np.float32)
    if not np.isfinite(vector).all() or not vector.any():
        raise ParameterError(f"The vector in '{stored.uri}' is zero or has values that are not finite.")
    return vector


def _from_parquet(files: Files, stored: StoredEmbedding) -> NDArray[Any]:
    import pyarrow.parquet as pq

    column = stored.column or "embedding"
    with tempfile.TemporaryDirectory() as work:
        folder, key = files.open(stored.uri)
        entry = folder.stat(key)
        if entry is None:
            raise ParameterError(f"{folder.locate(key)} does not exist.", "Check the URI.")
        if entry.size > MAX_TABLE_BYTES:
            raise ParameterError(f"'{stored.uri}' has {entry.size:,} bytes; {MAX_TABLE_BYTES:,} are allowed.")
        path = Path(work, "table.parquet")
        folder.download(key, path)
        names = pq.read_schema(path).names
        for name in (column, *(stored.where or {})):
            if name not in names:
                raise ParameterError(f"'{stored.uri}' has no column '{name}'.", choices(name, names))
        filters = [(name, "==", value) for name, value in stored.where.items()] if stored.where else None
        rows = pq.read_table(path, columns=[column], filters=filters, memory_map=True).column(column)
        if stored.where and len(rows) != 1:
            raise ParameterError(
                f"'{stored.uri}' has {len(rows)} rows with {stored.where}; one is needed.",
                "Let 'where' select a single row.",
            )
        row = stored.row if stored.row is not None else 0
        _check_row(row, len(rows), stored)
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
        raise ParameterError(f"'{stored.uri}' has {len(tensors)} tensors.", f"Add 'key': {listed(tensors)}.")
    if name not in tensors:
        raise ParameterError(f"'{stored.uri}' has no tensor '{name}'.", choices(name, list(tensors)))
    return np.asarray(tensors[name].to(torch.float32).numpy())


def _one_row(values: NDArray[Any], stored: StoredEmbedding) -> NDArray[Any]:
    if values.ndim != 2 or stored.file_kind == "parquet":
        if stored.row not in (None, 0) and stored.file_kind != "parquet":
            raise ParameterError(f"'{stored.uri}' holds one vector; there is no row {stored.row}.")
        return values
    _check_row(stored.row or 0, len(values), stored)
    row: NDArray[Any] = values[stored.row or 0]
    return row


def _check_row(row: int, count: int, stored: StoredEmbedding) -> None:
    if row >= count:
        raise ParameterError(f"'{stored.uri}' has {count} rows; there is no row {row}.", "Rows count from 0.")
    if stored.row is None and not stored.where and count != 1:
        raise ParameterError(
            f"'{stored.uri}' has {count} rows.", "Add 'row', from 0" + (
                ", or 'where'." if stored.file_kind == "parquet" else "."
            )
        )  # fmt: skip
