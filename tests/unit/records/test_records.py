from __future__ import annotations

import errno
import io
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipseg_kfp import records
from clipseg_kfp.records import schemas, tables

SCHEMAS = {
    name: value for name, value in vars(schemas).items() if isinstance(value, pa.Schema) and name.isupper()
}


def values(kind: pa.DataType) -> st.SearchStrategy[Any]:
    if pa.types.is_struct(kind):
        return st.fixed_dictionaries({field.name: values(field.type) for field in kind})
    if pa.types.is_fixed_size_list(kind):
        return st.lists(values(kind.value_type), min_size=kind.list_size, max_size=kind.list_size)
    if pa.types.is_list(kind):
        return st.lists(values(kind.value_type), max_size=3)
    if pa.types.is_boolean(kind):
        return st.booleans()
    if pa.types.is_integer(kind):
        top = 2 ** (kind.bit_width - 1)
        return st.integers(-top, top - 1)
    if pa.types.is_floating(kind):
        return st.floats(allow_nan=False, width=kind.bit_width)
    if pa.types.is_fixed_size_binary(kind):
        return st.binary(min_size=kind.byte_width, max_size=kind.byte_width)
    if pa.types.is_large_binary(kind):
        return st.binary(max_size=20)
    return st.text(max_size=20)


def rows_of(schema: pa.Schema) -> st.SearchStrategy[list[dict[str, Any]]]:
    row = st.fixed_dictionaries({field.name: values(field.type) | st.none() for field in schema})
    return st.lists(row, max_size=6)


TABLES = st.sampled_from(sorted(SCHEMAS)).flatmap(
    lambda name: st.tuples(st.just(SCHEMAS[name]), rows_of(SCHEMAS[name]))
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("records")


@settings(deadline=None, max_examples=80)
@given(TABLES, st.integers(1, 3))
def test_round_trip_of_every_schema(
    folder: Path, table: tuple[pa.Schema, list[dict[str, Any]]], batch: int
) -> None:
    schema, rows = table
    assert records.write_parquet(folder / "t.parquet", schema, iter(rows), batch) == len(rows)
    assert list(records.read_parquet(folder / "t.parquet")) == rows
    with records.ArrowWriter(folder / "t.arrow", schema, batch) as writer:
        for row in rows:
            writer.append(row)
    batches = list(records.read_arrow(folder / "t.arrow"))
    assert [row for part in batches for row in part.to_pylist()] == rows
    assert all(0 < part.num_rows <= batch for part in batches)
    assert sorted(path.name for path in folder.iterdir()) == ["t.arrow", "t.parquet"]


def test_columns_are_picked(tmp_path: Path) -> None:
    rows = [{"image": i, "jpeg": b"x"} for i in range(3)]
    records.write_parquet(tmp_path / "t.parquet", records.PREVIEWS, rows)
    assert list(records.read_parquet(tmp_path / "t.parquet", ["image"])) == [{"image": i} for i in range(3)]


def test_rows_are_drawn_as_they_are_written(tmp_path: Path) -> None:
    """The writer holds a batch and no more; the reader begins before the end."""
    waiting = most = 0

    def rows() -> Iterator[dict[str, Any]]:
        nonlocal waiting, most
        for i in range(1000):
            waiting += 1
            most = max(most, waiting)
            yield {"image": i, "jpeg": b"x"}

    class Counting(pa.parquet.ParquetWriter):
        def write_table(self, part: pa.Table, *rest: Any) -> None:
            nonlocal waiting
            waiting -= part.num_rows
            super().write_table(part, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tables.pq, "ParquetWriter", Counting)
        assert records.write_parquet(tmp_path / "t.parquet", records.PREVIEWS, rows(), batch=10) == 1000
    assert most <= 11
    reader = records.read_parquet(tmp_path / "t.parquet")
    assert next(reader)["image"] == 0


class StoppedError(Exception):
    pass


def failing() -> Iterator[dict[str, Any]]:
    yield {"image": 1, "jpeg": b"x"}
    raise StoppedError


def test_an_exception_leaves_no_table(tmp_path: Path) -> None:
    with pytest.raises(StoppedError):
        records.write_parquet(tmp_path / "t.parquet", records.PREVIEWS, failing(), batch=1)
    assert list(tmp_path.iterdir()) == []


def test_an_exception_leaves_the_old_table(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    records.write_parquet(path, records.PREVIEWS, [{"image": 7, "jpeg": b"x"}])
    with pytest.raises(StoppedError):
        records.write_parquet(path, records.PREVIEWS, failing())
    assert [row["image"] for row in records.read_parquet(path)] == [7]
    assert list(tmp_path.iterdir()) == [path]


def test_an_exception_leaves_no_arrow_file(tmp_path: Path) -> None:
    with (
        pytest.raises(StoppedError),
        records.ArrowWriter(tmp_path / "t.arrow", records.PREVIEWS, 1) as writer,
    ):
        for row in failing():
            writer.append(row)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("rows_per_batch", [1, 16])
def test_a_value_of_the_wrong_kind_leaves_no_file(tmp_path: Path, rows_per_batch: int) -> None:
    bad = {"image": "one", "jpeg": b"x"}
    with (
        pytest.raises(pa.ArrowException),
        records.ArrowWriter(tmp_path / "t.arrow", records.PREVIEWS, rows_per_batch) as writer,
    ):
        writer.append(bad)
    with pytest.raises(pa.ArrowException):
        records.write_parquet(tmp_path / "t.parquet", records.PREVIEWS, [bad])
    assert list(tmp_path.iterdir()) == []


def test_an_arrow_file_appears_when_all_is_there(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "t.arrow"
    with records.ArrowWriter(path, records.PREVIEWS, 1) as writer:
        writer.append({"image": 1, "jpeg": b"x"})
        assert not path.exists()
    assert path.exists()


def test_batches_outlive_the_reader(tmp_path: Path) -> None:
    with records.ArrowWriter(tmp_path / "t.arrow", records.PREVIEWS, 1) as writer:
        for i in range(3):
            writer.append({"image": i, "jpeg": bytes([i]) * 1000})
    batches = list(records.read_arrow(tmp_path / "t.arrow"))
    assert [batch.to_pylist()[0]["jpeg"] for batch in batches] == [bytes([i]) * 1000 for i in range(3)]


@pytest.mark.parametrize("compression", [None, "lz4", "zstd"])
def test_compressed_columns_come_back(tmp_path: Path, compression: str | None) -> None:
    ramp = np.add.outer(np.arange(352), np.arange(352)).astype(np.uint8)
    rows = [
        {"image": i, "box": [0, 0, 9, 9], "prompt": i, "probability": (ramp + np.uint8(i)).tobytes()}
        for i in range(10)
    ]
    path = tmp_path / "t.arrow"
    with records.ArrowWriter(path, records.PROBABILITIES, 4, compression) as writer:
        for row in rows:
            writer.append(row)
    assert [row for part in records.read_arrow(path) for row in part.to_pylist()] == rows
    share = path.stat().st_size / (10 * ramp.size)
    assert share < 0.2 if compression else share > 1


def test_tables_in_memory_are_read_in_this_thread_alone(tmp_path: Path) -> None:
    """Another one may let go of the bytes when the interpreter is gone, which aborts the process."""
    threads = set()

    class Watched(io.BytesIO):
        def read(self, *size: Any) -> bytes:
            threads.add(threading.get_ident())
            return super().read(*size)

    rows = [{"image": i, "jpeg": b"x" * 100} for i in range(5000)]
    records.write_parquet(tmp_path / "t.parquet", records.PREVIEWS, rows, batch=500)
    data = (tmp_path / "t.parquet").read_bytes()
    assert records.parse_parquet(Watched(data)).to_pylist() == rows
    assert records.parse_parquet(data, columns=["image"]).column_names == ["image"]
    assert threads == {threading.get_ident()}


def test_maps_come_back_from_any_thread() -> None:
    ramp = np.add.outer(np.arange(352), np.arange(352)).astype(np.uint8)
    maps = [ramp + np.uint8(i) for i in range(100)]
    with ThreadPoolExecutor(8) as pool:
        packed = list(pool.map(records.pack_map, [*maps, ramp[:, ::-1], ramp.T[::2, ::2]]))
    assert max(map(len, packed)) < 0.2 * ramp.size
    for data, levels in zip(packed, maps, strict=False):
        assert (records.unpack_map(data, 352) == levels).all()
    assert (records.unpack_map(packed[-2], 352) == ramp[:, ::-1]).all()


@pytest.mark.parametrize("side", [175, 177])
def test_a_map_of_another_size_is_refused(side: int) -> None:
    packed = records.pack_map(np.zeros((176, 176), np.uint8))
    with pytest.raises(OSError):
        records.unpack_map(packed, side)


def test_an_unknown_compression_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError):
        records.ArrowWriter(tmp_path / "t.arrow", records.PREVIEWS, compression="zip")
    assert list(tmp_path.iterdir()) == []


def test_an_exception_after_many_batches_leaves_the_old_arrow_file(tmp_path: Path) -> None:
    path = tmp_path / "t.arrow"
    with records.ArrowWriter(path, records.PREVIEWS) as writer:
        writer.append({"image": 7, "jpeg": b"x"})
    with (
        pytest.raises(StoppedError),
        records.ArrowWriter(path, records.PREVIEWS, 1) as writer,
    ):
        for i in range(20):
            writer.append({"image": i, "jpeg": b"x" * 10_000})
        raise StoppedError
    assert [row["image"] for part in records.read_arrow(path) for row in part.to_pylist()] == [7]
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, the disk that is always full")
@pytest.mark.parametrize("rows_per_batch", [1, 16])
def test_a_full_disk_leaves_no_file(tmp_path: Path, rows_per_batch: int) -> None:
    row = {"image": 1, "jpeg": b"x" * 1000}
    (tmp_path / "t.arrow.part").symlink_to("/dev/full")
    with (
        pytest.raises(OSError) as caught,
        records.ArrowWriter(tmp_path / "t.arrow", records.PREVIEWS, rows_per_batch) as writer,
    ):
        writer.append(row)
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(tmp_path / "t.arrow"))
    (tmp_path / "t.parquet.part").symlink_to("/dev/full")
    with pytest.raises(OSError) as caught:
        records.write_parquet(tmp_path / "t.parquet", records.PREVIEWS, [row])
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(tmp_path / "t.parquet"))
    assert list(tmp_path.iterdir()) == []


PEAK = """
import sys
from pathlib import Path
import numpy as np
from clipseg_kfp import records

path, count = Path(sys.argv[1]), int(sys.argv[2])
noise = np.random.default_rng(0).integers(0, 99, 352 * 352, dtype=np.uint8)
with records.ArrowWriter(path, records.PROBABILITIES, 64) as writer:
    for i in range(count):
        pixels = noise + np.uint8(i % 100)
        writer.append({"image": i, "box": (0, 0, 9, 9), "prompt": 0, "probability": pixels.tobytes()})
total = 0
for batch in records.read_arrow(path):
    for value in batch.column("probability"):
        total += int(np.frombuffer(value.as_buffer(), np.uint8).sum())
assert total > 40 * noise.size * count
# Of this program alone; ru_maxrss would begin with what the parent had.
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM:")))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's account of memory")
def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    """60 and 300 MB of maps, written and looked at."""
    peaks = [
        int(subprocess.run(
            [sys.executable, "-c", PEAK, str(tmp_path / "t.arrow"), str(count)],
            capture_output=True, text=True, timeout=60, check=True,
        ).stdout)
        for count in (500, 2500)
    ]  # fmt: skip
    assert peaks[1] < 1.1 * peaks[0], peaks
