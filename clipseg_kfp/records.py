"""The schemas of all tables, between steps and in the results; and how they are streamed to and from disk."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

#: Rows that are Python objects at one time; a row of MASKS may hold 100 KB of run lengths.
ROWS_AT_ONCE = 1024

#: ``clipseg_kfp.truth.GroundTruth``.
GROUND_TRUTH = pa.struct(
    [("prompt", pa.string()), ("uri", pa.string()), ("kind", pa.string()), ("data", pa.string())]
)

#: fetch_dataset: one row an image.
SOURCES = pa.schema(
    [
        ("source", pa.string()),  # what people see: the URI, with !/member for archives
        ("key", pa.string()),  # name below the data set's root; output names derive from it
        ("uri", pa.string()),  # where the bytes are
        ("version", pa.string()),  # changes with the content
        ("size", pa.int64()),  # bytes
        ("ground_truth", pa.list_(GROUND_TRUTH)),
    ]
)

#: What every image ends as; preprocess_images starts the table, postprocess_masks completes it.
IMAGES = pa.schema(
    [
        *SOURCES,
        ("status", pa.string()),  # done, quarantined
        ("reason", pa.string()),  # short code of a quarantine, "" when done
        ("detail", pa.string()),  # the same for people
        ("width", pa.int32()),  # of the upright image
        ("height", pa.int32()),
        ("label_map", pa.string()),  # key below the configuration's folder
        ("label_map_sha256", pa.string()),  # null where there is none
        ("label_map_bytes", pa.int64()),
        ("overlay", pa.string()),
        ("overlay_sha256", pa.string()),
        ("overlay_bytes", pa.int64()),
    ]
)

#: preprocess_images: one row a view (the image, or a tile of it), ready for the model.
VIEWS = pa.schema(
    [
        ("image", pa.int32()),  # row in the shard's IMAGES table
        ("box", pa.list_(pa.int32(), 4)),  # left, top, right, bottom in the upright image
        ("pixels", pa.large_binary()),  # uint8 RGB, size x size x 3
    ]
)

#: preprocess_images: a small JPEG of every image, for overlays and the report.
PREVIEWS = pa.schema([("image", pa.int32()), ("jpeg", pa.large_binary())])

#: segment_images: one row a (view, prompt), in the order of the views.
PROBABILITIES = pa.schema(
    [
        ("image", pa.int32()),
        ("box", pa.list_(pa.int32(), 4)),
        ("prompt", pa.int16()),  # row in the prompt table
        ("probability", pa.large_binary()),  # uint8, round(255 p), size x size, as ``pack_map`` has it
    ]
)

#: encode_prompts: one row a prompt; see ``clipseg_kfp.prompts.Row``.
PROMPTS = pa.schema(
    [
        ("name", pa.string()),
        ("id", pa.int32()),  # category number in the results, from 1
        ("kind", pa.string()),  # text, image, embedding, mix, logic
        ("description", pa.string()),  # what it was made of, for people
        ("texts", pa.list_(pa.string())),  # of kind text
        ("sources", pa.list_(pa.string())),  # URIs that were read, as written in the prompt set
        ("threshold", pa.float64()),  # null: Otsu's method, or hidden
        ("otsu", pa.bool_()),
        ("otsu_minimum", pa.float64()),  # the least threshold that Otsu's method may choose
        ("expression", pa.string()),  # of kind logic
        ("hidden", pa.bool_()),  # for use in logic only: no masks
        ("cleaning", pa.string()),  # JSON: clipseg_kfp.prompts.Cleaning
        ("instances", pa.bool_()),
        ("definition", pa.string()),  # JSON: what the configuration's digest covers
        ("embedding", pa.list_(pa.float32())),  # (D,); null for kind logic
    ]
)

#: postprocess_masks and the results: one row an (image, prompt).
MASKS = pa.schema(
    [
        ("source", pa.string()),
        ("key", pa.string()),
        ("version", pa.string()),
        ("prompt", pa.string()),
        ("category_id", pa.int32()),  # the prompt's id, by default its place in the set, from 1
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("threshold", pa.float64()),
        ("area", pa.int64()),  # pixels of the mask
        ("coverage", pa.float64()),  # area / (width x height)
        ("bbox", pa.list_(pa.int32(), 4)),  # COCO: x, y, width, height; zeros for an empty mask
        ("rle", pa.string()),  # COCO's compressed counts, column-major
        ("score", pa.float64()),  # mean probability inside the mask, 0 when empty
        ("mean_probability", pa.float64()),  # over the whole image
        ("max_probability", pa.float64()),
        ("mask", pa.string()),  # key below the configuration's folder
        ("mask_sha256", pa.string()),
        ("mask_bytes", pa.int64()),
        ("probability", pa.string()),  # key of the probability map, where they were asked for
        ("probability_sha256", pa.string()),  # null where there is none
        ("probability_bytes", pa.int64()),
    ]
)

#: postprocess_masks: a few pictures of each shard, for the report.
GALLERY = pa.schema(
    [
        ("key", pa.string()),
        ("version", pa.string()),
        ("preview", pa.large_binary()),  # JPEG
        ("overlay", pa.large_binary()),  # JPEG of the same size
        # small JPEGs of probabilities: of the prompt that was found most clearly, and of others that are telling
        ("heats", pa.list_(pa.struct([("prompt", pa.string()), ("jpeg", pa.large_binary())]))),
    ]
)

#: evaluate_masks: ground truth of the images that the report shows.
TRUTHS = pa.schema(
    [
        ("key", pa.string()),
        ("version", pa.string()),
        ("png", pa.large_binary()),  # small, in the colors of the prompts, transparent elsewhere
    ]
)

#: postprocess_masks: the probabilities of each (image, prompt) that ground truth exists for, in the order of MASKS.
SCORES = pa.schema(
    [
        ("key", pa.string()),
        ("version", pa.string()),
        ("prompt", pa.string()),
        ("boxes", pa.list_(pa.list_(pa.int32(), 4))),  # of the views, V of them
        ("maps", pa.large_binary()),  # uint8, round(255 p), V x size x size; of logic prompts, the result
    ]
)

_COUNTS = (
    ("tp", pa.int64()),  # pixels of the mask as it was written, summed over images
    ("fp", pa.int64()),
    ("fn", pa.int64()),
    ("tn", pa.int64()),
    ("iou", pa.float64()),
    ("dice", pa.float64()),
    ("precision", pa.float64()),
    ("recall", pa.float64()),
    ("boundary_iou", pa.float64()),  # mean over images with an outline; null without
)

#: evaluate_masks and the results: one row a prompt that ground truth exists for.
EVALUATION = pa.schema(
    [
        ("prompt", pa.string()),
        ("images", pa.int64()),
        *_COUNTS,  # iou, dice and recall are null where there is no foreground to find
        ("false_alarm_images", pa.int64()),  # images without the thing and with a mask of it
        ("false_alarm_share", pa.float64()),  # of the images without the thing; null where all have it
        ("iou_low", pa.float64()),  # 95 % interval over images; null for fewer than two with foreground
        ("iou_high", pa.float64()),
        ("best_threshold", pa.float64()),  # the rest is null where there is no foreground to find
        ("best_iou", pa.float64()),
        ("best_iou_low", pa.float64()),
        ("best_iou_high", pa.float64()),
        ("average_precision", pa.float64()),
        ("average_precision_paper", pa.float64()),
        ("roc_auc", pa.float64()),
        ("calibration_error", pa.float64()),
    ]
)

#: evaluate_masks and the results: one row an (image, prompt) that ground truth exists for.
PER_IMAGE = pa.schema(
    [
        ("key", pa.string()),
        ("version", pa.string()),
        ("prompt", pa.string()),
        ("width", pa.int32()),  # of the ground truth
        ("height", pa.int32()),
        *_COUNTS,
        ("sweep_tp", pa.list_(pa.int32(), 49)),  # at each threshold of clipseg_kfp.metrics.THRESHOLDS
        ("sweep_fp", pa.list_(pa.int32(), 49)),
    ]
)

#: results: every image of a run, done and quarantined; what later runs skip.
RUN_IMAGES = pa.schema(
    [IMAGES.field(name) for name in IMAGES.names if name not in ("uri", "ground_truth", "detail")]
)

#: results: the done images of a part, so that a later run can take them over.
PART_IMAGES = pa.schema(
    [IMAGES.field(name) for name in IMAGES.names if name not in ("ground_truth", "detail")]
)

#: fetch_dataset: images that an attempt has done that was not committed, in the order of parts.
TAKEN = pa.schema(
    [
        ("part", pa.string()),  # key of its masks' rows below the configuration's folder
        ("images", pa.string()),  # of its images' rows
        ("key", pa.string()),
        ("version", pa.string()),
    ]
)

#: fetch_dataset and the results: images that were done earlier and are no longer listed.
DELETED = pa.schema(
    [
        *(SOURCES.field(name) for name in ("source", "key", "version")),
        ("run", pa.string()),  # the latest that did it
    ]
)

#: results: what many runs did, sorted by image; the runs are named in the table's metadata.
LEDGER = pa.schema(
    [
        ("image", pa.binary(16)),  # digest of key and version
        ("name", pa.binary(16)),  # digest of the key
        ("run", pa.int32()),  # row in the list of runs
        ("done", pa.bool_()),  # or quarantined
    ]
)

#: results: the quarantine of a run.
QUARANTINE = pa.schema(
    [IMAGES.field(name) for name in ("source", "key", "version", "size", "reason", "detail")]
)


def write_parquet(
    path: Path, schema: pa.Schema, rows: Iterable[dict[str, Any]], batch: int = ROWS_AT_ONCE
) -> int:
    """Writes rows as a stream under a temporary name, then renames; returns their number."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".part")
    count = 0
    try:
        with _named(path), pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
            for chunk in _chunks(rows, batch):
                writer.write_table(pa.Table.from_pylist(chunk, schema=schema))
                count += len(chunk)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return count


def read_parquet(
    path: Path, columns: list[str] | None = None, batch: int = ROWS_AT_ONCE
) -> Iterator[dict[str, Any]]:
    """Streams the rows of a table."""
    with pq.ParquetFile(path) as table:
        for rows in table.iter_batches(batch_size=batch, columns=columns):
            yield from rows.to_pylist()


class ArrowWriter:
    """Writes an Arrow stream of large rows under a temporary name; the name appears when all is there.

    Use it as a context manager: on an exception the partial file is removed.

    Args:
        path: of the file.
        schema: of its rows.
        rows_per_batch: rows that are in memory at one time, here and in a reader.
        compression: ``zstd`` or ``lz4``, of each column of a batch, in one thread; readers need not be told.
            Pixels and JPEG files hardly shrink.
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
        with _named(self._path):
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
            with _named(self._path):
                self._writer.write_batch(pa.RecordBatch.from_pylist(self._rows, schema=self._schema))
            self._rows = []

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._flush()
            with _named(self._path):
                self._writer.close()
                self._sink.close()
            if kind is None:
                self._temporary.replace(self._path)
        finally:  # after the rename there is nothing of that name
            self._sink.close()
            self._temporary.unlink(missing_ok=True)


#: Probability maps are smooth: zstd leaves a fifth of them.
_MAP_CODEC = "zstd"


def pack_map(levels: NDArray[np.uint8]) -> bytes:
    """Compresses a map, uint8 (S, S); several threads may do so at once, while Arrow's writer uses one."""
    packed: bytes = pa.Codec(_MAP_CODEC).compress(np.ascontiguousarray(levels), asbytes=True)
    return packed


def unpack_map(packed: pa.Buffer | bytes, side: int) -> NDArray[np.uint8]:
    """The opposite of ``pack_map``: uint8 (side, side), read-only.

    Raises:
        OSError: these bytes are no map of that size.
    """
    levels = pa.Codec(_MAP_CODEC).decompress(packed, decompressed_size=side**2)
    return np.frombuffer(levels, np.uint8).reshape(side, side)


def read_arrow(path: Path) -> Iterator[pa.RecordBatch]:
    """Streams the batches of an Arrow file; one is in memory unless the caller keeps more.

    The file is read and not mapped: pages of a mapping count as the process's memory once they were looked
    at, so a step's peak would grow with its shard.
    """
    with pa.OSFile(str(path)) as source:
        reader = pa.ipc.open_file(source)
        for i in range(reader.num_record_batches):
            yield reader.get_batch(i)


def count_rows(path: Path) -> int:
    """Counts the rows of an Arrow file without reading them: of a mapping, only what is looked at is read."""
    with pa.memory_map(str(path)) as source:
        reader = pa.ipc.open_file(source)
        return sum(reader.get_batch(i).num_rows for i in range(reader.num_record_batches))


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Puts the path into errors of Arrow, which say what is wrong, but not where."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            raise OSError(error.errno, os.strerror(error.errno), str(path)) from error
        raise


def _chunks(rows: Iterable[dict[str, Any]], size: int) -> Iterator[list[dict[str, Any]]]:
    chunk: list[dict[str, Any]] = []
    for row in rows:
        chunk.append(row)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def parse_parquet(
    data: bytes | BinaryIO, columns: list[str] | None = None, dictionaries: list[str] | None = None
) -> pa.Table:
    """Reads a Parquet file from memory, in this thread alone.

    Arrow's own threads may still hold the bytes when the interpreter ends, and letting go of them then aborts
    the process ("terminate called without an active exception"). ``pq.read_table`` opens files in such a
    thread whatever it is told.

    Args:
        data: the file, or its content.
        columns: to read; all by default.
        dictionaries: columns to leave in that form.

    Raises:
        pyarrow.ArrowException: it is none.
    """
    source = pa.BufferReader(data) if isinstance(data, bytes) else data
    with pq.ParquetFile(source, read_dictionary=dictionaries, pre_buffer=False) as file:
        return file.read(columns=columns, use_threads=False)
