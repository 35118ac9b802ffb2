"""From a data set's URI to the images it names: folders and prefixes, manifests, archives, single files."""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from urllib.parse import quote, unquote

import pandas as pd

from clipseg_kfp.dataset import manifests
from clipseg_kfp.dataset.convention import STEP, MasksBeside
from clipseg_kfp.dataset.ground_truth import GroundTruth
from clipseg_kfp.dataset.ignored import BESIDE_IMAGES, GROUND_TRUTH, Ignored, ignored_text, kind_of
from clipseg_kfp.errors import ObjectUnreadableError, ParameterError, StorageError
from clipseg_kfp.images.formats import IMAGE_SUFFIXES
from clipseg_kfp.naming import digest, redacted, spell_out
from clipseg_kfp.runtime.concurrency import ordered_map
from clipseg_kfp.runtime.progress import say
from clipseg_kfp.storage import (
    Entry,
    Folder,
    archives,
    is_web,
    missing,
    open_folder,
    open_object,
    plain_path,
    web_reference,
)

STAT_THREADS = 16
UNSEEN = "unseen"  # version of a file on the web that is not to be read: it has none of this name


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
    uri: str,
    staging: Folder,
    endpoint: str = "",
    *,
    ignored: Ignored | None = None,
    other: Callable[[str, str], str] = lambda key, uri: "",
    allow_empty: bool = False,
) -> Iterator[Source]:
    """Streams the images of a data set.

    Args:
        uri: ``s3://bucket/prefix``, a folder, a manifest file (CSV, JSONL, Parquet), a zip or tar archive, or an
            image; the files also by ``https://``.
        staging: where the members of an archive are unpacked.
        endpoint: S3 endpoint URL, as for ``open_folder``.
        ignored: counts every object under the source that is no image to segment, by kind.
        other: the kind of an object that is no image to segment whatever its name, by its key below the source and its
            URI; empty for all others.
        allow_empty: no images are no error.

    Raises:
        ParameterError: a manifest without the needed columns or with a bad row, an unsafe archive, or no images.
        StorageError: nothing there, or not readable.
    """
    if not uri:
        remedy = "Give s3://bucket/prefix, a folder, a manifest or an archive."
        raise ParameterError("source_uri is empty.", remedy, code="source_empty", where="source_uri")
    ignored = Ignored() if ignored is None else ignored
    empty = True
    for source in _sources(uri, staging, endpoint, ignored, other):
        empty = False
        yield source
    if empty and not allow_empty:
        raise no_images(uri, ignored.counts(), endpoint)


def _sources(
    uri: str, staging: Folder, endpoint: str, ignored: Ignored, other: Callable[[str, str], str]
) -> Iterator[Source]:
    lower = plain_path(uri).lower()
    if not is_single_file(uri):
        yield from _from_folder(open_folder(uri, endpoint), ignored, other)
    elif lower.endswith(archives.SUFFIXES):
        unpacked = archives.unpack(uri, staging, endpoint)
        try:
            yield from _from_folder(unpacked.folder, ignored, other, shown=f"{uri}!", name=unpacked.name)
        except StorageError as error:
            if error.code != "folder_missing":  # of an archive without members
                raise
    else:
        is_manifest = lower.endswith(manifests.SUFFIXES)
        for source in _from_manifest(uri, endpoint) if is_manifest else _single(uri, endpoint):
            if kind := other(source.key, source.uri):
                ignored.add(kind)
            else:
                yield source


def no_images(uri: str, ignored: Mapping[str, int], endpoint: str = "") -> ParameterError:
    """The error for a source without images: what lies there instead, or what is nearest to it."""
    allowing = "Where that is as it should be, set limits.allow_empty=true."
    if ignored:
        return ParameterError(
            f"There are no images under {uri}; {ignored_text(ignored)}.",
            f"Images are {' '.join(sorted(IMAGE_SUFFIXES))}, or have no suffix. {allowing}",
            code="no_images",
            where=uri,
        )
    if is_single_file(uri):
        return ParameterError(
            f"There are no images in {uri}; it is empty.", allowing, code="no_images", where=uri
        )
    folder, key = (None, "") if uri.endswith("/") else _object_of(uri, endpoint)
    if folder is not None and folder.stat(key) is not None:
        known = ", ".join((*manifests.SUFFIXES, *archives.SUFFIXES))
        return ParameterError(
            f"{uri} is an object of a kind that is not read, and not a prefix.",
            f"Give a prefix, an image, a manifest or an archive ({known}).",
            code="source_kind_unknown",
            where=uri,
        )
    return ParameterError(
        f"There is nothing under {uri}. {_nearest(uri, endpoint)}",
        f"Check the name. {allowing}",
        code="nothing_under_source",
        where=uri,
    )


def _object_of(uri: str, endpoint: str) -> tuple[Folder | None, str]:
    """The place of the object of this very name, in a store; a file system tells files from folders itself."""
    if open_folder(uri, endpoint).uri.startswith("file:"):
        return None, ""
    try:
        return open_object(uri, endpoint)
    except ParameterError:  # a bucket
        return None, ""


def _nearest(uri: str, endpoint: str) -> str:
    """Names the nearest prefix above that has objects."""
    place = open_folder(uri, endpoint).locate("").rstrip("/")
    if place.startswith("file:"):
        return "The folder exists."
    bucket = "/".join(place.split("/", 3)[:3])
    above = place
    while above != bucket:
        above = above.rpartition("/")[0]
        if next(iter(open_folder(above, endpoint).names()), None) is not None:
            return f"The nearest prefix with objects is {above}/."
    return f"The bucket {bucket} has no objects."


def is_single_file(uri: str) -> bool:
    """Whether a data set's URI names one file (manifest, archive or image) and not a prefix."""
    return plain_path(uri).lower().endswith((*manifests.SUFFIXES, *archives.SUFFIXES, *IMAGE_SUFFIXES))


def check_source(uri: str, endpoint: str = "", *, allow_empty: bool = False) -> None:
    """Fails at once where ``list_sources`` would: at a missing, empty or unreadable place. Reads nothing whole.

    Raises:
        ParameterError: a URI of an unknown form, or nothing is under it.
        StorageError: nothing there, or not readable.
    """
    if is_single_file(uri):
        _stat(uri, endpoint)
    elif next(iter(open_folder(uri, endpoint).names()), None) is None and not allow_empty:
        raise no_images(uri, {}, endpoint)


def _from_folder(
    folder: Folder,
    ignored: Ignored,
    other: Callable[[str, str], str],
    shown: str = "",
    name: Callable[[str], str] | None = None,
) -> Iterator[Source]:
    """All images below a folder.

    Where masks lie beside the images, they are ground truth: see ``convention``. Pictures beside both are then left
    out and counted.

    Args:
        folder: to list.
        ignored: counts all other objects.
        other: see ``list_sources``.
        shown: what people see in place of the folder's URI.
        name: of an unpacked archive: turns a key of the folder into the member's name.
    """
    masks = MasksBeside(folder, name)

    def kind(key: str, entry: Entry) -> str:
        what = other(entry.key, folder.locate(entry.key)) or kind_of(key, entry.size)
        if what or masks.is_image(key):
            return what
        return GROUND_TRUTH if masks.is_mask(key) else BESIDE_IMAGES

    beside = 0
    for entry in folder.entries():
        key = name(entry.key) if name else entry.key
        if what := kind(key, entry):
            ignored.add(what)
            beside += what == BESIDE_IMAGES
            continue
        yield Source(
            source=f"{shown}/{spell_out(key)}" if shown else spell_out(folder.locate(entry.key)),
            key=spell_out(key),
            uri=folder.locate(entry.key),
            version=entry.version,
            size=entry.size,
            ground_truth=masks.of(key),
        )
    masks.tell()
    if beside:
        say(
            STEP,
            f"left out {beside:,} images outside {masks.images}: there is ground truth below {masks.masks}",
        )


def _stat(uri: str, endpoint: str) -> tuple[Folder, Entry]:
    folder, key = open_object(uri, endpoint)
    entry = folder.stat(key)
    if entry is None:
        raise missing(uri)
    return folder, entry


def _single(uri: str, endpoint: str) -> Iterator[Source]:
    folder, entry = _stat(uri, endpoint)
    place = folder.locate(entry.key)  # absolute: later steps may run in another folder
    name = posixpath.basename(entry.key)
    if is_web(uri):
        name = spell_out(unquote(posixpath.basename(plain_path(place)), errors="surrogateescape"))
    yield Source(uri, name, place, entry.version, entry.size)


def _from_manifest(uri: str, endpoint: str) -> Iterator[Source]:
    table = manifests.read_manifest(uri, endpoint)
    home, name_there = open_object(uri, endpoint)
    manifest = home.locate(name_there)  # absolute: later steps may run in another folder

    def ground_truth(rows: pd.DataFrame) -> Iterator[GroundTruth]:
        for row in rows[rows["mask_uri"] != ""].itertuples():
            with _row_named(uri, int(str(row.Index)) + 1):
                place = _absolute(str(row.mask_uri), manifest)
                open_object(place, endpoint)
            yield GroundTruth(str(row.prompt), place)

    def look(item: tuple[str, int, tuple[GroundTruth, ...]]) -> Source:
        value, row, truth = item
        with _row_named(uri, row):
            place = _absolute(value, manifest)
            folder, key = open_object(place, endpoint)
            # A missing object stays in the listing: reading it puts it into quarantine, by name.
            try:
                entry = folder.stat(key) or Entry(key, 0, "")
            except ObjectUnreadableError:
                if not is_web(place):  # one bucket: a right is missing for all of it
                    raise
                entry = Entry(key, 0, UNSEEN)  # reading says why
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
    """The absolute URI of a manifest's value; relative ones start at the manifest's folder.

    Raises:
        ParameterError: a manifest from the web names a file of this machine.
    """
    if is_web(manifest):
        return web_reference(manifest, value)
    if "://" in value or value.startswith("/"):
        return value
    scheme, _, place = manifest.partition("://")
    if scheme == "file":
        value = quote(value)
    folder = posixpath.dirname(place)
    if value.startswith(("./", "../")):  # stores do not resolve these
        return f"{scheme}://{posixpath.normpath(f'{folder}/{value}')}"
    return f"{scheme}://{folder.rstrip('/')}/{value}"
