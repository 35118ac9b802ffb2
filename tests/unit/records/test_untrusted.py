"""Small files that stand for gigabytes end soon, in little memory, and without a word of their content."""

from __future__ import annotations

import json
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipseg_kfp.errors import ParameterError
from clipseg_kfp.prompts.entries import StoredEmbedding
from clipseg_kfp.prompts.files import Files
from clipseg_kfp.prompts.parser import load_prompts
from clipseg_kfp.prompts.vectors import read_vector
from clipseg_kfp.records import untrusted
from clipseg_kfp.records.untrusted import (
    UnreadableError,
    csv_rows,
    json_lines,
    parse_document,
    read_bounded,
)
from tests.codes import fails

SECRET = "hunter2-wJalrXUtnFEMI"
MB = 1 << 20


@contextmanager
def soon_and_small(seconds: float = 20, megabytes: int = 200) -> Iterator[None]:
    tracemalloc.start()
    start = time.monotonic()
    try:
        yield
        assert time.monotonic() - start < seconds
        assert tracemalloc.get_traced_memory()[1] < megabytes * MB
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "data",
    [
        b"- a\n" * (4 * MB),
        b"[" + b"[]," * (5 * MB) + b"[]]",
        b"- " * 5_000 + b"a",
        b"? " * 100_000,
        b"{" * 100_000,
        b"a: " + b"1" + b":59" * 1_000_000,
        b"a: &a [x]\n" + b"b: *a\n" * 600_000,
        b"x" * (17 * MB),
    ],
    ids=["16 MB", "lists", "deep", "keys", "braces", "base 60", "aliases", "text"],
)
def test_documents_that_cost_too_much(data: bytes) -> None:
    with soon_and_small(), pytest.raises(UnreadableError) as caught:
        parse_document(data)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    "data",
    [
        b"," * (64 * MB),
        b"a,b\n" + b",\n" * 10 + b'"' + b'\n","' * MB,
        b"uri\n" + b"," * 5_000,
        b'uri\n"' + b"x" * 2 * MB,
    ],
    ids=["one line", "many lines", "fields", "field"],
)
def test_csv_that_costs_too_much(data: bytes) -> None:
    with soon_and_small(), pytest.raises(UnreadableError) as caught:
        for _ in csv_rows(data, ["uri"]):
            pass
    assert len(str(caught.value)) < 300


def test_lines_that_cost_too_much() -> None:
    with soon_and_small(), pytest.raises(UnreadableError):
        list(json_lines(b"[" * (32 * MB)))


@pytest.mark.parametrize(
    "text",
    [
        f"a: [{SECRET}\nb: c",
        f"- *{SECRET}",
        f"- !!{SECRET} x",
        f"- !{SECRET}!x y",
        f"a: {SECRET}: {SECRET}",
        f'{{"a": "{SECRET}" "b"}}',
        f"\x00{SECRET}",
        f"- !!int {SECRET}",
        f"- !!timestamp {SECRET}",
    ],
)
def test_errors_tell_the_place_and_no_content(text: str) -> None:
    with fails("prompts_not_json_or_yaml", where="set.yaml") as caught:
        load_prompts(text.encode(), "set.yaml")
    assert SECRET not in str(caught.value) and caught.value.__cause__ is None


@pytest.mark.parametrize("text", ["a: [b\nc: d", '{"a":\n "b" "c"}'])
def test_errors_of_syntax_name_line_and_column(text: str) -> None:
    with pytest.raises(UnreadableError, match=r"line 2, column \d+"):
        parse_document(text.encode())


def test_devices_and_large_files_are_not_read(tmp_path: Path) -> None:
    with pytest.raises(UnreadableError):
        read_bounded(Path("/dev/zero"))
    (tmp_path / "a").write_bytes(b"12345")
    assert read_bounded(tmp_path / "a", 5) == b"12345"
    with pytest.raises(UnreadableError):
        read_bounded(tmp_path / "a", 4)


def test_one_prompt_per_line(tmp_path: Path) -> None:
    lines = "a cat\n\n# people\n a red cup, full \r\n\ufeff"[:-1]
    assert load_prompts(lines.encode("utf-8-sig"), "s3://b/prompts.TXT") == ["a cat", "a red cup, full"]
    assert load_prompts(b"a cat\n", "prompts.yaml") == "a cat"
    with fails("prompts_one_text", where="prompts.yaml"):
        load_prompts(b"a cat\na dog\n", "prompts.yaml")


def vectors(path: Path, table: pa.Table, **options: Any) -> StoredEmbedding:
    pq.write_table(table, path, **options)
    return StoredEmbedding(uri=str(path), normalized=False)


def test_a_small_table_of_vectors_that_is_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flat = pa.array(np.zeros(4 * MB, np.float32))
    table = pa.table({"embedding": pa.FixedSizeListArray.from_arrays(flat, 512)})
    stored = vectors(tmp_path / "v.parquet", table, compression="zstd")
    assert (tmp_path / "v.parquet").stat().st_size < MB
    monkeypatch.setattr(untrusted, "MAX_COLUMN_BYTES", 8 * MB)
    with fails("vector_format", where=stored.uri):
        read_vector(Files(), stored.model_copy(update={"row": 3}), 512)


def test_rows_of_a_table_of_vectors(tmp_path: Path) -> None:
    values = np.arange(1, 2001, dtype=np.float32)
    rows = pa.FixedSizeListArray.from_arrays(pa.array(np.repeat(values, 4)), 4)
    names = pa.array([f"thing {number}" for number in range(2000)])
    table = pa.table({"embedding": rows, "name": names, "odd": np.arange(2000) % 2})
    stored = vectors(tmp_path / "v.parquet", table, row_group_size=700)
    for row in (0, 255, 256, 699, 700, 1999):
        assert read_vector(Files(), stored.model_copy(update={"row": row}), 4)[0] == row + 1
        where = {"name": f"thing {row}", "odd": row % 2}
        assert read_vector(Files(), stored.model_copy(update={"where": where}), 4)[0] == row + 1
    for where in ({"odd": 1}, {"name": "no thing"}):
        with fails("vector_row", where=stored.uri):
            read_vector(Files(), stored.model_copy(update={"where": where}), 4)
    with fails("vector_row", where=stored.uri):
        read_vector(Files(), stored.model_copy(update={"row": 2000}), 4)


def test_messages_are_bounded() -> None:
    error = ParameterError("x" * 100 * MB, "y" * MB, where=json.dumps(["z"] * MB)).within("q" * MB)
    assert max(map(len, (error.message, error.remedy, error.where))) <= 2_000
    assert len(str(error)) <= 4_001
