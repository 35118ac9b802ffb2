"""From a data-set URI to the images it names: prefixes, folders, manifest files, archives."""

from __future__ import annotations

import io
import json
import posixpath
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from urllib.parse import quote

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from clipseg_kfp.dataset.ground_truth import GroundTruth
from clipseg_kfp.errors import ParameterError, StorageError
from clipseg_kfp.images.decode import IMAGE_SUFFIXES
from clipseg_kfp.naming import spell_out
from clipseg_kfp.records import parse_parquet
from clipseg_kfp.runtime.concurrency import ordered_map
from clipseg_kfp.runtime.progress import say
from clipseg_kfp.storage import Entry, Folder, archives, open_folder, open_object

MANIFEST_SUFFIXES = (".csv", ".jsonl", ".ndjson", ".parquet")
COLUMNS = ("uri", "mask_uri", "prompt")
MAX_FIELD = 8192  # bytes of a value in a Parquet manifest: a URI with a key of 1,024 bytes, all escaped, fits
MAX_MANIFEST_ROWS = 10_000_000
MAX_MANIFEST_BYTES = 128 << 20  # a table takes several times its file's size in memory
STAT_THREADS = 16
STEP = "fetch_dataset"  # which lists sources, and whose log tells what was left out
LAYOUT = "masks/<prompt>/<same name>"


@dataclass(frozen=True)
class Source:
    """One image to segment; the columns of ``records.SOURCES``."""

    source: str
    key: str
    uri: str
    version: str
    size: int
    ground_truth: tuple[GroundTruth, ...] = field(default=())

    def row(self) -> dict[str, object]:
        """The row of the table."""
        truth = [vars(item) for item in self.ground_truth]
        return {**vars(self), "ground_truth": truth}


def _nothing(_: str) -> bool:
    return False


def list_sources(
    uri: str, staging: Folder, endpoint: str = "", own: Callable[[str], bool] = _nothing
) -> Iterator[Source]:
    """Streams the images of a data set.

    Args:
        uri: ``s3://bucket/prefix``, a folder, a manifest file (CSV, JSONL, Parquet) or a zip or tar archive.
        staging: where the members of an archive are laid out.
        endpoint: S3 endpoint URL, as for ``open_folder``.
        own: tells the URIs of what this suite wrote, which do not count as images that are left out.

    Raises:
        ParameterError: a manifest without the needed columns or with a bad row, or an unsafe archive.
        StorageError: nothing there, or not readable.
    """
    if not uri:
        raise ParameterError(
            "source_uri is empty.", "Give s3://bucket/prefix, a folder, a manifest or archive."
        )
    lower = uri.lower()
    if not is_single_file(uri):
        yield from _from_folder(open_folder(uri, endpoint), own=own)
    elif lower.endswith(MANIFEST_SUFFIXES):
        yield from _from_manifest(uri, endpoint)
    elif lower.endswith(archives.SUFFIXES):
        staged = archives.stage(uri, staging, endpoint)
        yield from _from_folder(staged.folder, shown=f"{uri}!", name=staged.name)
    else:
        yield from _single(uri, endpoint)


def is_single_file(uri: str) -> bool:
    """Says whether a data set's URI names one file (manifest, archive or image) and no prefix."""
    return uri.lower().endswith((*MANIFEST_SUFFIXES, *archives.SUFFIXES, *IMAGE_SUFFIXES))


def check_source(uri: str, endpoint: str = "") -> None:
    """Says at once what ``list_sources`` would fail at: a missing or unreadable place. Reads nothing whole.

    Raises:
        ParameterError: a URI of an unknown form.
        StorageError: nothing there, or not readable.
    """
    if is_single_file(uri):
        folder, key = open_object(uri, endpoint)
        if folder.stat(key) is None:
            raise StorageError(f"{uri} does not exist.", "Check the URI.")
    else:
        next(iter(open_folder(uri, endpoint).entries()), None)


def _is_image(key: str) -> bool:
    """Says whether a key may be an image's, by its suffix.

    Objects with another kind of suffix (``.txt``, ``.json``) are not images that failed: they are left out,
    as are the files that macOS strews about.
    """
    path = PurePosixPath(key)
    if path.name == ".DS_Store" or path.name.startswith("._"):
        return False
    suffix = path.suffix.lower()
    return not suffix or suffix in IMAGE_SUFFIXES


def _from_folder(
    folder: Folder,
    shown: str = "",
    name: Callable[[str], str] = lambda key: key,
    own: Callable[[str], bool] = _nothing,
) -> Iterator[Source]:
    """All images below a folder.

    Where it has both ``images/`` and ``masks/<prompt>/``, the pictures below the latter are ground truth for
    the image of the same relative path (whatever the suffix of either). Images beside the two folders are
    left out then, and counted.

    Args:
        folder: to list.
        shown: what people see in place of the folder's URI.
        name: gives the key that people know for a key of the folder.
        own: tells the URIs of what this suite wrote.
    """
    masks = _masks_by_image(folder, name)
    left_out = 0
    for entry in folder.entries():
        key = name(entry.key)
        if not _is_image(key):
            continue
        if masks and not key.startswith("images/"):
            left_out += not key.startswith("masks/") and not own(folder.locate(entry.key))
            continue
        stem = posixpath.splitext(key.removeprefix("images/"))[0]
        yield Source(
            source=f"{shown}/{spell_out(key)}" if shown else spell_out(folder.locate(entry.key)),
            key=spell_out(key),
            uri=folder.locate(entry.key),
            version=entry.version,
            size=entry.size,
            ground_truth=tuple(masks.get(stem, ())),
        )
    if left_out:
        say(STEP, f"left out {left_out:,} images outside images/, since there is ground truth below masks/")


def _masks_by_image(folder: Folder, name: Callable[[str], str]) -> dict[str, list[GroundTruth]]:
    if next(iter(folder.entries("images/")), None) is None:
        return {}
    found: dict[str, list[GroundTruth]] = {}
    loose = 0
    for entry in folder.entries("masks/"):
        key = name(entry.key)
        prompt, slash, rest = key.removeprefix("masks/").partition("/")
        if not _is_image(key):
            continue
        if slash:
            stem = posixpath.splitext(rest)[0]
            found.setdefault(stem, []).append(GroundTruth(spell_out(prompt), folder.locate(entry.key)))
        else:
            loose += 1
    if loose:
        fate = "left out" if found else "taken for images"
        say(STEP, f"{loose:,} pictures directly below masks/ are {fate}; ground truth lies at {LAYOUT}")
    return found


def _single(uri: str, endpoint: str) -> Iterator[Source]:
    folder, key = open_object(uri, endpoint)
    entry = folder.stat(key)
    if entry is None:
        raise StorageError(f"{uri} does not exist.", "Check the URI.")
    place = folder.locate(key)  # absolute: later steps may run in another folder
    yield Source(uri, posixpath.basename(key), place, entry.version, entry.size)


def _from_manifest(uri: str, endpoint: str) -> Iterator[Source]:
    table = _read_manifest(uri, endpoint)
    home, name_there = open_object(uri, endpoint)
    manifest = home.locate(name_there)  # absolute: later steps may run in another folder
    groups = table.groupby("uri", sort=False)

    def truths(group: pd.DataFrame) -> Iterator[GroundTruth]:
        for row in group.itertuples():
            if row.mask_uri:
                place = _absolute(str(row.mask_uri), manifest)
                with _naming_row(uri, int(str(row.Index)) + 1):
                    open_object(place, endpoint)
                yield GroundTruth(str(row.prompt), place)

    wanted: Iterable[tuple[str, int, tuple[GroundTruth, ...]]] = (
        (str(value), int(group.index[0]) + 1, tuple(truths(group))) for value, group in groups
    )

    def look(item: tuple[str, int, tuple[GroundTruth, ...]]) -> Source:
        value, row, truth = item
        place = _absolute(value, manifest)
        with _naming_row(uri, row):
            folder, key = open_object(place, endpoint)
            # A missing object stays in the listing: reading it puts it into quarantine, by name.
            entry = folder.stat(key) or Entry(key, 0, "")
        name = value.partition("://")[2] or value
        return Source(place, name.lstrip("/"), folder.locate(key), entry.version, entry.size, truth)

    seen: set[str] = set()
    for source in ordered_map(look, wanted, STAT_THREADS):
        # "/a.jpg" beside "a.jpg": keys name results, so the later one takes its whole URI
        yield source if source.key not in seen else replace(source, key=source.uri)
        seen.add(source.key)


@contextmanager
def _naming_row(manifest: str, row: int) -> Iterator[None]:
    """Says where a URI stands that cannot be used, or that the store refuses."""
    try:
        yield
    except (ParameterError, StorageError) as error:
        message = f"The manifest {manifest}, row {row}: {error.message}"
        raise type(error)(message, error.remedy) from error


def _absolute(value: str, manifest: str) -> str:
    """The place of a manifest's value: relative ones start where the manifest lies."""
    if "://" in value or value.startswith("/"):
        return value
    scheme, _, place = manifest.partition("://")
    if scheme == "file":
        value = quote(value)
    folder = posixpath.dirname(place)
    if value.startswith(("./", "../")):  # stores do not resolve these
        return f"{scheme}://{posixpath.normpath(f'{folder}/{value}')}"
    return f"{scheme}://{folder.rstrip('/')}/{value}"


def _json_lines(data: Iterable[bytes]) -> pd.DataFrame:
    rows = []
    for i, line in enumerate(data, start=1):
        if line.strip():
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:  # which too deep a nesting ends in
                raise ValueError(f"line {i}: {error}") from error
            if not isinstance(row, dict):
                raise ValueError(f"line {i} is not an object")
            rows.append(row)
    return pd.DataFrame(rows)


def _read_parquet(data: io.BytesIO) -> pd.DataFrame:
    """Reads the columns that count, as dictionaries: one long value a million times takes a few bytes there.

    Such a file would fill the memory once its values were written out, so that is bounded before.
    """
    file = pq.ParquetFile(data, memory_map=False)
    names = [name for name in file.schema_arrow.names if name in COLUMNS]
    if "uri" not in names:
        return pd.DataFrame(columns=file.schema_arrow.names, index=range(file.metadata.num_rows))
    if file.metadata.num_rows > MAX_MANIFEST_ROWS:
        raise ValueError(f"it has more than {MAX_MANIFEST_ROWS:,} rows")
    table = parse_parquet(data, columns=names, dictionaries=names)
    longest = 0
    for column in table.columns:
        for chunk in column.chunks:
            values = chunk.dictionary if pa.types.is_dictionary(chunk.type) else chunk
            if pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
                longest = max(longest, pc.max(pc.binary_length(values)).as_py() or 0)
    if longest > MAX_FIELD:
        raise ValueError(f"a value has {longest:,} bytes, more than {MAX_FIELD:,}")
    frame: pd.DataFrame = table.to_pandas().astype(object)
    return frame


def _read_manifest(uri: str, endpoint: str) -> pd.DataFrame:
    folder, key = open_object(uri, endpoint)
    data = io.BytesIO(folder.read(key, limit=MAX_MANIFEST_BYTES))
    lower = uri.lower()
    try:
        if lower.endswith(".csv"):
            table = pd.read_csv(data, dtype=str, keep_default_na=False, encoding="utf-8-sig")
        elif lower.endswith(".parquet"):
            table = _read_parquet(data)
        else:
            table = _json_lines(data)
    except (ValueError, OSError, pa.ArrowException) as error:  # pandas' parsers raise ValueErrors
        reason = " ".join(str(error).split()).rstrip(".")
        raise ParameterError(f"The manifest {uri} cannot be read: {reason}.") from error
    if table.empty:
        return pd.DataFrame(columns=["uri", "mask_uri", "prompt"])
    if "uri" not in table.columns:
        columns = ", ".join(map(str, table.columns))
        raise ParameterError(f"The manifest {uri} has no column 'uri' (it has: {columns}).")
    for column in ("mask_uri", "prompt"):
        if column not in table.columns:
            table[column] = ""
    table = table[["uri", "mask_uri", "prompt"]].fillna("").astype(str)
    empty = table.index[table["uri"].str.strip() == ""]
    if len(empty):
        raise ParameterError(f"The manifest {uri} has no uri in row {int(empty[0]) + 1}.")
    alone = table.index[(table["mask_uri"] != "") & (table["prompt"] == "")]
    if len(alone):
        raise ParameterError(
            f"The manifest {uri} has a mask_uri without a prompt in row {int(alone[0]) + 1}.",
            "Name the prompt that the mask belongs to.",
        )
    masks = table[table["mask_uri"] != ""].drop_duplicates()
    twice = masks.index[masks.duplicated(["uri", "prompt"])]
    if len(twice):
        row = int(twice[0])
        raise ParameterError(
            f"The manifest {uri} has a second mask of '{table['prompt'][row]}' for the same image "
            f"in row {row + 1}.",
            "Give one mask for each image and prompt.",
        )
    return table.drop_duplicates()
