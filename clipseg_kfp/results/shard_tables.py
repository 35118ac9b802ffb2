"""Tables of finished shards: in the bucket after the shard's masks, so that no image has to be done again.

Such a **part** is two tables. The one of its images comes first. The one of its masks comes last, and with it the part
is complete; its name is the digest of its content, and manifests name it. A run finds the parts that no committed run
names (their run failed, was killed, or is still going on), and takes over the images that it would have to do. Two
runs may take over the same part: names derive from content, so both name the same objects.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from itertools import groupby
from operator import itemgetter
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
_version = itemgetter("key", "version")

#: Keys of a part's tables of masks and of images, below the configuration's folder.
Keys = tuple[str, str]


def part_key(table: Path) -> str:
    """The key of a shard's part: the digest of its bytes; empty where the shard has no masks.

    Args:
        table: rows of ``records.MASKS``.
    """
    if not pq.read_metadata(table).num_rows:
        return ""
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


class UncommittedImages:
    """Images of parts that no committed run names.

    An image takes 16 bytes of memory; its row is on the disk.

    Args:
        results: of the configuration.
        work: folder for working files.
    """

    def __init__(self, results: Results, work: Path) -> None:
        self._results, self._work = results, work
        self._parts: list[tuple[Keys, int]] = []  # with the number of their images
        self._ids, self._places = ids_of(()), np.empty(0, np.intp)
        self._taken = np.empty(0, np.bool_)

    @classmethod
    def find(cls, results: Results, ledger: Ledger, prompts: int, work: Path) -> UncommittedImages:
        """Reads and checks parts; the log names those that are damaged, or whose objects are gone.

        Args:
            results: of the configuration.
            ledger: what committed runs have done.
            prompts: number of masks per image.
            work: folder for working files.

        Raises:
            StorageError: the output cannot be read.
        """
        images = cls(results, work)
        ids = [ids_of(())]
        for keys in _complete(results):
            if keys[0] in ledger.parts:
                continue
            try:
                table = _fetch(results, keys, prompts, work / "part", ledger)
            except (ObjectChangedError, pa.ArrowException, ValueError, KeyError) as error:
                uri = results.folder.locate(keys[0])
                say(STEP, f"{uri}, of a run that was not committed, cannot be used: {error}")
                continue
            if table is not None:
                rows = records.read_parquet(table, ["source", "key", "version"])
                ids.append(ids_of(_id(**row) for row in rows))
                table.replace(work / f"{len(images._parts)}.parquet")
                images._parts.append((keys, len(ids[-1])))
        # Of an image that is in several parts the first one counts.
        images._ids, images._places = np.unique(np.concatenate(ids), return_index=True)
        images._taken = np.zeros(sum(count for _, count in images._parts), np.bool_)
        return images

    def has(self, images: Iterable[tuple[str, str, str]]) -> list[bool]:
        """Tells of each image, by source, key and version, whether it is there."""
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
            marks = self._taken[begin : begin + count].tolist()
            begin += count
            if any(marks):
                rows = records.read_parquet(self._work / f"{number}.parquet", ["key", "version"])
                taken = (row for row, marked in zip(rows, marks, strict=True) if marked)
                yield from ({"part": part, "images": images, **row} for row in taken)


def _id(source: str, key: str, version: str) -> bytes:
    """The rows name the source, too: it must be the one that is listed."""
    return image_id(key, f"{version}\0{source}")


def _complete(results: Results) -> list[Keys]:
    """Parts of which both tables are there, in an order that all readers agree on."""
    names = sorted(entry.key for entry in results.folder.names(PARTS))
    images: dict[str, str] = {}
    for name in names:
        if match := _IMAGES.fullmatch(name):
            images.setdefault(f"{match['part']}.parquet", name)
    return [(name, images[name]) for name in names if name in images]


def _fetch(results: Results, keys: Keys, prompts: int, folder: Path, ledger: Ledger) -> Path | None:
    """Downloads and checks a part.

    Returns:
        Its table of images; ``None`` where committed runs have done all of them.

    Raises:
        ObjectChangedError: a table is gone.
        ValueError: it is incomplete or damaged.
        pyarrow.ArrowException: a table is damaged.
    """
    table = _download_images(results, keys, folder)
    images = [_version(row) for row in records.read_parquet(table, ["key", "version"])]
    if among(ids_of(image_id(*image) for image in images), ledger.done).all():
        return None
    masks = groupby(map(_version, records.read_parquet(_download_masks(results, keys, folder))))
    if [(name, sum(1 for _ in group)) for name, group in masks] != [(name, prompts) for name in images]:
        raise ValueError("its tables do not fit together")
    if key := missing(results, [folder]):
        raise ValueError(f"{key} is gone")
    return table


def _download_images(results: Results, keys: Keys, folder: Path) -> Path:
    path = folder / IMAGES
    return _download(results, keys[1], path, records.PART_IMAGES, lambda: _images_key(keys[0], path))


def _download_masks(results: Results, keys: Keys, folder: Path) -> Path:
    path = folder / MASKS
    return _download(results, keys[0], path, records.MASKS, lambda: part_key(path))


def _download(results: Results, key: str, path: Path, schema: pa.Schema, expected: Callable[[], str]) -> Path:
    """Copies a table and returns its path; raises ``ValueError`` where its name or its columns do not fit."""
    path.parent.mkdir(parents=True, exist_ok=True)
    results.folder.download(key, path)
    if expected() != key or pq.read_schema(path).names != schema.names:
        raise ValueError(f"{key} is damaged, or another version wrote it")
    return path


def take_over(results: Results, taken: Path, target: Path, engine: str) -> Iterator[tuple[str, Path]]:
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
    for number, (keys, group) in enumerate(groupby(rows, itemgetter("part", "images"))):
        wanted = set(map(_version, group))
        part, folder = target / "part", target / str(number)
        try:
            images, masks = _download_images(results, keys, part), _download_masks(results, keys, part)
        except (ObjectChangedError, ValueError, pa.ArrowException) as error:
            raise gone(results, keys[0]) from error
        blank = {"detail": "", "ground_truth": []}
        for table, schema, more in ((images, records.IMAGES, blank), (masks, records.MASKS, {})):
            chosen = ({**row, **more} for row in records.read_parquet(table) if _version(row) in wanted)
            records.write_parquet(folder / table.name, schema, chosen)
        (folder / engine).write_bytes(pq.read_schema(images).metadata[ENGINE])
        shutil.rmtree(part)
        yield keys[0], folder
