"""Parts: the rows of one shard, in the bucket after its masks, so that nothing of it has to be done again.

A part is two tables. The one of its images comes first. The one of its masks is named by its digest, comes last,
and with it the part is whole; manifests name that one. A run finds the parts that no committed run names (their run
failed, or was killed, or goes on beside it), and takes over the images that it would have to do. Two runs may take
over the same part: names derive from content, so both name the very same objects.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from clipseg_kfp import records
from clipseg_kfp.errors import ObjectChangedError
from clipseg_kfp.results.commit import Results, facts_of
from clipseg_kfp.results.inventory import gone, missing
from clipseg_kfp.results.layout import IMAGES, MASKS, PARTS, content_key, image_id
from clipseg_kfp.results.ledger import Ledger, among, ids_of
from clipseg_kfp.runtime.progress import say

STEP = "parts"
ENGINE = b"clipseg-kfp-engine"  # in the metadata of a part's table of images: how its masks were computed
_IMAGES = re.compile(r"(?P<part>parts/[0-9a-f]{32})\.images\.[0-9a-f]{12}\.parquet")

_NAMED = ("source", "key", "version")

#: Part and its table of images: keys below the configuration's folder.
Keys = tuple[str, str]


def part_key(table: Path) -> str:
    """The key of a shard's part: the digest of its bytes; empty where the shard has no masks.

    Args:
        table: rows of ``records.MASKS``.
    """
    return _part_key(table) if pq.read_metadata(table).num_rows else ""


def _part_key(table: Path) -> str:
    return f"{PARTS}{facts_of(table)['sha256'][:32]}.parquet"


def write_part(results: Results, masks: Path, rows: Iterable[dict[str, Any]], engine: dict[str, Any]) -> str:
    """Writes a shard's part; all objects that its rows name must be there.

    Args:
        results: of the configuration.
        masks: the shard's rows of ``records.MASKS``.
        rows: its rows of ``records.IMAGES``; those of done images are taken.
        engine: how the masks were computed.

    Returns:
        The part's key; empty where the shard has no masks.
    """
    part = part_key(masks)
    if part:
        schema = records.PART_IMAGES.with_metadata({ENGINE: json.dumps(engine).encode()})
        done = ({name: row[name] for name in schema.names} for row in rows if row["status"] == "done")
        with tempfile.TemporaryDirectory(prefix="clipseg-kfp-") as folder:
            path = Path(folder, IMAGES)
            records.write_parquet(path, schema, done)
            results.upload(_images_key(part, path), path)
        results.upload(part, masks)
    return part


def _images_key(part: str, table: Path) -> str:
    """The same masks may come with other label maps, so this table has a digest of its own."""
    return content_key(f"{part.removesuffix('.parquet')}.images", table.read_bytes(), ".parquet")


class Unpublished:
    """Images of parts that no committed run names.

    An image takes 16 bytes of memory here, and its row lies on the disk.

    Args:
        results: of the configuration.
        work: folder for working files.
    """

    def __init__(self, results: Results, work: Path) -> None:
        self._results, self._work = results, work
        self._parts: list[tuple[Keys, int]] = []  # and how many images each has
        self._ids, self._places = ids_of(()), np.empty(0, np.intp)
        self._taken = np.empty(0, np.bool_)

    @classmethod
    def find(cls, results: Results, ledger: Ledger, prompts: int, work: Path) -> Unpublished:
        """Reads and checks parts; those that are damaged, or whose objects are gone, are left out with a line.

        Args:
            results: of the configuration.
            ledger: what committed runs have done.
            prompts: masks that every image has.
            work: folder for working files.

        Raises:
            StorageError: the output cannot be read.
        """
        found = cls(results, work)
        ids = [ids_of(())]
        for keys in _whole(results):
            if keys[0] in ledger.parts:
                continue
            try:
                folder = _fetched(results, keys, prompts, work / "part", ledger)
            except (ObjectChangedError, pa.ArrowException, ValueError, KeyError) as error:
                say(
                    STEP,
                    f"{results.folder.locate(keys[0])}, of a run that was not committed, is left out: {error}",
                )
                continue
            if folder is not None:
                rows = records.read_parquet(folder / IMAGES, list(_NAMED))
                ids.append(ids_of(_id(*(row[name] for name in _NAMED)) for row in rows))
                (folder / IMAGES).replace(work / f"{len(found._parts)}.parquet")
                found._parts.append((keys, len(ids[-1])))
        # Of an image that is in several parts the first one counts.
        found._ids, found._places = np.unique(np.concatenate(ids), return_index=True)
        found._taken = np.zeros(sum(count for _, count in found._parts), np.bool_)
        return found

    def has(self, images: Iterable[tuple[str, str, str]]) -> list[bool]:
        """Tells which images, by source, key and version, are there."""
        there: list[bool] = among(ids_of(_id(*image) for image in images), self._ids).tolist()
        return there

    def take(self, source: str, key: str, version: str) -> None:
        """Marks an image that is there."""
        place = self._places[np.searchsorted(self._ids, ids_of([_id(source, key, version)]))]
        self._taken[place] = True

    def rows(self) -> Iterator[dict[str, Any]]:
        """Rows of ``records.TAKEN`` for the images that were marked."""
        begin = 0
        for number, ((part, images), count) in enumerate(self._parts):
            marks = self._taken[begin : begin + count]
            begin += count
            if marks.any():
                rows = records.read_parquet(self._work / f"{number}.parquet", ["key", "version"])
                for row, taken in zip(rows, marks.tolist(), strict=True):
                    if taken:
                        yield {"part": part, "images": images, **row}


def _id(source: str, key: str, version: str) -> bytes:
    """Of a version of an image at its place, which the rows name: it must be the one that is listed."""
    return image_id(key, f"{version}\0{source}")


def _whole(results: Results) -> list[Keys]:
    """Parts of which both tables are there, in an order that all readers agree on."""
    names = sorted(entry.key for entry in results.folder.names(PARTS))
    images: dict[str, str] = {}
    for name in names:
        if match := _IMAGES.fullmatch(name):
            images.setdefault(f"{match['part']}.parquet", name)
    return [(name, images[name]) for name in names if name in images]


def _fetched(results: Results, keys: Keys, prompts: int, folder: Path, ledger: Ledger) -> Path | None:
    """A folder with a part's tables, checked; ``None`` where committed runs have done all of its images.

    Raises:
        ObjectChangedError: a table is gone.
        ValueError: it is not whole.
        pyarrow.ArrowException: a table is damaged.
    """
    _download_images(results, keys, folder)
    rows = records.read_parquet(folder / IMAGES, ["key", "version"])
    images = [(row["key"], row["version"]) for row in rows]
    if among(ids_of(image_id(*image) for image in images), ledger.done).all():
        return None
    _download_masks(results, keys, folder)
    masks = groupby(
        (row["key"], row["version"]) for row in records.read_parquet(folder / MASKS, ["key", "version"])
    )
    if [(name, sum(1 for _ in group)) for name, group in masks] != [(name, prompts) for name in images]:
        raise ValueError("its tables do not fit together")
    if key := missing(results, [folder]):
        raise ValueError(f"{key} is gone")
    return folder


def _download_images(results: Results, keys: Keys, folder: Path) -> None:
    """Copies a part's table of images; raises ``ValueError`` where it is damaged."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / IMAGES
    results.folder.download(keys[1], path)
    if _images_key(keys[0], path) != keys[1] or pq.read_schema(path).names != records.PART_IMAGES.names:
        raise ValueError(f"{keys[1]} is damaged, or of another version")


def _download_masks(results: Results, keys: Keys, folder: Path) -> None:
    """The same for its table of masks."""
    path = folder / MASKS
    results.folder.download(keys[0], path)
    if _part_key(path) != keys[0] or pq.read_schema(path).names != records.MASKS.names:
        raise ValueError("it is damaged, or of another version")


def gather(results: Results, taken: Path, target: Path, engine: str) -> Iterator[tuple[str, Path]]:
    """Brings the rows of images that are taken over, as if they came from shards of this run.

    Args:
        results: of the configuration.
        taken: rows of ``records.TAKEN``.
        target: working folder.
        engine: name of the file that tells how masks were computed.

    Yields:
        Each part's key, and a folder with tables of ``records.IMAGES`` and ``records.MASKS`` and that file.

    Raises:
        StorageError: a part is gone, or damaged.
    """
    rows = records.read_parquet(taken)
    for number, (keys, group) in enumerate(groupby(rows, lambda row: (row["part"], row["images"]))):
        wanted = {(row["key"], row["version"]) for row in group}
        whole, folder = target / "part", target / str(number)
        try:
            _download_images(results, keys, whole)
            _download_masks(results, keys, whole)
        except (ObjectChangedError, ValueError, pa.ArrowException) as error:
            raise gone(results, keys[0]) from error
        blank = {"detail": "", "ground_truth": []}
        images = ({**row, **blank} for row in records.read_parquet(whole / IMAGES) if _is_in(row, wanted))
        records.write_parquet(folder / IMAGES, records.IMAGES, images)
        masks = (row for row in records.read_parquet(whole / MASKS) if _is_in(row, wanted))
        records.write_parquet(folder / MASKS, records.MASKS, masks)
        (folder / engine).write_bytes(pq.read_schema(whole / IMAGES).metadata[ENGINE])
        shutil.rmtree(whole)
        yield keys[0], folder


def _is_in(row: dict[str, Any], wanted: set[tuple[str, str]]) -> bool:
    return (row["key"], row["version"]) in wanted
