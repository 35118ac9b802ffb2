"""From a data set's URI to the images it names: folders and prefixes, manifests, archives, single files."""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from urllib.parse import quote

import pandas as pd

from clipseg_kfp.dataset import manifests
from clipseg_kfp.dataset.ground_truth import GroundTruth
from clipseg_kfp.errors import ParameterError, StorageError
from clipseg_kfp.images.formats import IMAGE_SUFFIXES
from clipseg_kfp.naming import digest, redacted, spell_out
from clipseg_kfp.runtime.concurrency import ordered_map
from clipseg_kfp.runtime.progress import say
from clipseg_kfp.storage import Entry, Folder, archives, missing, open_folder, open_object

STAT_THREADS = 16
STEP = "fetch_dataset"  # whose log tells what was left out
MASK_LAYOUT = "masks/<prompt>/<same name>"


@dataclass(frozen=True)
class Source:
    """One image to segment; the columns of ``records.SOURCES``."""

    source: str
    key: str
    uri: str
    version: str
    size: int
    ground_truth: tuple[GroundTruth, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "source", redacted(self.source))  # it is shown; ``uri`` is what is read

    def row(self) -> dict[str, object]:
        """The row of the table ``records.SOURCES``."""
        truth = [vars(item) for item in self.ground_truth]
        return {**vars(self), "ground_truth": truth}


def list_sources(
    uri: str, staging: Folder, endpoint: str = "", own: Callable[[str], bool] = lambda _: False
) -> Iterator[Source]:
    """Streams the images of a data set.

    Args:
        uri: ``s3://bucket/prefix``, a folder, a manifest file (CSV, JSONL, Parquet) or a zip or tar archive.
        staging: where the members of an archive are unpacked.
        endpoint: S3 endpoint URL, as for ``open_folder``.
        own: whether a URI is a result of this suite; these do not count as images that are left out.

    Raises:
        ParameterError: a manifest without the needed columns or with a bad row, or an unsafe archive.
        StorageError: nothing there, or not readable.
    """
    if not uri:
        remedy = "Give s3://bucket/prefix, a folder, a manifest or an archive."
        raise ParameterError("source_uri is empty.", remedy, code="source_empty", where="source_uri")
    lower = uri.lower()
    if not is_single_file(uri):
        yield from _from_folder(open_folder(uri, endpoint), own=own)
    elif lower.endswith(manifests.SUFFIXES):
        yield from _from_manifest(uri, endpoint)
    elif lower.endswith(archives.SUFFIXES):
        unpacked = archives.unpack(uri, staging, endpoint)
        yield from _from_folder(unpacked.folder, shown=f"{uri}!", name=unpacked.name)
    else:
        yield from _single(uri, endpoint)


def is_single_file(uri: str) -> bool:
    """Whether a data set's URI names one file (manifest, archive or image) and not a prefix."""
    return uri.lower().endswith((*manifests.SUFFIXES, *archives.SUFFIXES, *IMAGE_SUFFIXES))


def check_source(uri: str, endpoint: str = "") -> None:
    """Fails at once where ``list_sources`` would: at a missing or unreadable place. Reads nothing whole.

    Raises:
        ParameterError: a URI of an unknown form.
        StorageError: nothing there, or not readable.
    """
    if is_single_file(uri):
        _stat(uri, endpoint)
    else:
        next(iter(open_folder(uri, endpoint).entries()), None)


def _is_image(key: str) -> bool:
    """Whether a key may be an image's, by its suffix; files of macOS are not.

    Objects with other suffixes (``.txt``, ``.json``) are not broken images: they are left out.
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
    own: Callable[[str], bool] = lambda _: False,
) -> Iterator[Source]:
    """All images below a folder.

    Where it has both ``images/`` and ``masks/<prompt>/``, the pictures below the latter are ground truth for
    the image with the same relative path (whatever the suffixes). Images beside these two folders are then
    left out and counted.

    Args:
        folder: to list.
        shown: what people see in place of the folder's URI.
        name: turns a key of the folder into the name that people know.
        own: whether a URI is a result of this suite.
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
        say(STEP, f"left out {left_out:,} images outside images/: there is ground truth below masks/")


def _masks_by_image(folder: Folder, name: Callable[[str], str]) -> dict[str, list[GroundTruth]]:
    if next(iter(folder.entries("images/")), None) is None:
        return {}
    masks: dict[str, list[GroundTruth]] = {}
    loose = 0
    for entry in folder.entries("masks/"):
        key = name(entry.key)
        prompt, slash, rest = key.removeprefix("masks/").partition("/")
        if not _is_image(key):
            continue
        if slash:
            stem = posixpath.splitext(rest)[0]
            masks.setdefault(stem, []).append(GroundTruth(spell_out(prompt), folder.locate(entry.key)))
        else:
            loose += 1
    if loose:
        fate = "left out" if masks else "taken for images"
        say(
            STEP, f"{loose:,} pictures right below masks/ are {fate}; ground truth is read from {MASK_LAYOUT}"
        )
    return masks


def _stat(uri: str, endpoint: str) -> tuple[Folder, Entry]:
    folder, key = open_object(uri, endpoint)
    entry = folder.stat(key)
    if entry is None:
        raise missing(uri)
    return folder, entry


def _single(uri: str, endpoint: str) -> Iterator[Source]:
    folder, entry = _stat(uri, endpoint)
    place = folder.locate(entry.key)  # absolute: later steps may run in another folder
    yield Source(uri, posixpath.basename(entry.key), place, entry.version, entry.size)


def _from_manifest(uri: str, endpoint: str) -> Iterator[Source]:
    table = manifests.read_manifest(uri, endpoint)
    home, name_there = open_object(uri, endpoint)
    manifest = home.locate(name_there)  # absolute: later steps may run in another folder

    def ground_truth(rows: pd.DataFrame) -> Iterator[GroundTruth]:
        for row in rows[rows["mask_uri"] != ""].itertuples():
            place = _absolute(str(row.mask_uri), manifest)
            with _row_named(uri, int(str(row.Index)) + 1):
                open_object(place, endpoint)
            yield GroundTruth(str(row.prompt), place)

    def look(item: tuple[str, int, tuple[GroundTruth, ...]]) -> Source:
        value, row, truth = item
        place = _absolute(value, manifest)
        with _row_named(uri, row):
            folder, key = open_object(place, endpoint)
            # A missing object stays in the listing: reading it puts it into quarantine, by name.
            entry = folder.stat(key) or Entry(key, 0, "")
        name = redacted(value).partition("://")[2] or value
        return Source(place, name.lstrip("/"), folder.locate(key), entry.version, entry.size, truth)

    images = (
        (str(value), int(rows.index[0]) + 1, tuple(ground_truth(rows)))
        for value, rows in table.groupby("uri", sort=False)
    )
    seen: set[str] = set()
    for source in ordered_map(look, images, STAT_THREADS):
        # "/a.jpg" beside "a.jpg": keys name results, so the later one takes its whole URI
        yield source if source.key not in seen else replace(source, key=_distinct(source.uri))
        seen.add(source.key)


def _distinct(uri: str) -> str:
    """A key for a whole URI; what is redacted in it still makes a difference."""
    plain = redacted(uri)
    return uri if plain == uri else f"{plain}~{digest(uri, 12)}"


@contextmanager
def _row_named(manifest: str, row: int) -> Iterator[None]:
    """Adds the row to the error of a URI that cannot be used, or that the store refuses."""
    try:
        yield
    except (ParameterError, StorageError) as error:
        where = f"{manifest}, row {row}"
        message = f"The manifest {where}: {error.message}"
        raise type(error)(message, error.remedy, code=error.code, where=where) from error


def _absolute(value: str, manifest: str) -> str:
    """The absolute URI of a manifest's value; relative ones start at the manifest's folder."""
    if "://" in value or value.startswith("/"):
        return value
    scheme, _, place = manifest.partition("://")
    if scheme == "file":
        value = quote(value)
    folder = posixpath.dirname(place)
    if value.startswith(("./", "../")):  # stores do not resolve these
        return f"{scheme}://{posixpath.normpath(f'{folder}/{value}')}"
    return f"{scheme}://{folder.rstrip('/')}/{value}"
