"""Lists the data set, leaves out what is done already, and splits the rest into shards."""

from __future__ import annotations

import hashlib
import json
import math
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from clipseg_kfp import records
from clipseg_kfp.errors import ParameterError
from clipseg_kfp.progress import say
from clipseg_kfp.prompts.files import listed
from clipseg_kfp.results import Results, json_bytes
from clipseg_kfp.results.accounting import most_quarantined
from clipseg_kfp.results.layout import DELETED, FOLDERS, STAGING, image_id
from clipseg_kfp.results.ledger import DONE, QUARANTINED, Ids, Ledger, ids_of
from clipseg_kfp.sources import Source, is_single_file, list_sources
from clipseg_kfp.steps.encode_prompts import classes_of, prompt_rows, read_configuration, read_facts_of
from clipseg_kfp.steps.handover import Handover
from clipseg_kfp.steps.timing import timed
from clipseg_kfp.storage import Folder, open_folder
from clipseg_kfp.truth import Classes, open_truth

STEP = "fetch_dataset"
MAX_SHARDS = 24  # Argo keeps all nodes of a run in one object of 1 MB: tests/pipelines/test_node_sizes.py
SUMMARY = "summary.json"
OWN_FOLDERS = f"[0-9a-f]{{16}}/({'|'.join(name[:-1] for name in FOLDERS)})|{STAGING}/[0-9a-f]{{16}}/files"
AT_ONCE = 1000  # images looked up in the ledger together
SHOWN = 20  # deleted images that the log names


@dataclass(frozen=True)
class Dataset:
    """What was found.

    Attributes:
        source_uri: what was listed.
        listed: images found (``limit`` applied).
        skipped: of those, images that an earlier committed run has done under the same configuration.
        digest: sha256 (32 hex digits) over keys and versions of the images to do.
        shards: names of the shards; never empty, since a loop over nothing is an error in places.
        deleted: images that earlier runs over this source have done and that are no longer listed; ``None``
            where that was not looked at, since a limit ended the listing or the ledger was not read.
        max_quarantined: for the steps that set images aside; see ``results.accounting.most_quarantined``.
        compact: whether publish_results is to write a snapshot of the ledger.
        listed_at: when the listing began, in seconds since 1970: how old a run's objects may be when it is
            published.
    """

    source_uri: str
    listed: int
    skipped: int
    digest: str
    shards: list[str]
    deleted: int | None = None
    max_quarantined: str = ""
    compact: bool = False
    listed_at: float = 0.0


@timed(STEP, "dataset")
def run(
    *,
    source_uri: str,
    output_uri: str,
    encoded_prompts: Path,
    dataset: Path,
    shard_size: int = 100,
    limit: int = 0,
    run_id: str = "",
    full: bool = False,
    max_quarantined: str = "",
    ground_truth_uri: str = "",
    ground_truth_format: str = "auto",
    ground_truth_classes: dict[str, str] | None = None,
    endpoint: str = "",
) -> Dataset:
    """Writes ``shards/<name>.parquet`` (``records.SOURCES``) and ``summary.json`` into ``dataset``.

    ``deleted.parquet`` (``records.DELETED``) names images that are done and no longer listed. Their masks
    stay: manifests name them.

    Args:
        source_uri: prefix, folder, manifest file, archive or single image.
        output_uri: where results go; earlier runs there are consulted.
        encoded_prompts: encode_prompts' output.
        dataset: output folder.
        shard_size: images a shard; raised where there would be more than 50 shards.
        limit: the most images to take; 0 takes all. Those that no run has seen come first, and behind them
            those that an earlier run quarantined.
        run_id: name of this run, where the user chose one; a committed run of that name is an error.
        full: take all images, whatever earlier runs have done.
        max_quarantined: how many images the run may set aside; checked here, used by later steps.
        ground_truth_uri: where things really are; see ``truth.open_truth``. Empty takes what lies in
            ``masks/`` beside ``images/``, or what the manifest names.
        ground_truth_format: one of ``truth.FORMATS``.
        ground_truth_classes: class by prompt, where names differ.
        endpoint: S3 endpoint URL.

    Returns:
        Counts and shard names.

    Raises:
        ParameterError: a bad size, limit, bound or source, ground truth that fits neither images nor prompts, or
            the run exists already.
        StorageError: the source or the output cannot be read.
    """
    if shard_size < 1:
        raise ParameterError(f"shard_size is {shard_size}.", "Give 1 or more.")
    if limit < 0:
        raise ParameterError(f"limit is {limit}.", "Give 0 for all images, or a positive number.")
    most_quarantined(max_quarantined, 0)
    listed_at = time.time()
    output = open_folder(output_uri, endpoint)
    config = read_configuration(encoded_prompts)
    results = Results(output, config)
    if run_id and results.manifest(run_id) is not None:
        raise results.name_taken(run_id)
    # Also shows an output that cannot be written here, not after the inference.
    model = read_facts_of(encoded_prompts).to_json()
    results.describe({"configuration": config, "model": model, "prompts": prompt_rows(encoded_prompts)})
    ledger = Ledger.empty(results) if full else Ledger.read(results)
    measured = _Measured(
        encoded_prompts, ground_truth_uri, ground_truth_format, ground_truth_classes, endpoint
    )
    own = _own_files(source_uri, output, endpoint)
    skipped = left_out = tried_again = 0
    total = hashlib.sha256()

    def sources() -> Iterator[Source]:
        nonlocal left_out
        for source in list_sources(source_uri, output.child(STAGING), endpoint, own):
            if measured.is_picture_of(source.uri):
                continue
            if own(source.uri):
                left_out += 1
            else:
                yield source

    def fresh() -> Iterator[Source]:
        nonlocal skipped, tried_again
        again: list[Source] = []  # held back, so that bad images never use up the limit
        found = sources()
        while batch := list(islice(found, AT_ONCE)):
            keys.append(ids_of(image_id(source.key) for source in batch))
            states = ledger.states((source.key, source.version) for source in batch)
            for source, state in zip(batch, states, strict=True):
                if state == DONE:
                    skipped += 1
                elif state == QUARANTINED:
                    again.append(source)
                else:
                    yield source
        whole.append(True)
        for source in again:
            tried_again += 1
            yield source

    def rows() -> Iterator[dict[str, Any]]:
        for source in islice(fresh(), limit or None):
            total.update(f"{source.key}\0{source.version}\n".encode("utf-8", "surrogatepass"))
            yield measured.with_truth(source).row()

    keys: list[Ids] = [ids_of(())]
    whole: list[bool] = []
    listing = dataset / "listing.parquet"
    new = records.write_parquet(listing, records.SOURCES, rows())
    measured.tell(new, skipped)
    shards = _split(listing, new, shard_size, dataset / "shards")
    listing.unlink()
    gone = ledger.gone(source_uri, np.concatenate(keys)) if whole else iter(())
    deleted = _write_deleted(dataset / DELETED, gone)
    found = Dataset(
        source_uri,
        new + skipped,
        skipped,
        total.hexdigest()[:32],
        shards,
        deleted if whole and not full else None,
        max_quarantined,
        ledger.overdue,
        listed_at,
    )
    (dataset / SUMMARY).write_bytes(json_bytes(asdict(found)))
    if left_out:
        say(STEP, f"left out {left_out:,} files of earlier results, which lie below the images")
    if tried_again:
        say(STEP, f"{tried_again:,} images that were quarantined before are tried again")
    if new:
        images = f"{new - tried_again:,} new images"
        say(STEP, f"{source_uri}: {images}, {skipped:,} done before; {len(shards)} shards")
    elif skipped:
        say(STEP, f"{source_uri}: nothing new, all {skipped:,} images are done under this configuration")
    else:
        say(STEP, f"{source_uri}: there are no images")
    return found


def handover(found: Dataset) -> Handover:
    """Counts for the UI, and the shards, one task each."""
    counts = {"listed": found.listed, "skipped": found.skipped, "shards": len(found.shards)}
    return Handover(metadata={"dataset": {**counts, "digest": found.digest}}, output=[*found.shards])


def _write_deleted(path: Path, gone: Iterator[dict[str, Any]]) -> int:
    first: list[str] = []

    def rows() -> Iterator[dict[str, Any]]:
        for row in gone:
            if len(first) < SHOWN:
                first.append(row["key"])
            yield row

    count = records.write_parquet(path, records.DELETED, rows())
    if count:
        say(STEP, f"{count:,} images that are done are no longer there; their masks stay, see {DELETED}")
        for key in first:
            say(STEP, f"no longer there: {key}")
    return count


class _Measured:
    """Adds ground truth to images.

    Args:
        prompts: encode_prompts' output.
        uri: of the ground truth; empty leaves what images came with.
        kind: its format.
        named: class by prompt.
        endpoint: S3 endpoint URL.

    Raises:
        ParameterError: no prompt looks for any class.
    """

    def __init__(
        self, prompts: Path, uri: str, kind: str, named: dict[str, str] | None, endpoint: str
    ) -> None:
        self._shown = shown = [row["name"] for row in prompt_rows(prompts) if not row["hidden"]]
        own, named = classes_of(prompts), named or {}  # of several sets: by the names in their set, too
        classes = {prompt: named.get(name, name) for prompt, name in own.items() if prompt in shown}
        classes |= {prompt: name for prompt, name in named.items() if prompt not in own.values()}
        self._classes = Classes(shown, classes)
        self._uri = uri
        self._truth = open_truth(uri, kind, endpoint) if uri else None
        if self._truth is not None:
            self._wanted = [name for name in self._truth.classes if self._classes.prompts_of(name)]
            if not self._wanted:
                raise ParameterError(
                    f"No prompt looks for a class of {uri}; it has {listed(self._truth.classes)}.",
                    'Name prompts after classes, or set ground_truth_classes to {"<prompt>": "<class>"}.',
                )

    def is_picture_of(self, uri: str) -> bool:
        """Whether this is ground truth, which is no image to segment."""
        return self._truth is not None and bool(self._truth.place) and uri.startswith(self._truth.place)

    def with_truth(self, source: Source) -> Source:
        """The image with its ground truth, in terms of prompts."""
        found = source.ground_truth if self._truth is None else self._truth.of(source.key, self._wanted)
        return replace(source, ground_truth=tuple(self._classes.assign(found)))

    def tell(self, new: int, skipped: int) -> None:
        """Says how much was found; raises ``ParameterError`` where it fits none of the images."""
        if self._truth is None:
            return
        images = self._truth.images
        if new and not images.found and not skipped:
            raise ParameterError(
                f"None of the {new:,} images is named in {self._uri}, which names {len(images):,} others.",
                "Names must end alike: folder/a.jpg and a.jpg do.",
            )
        say(
            STEP,
            f"{self._uri}: ground truth of {images.found:,} images, {len(self._wanted):,} classes asked for",
        )
        for remark in self._truth.left_out:
            say(STEP, f"ground truth left out: {remark}")
        others = set(self._truth.classes) - set(self._wanted)
        if others:
            say(STEP, f"no prompt looks for {len(others):,} of its classes: {listed(others)}")
        asked = {prompt for name in self._wanted for prompt in self._classes.prompts_of(name)}
        if without := set(self._shown) - asked:
            say(STEP, f"it has no class for the prompts {listed(without)}")


def _own_files(source_uri: str, output: Folder, endpoint: str) -> Callable[[str], bool]:
    """Tells what this suite wrote: where results lie below the images, they are no images to segment."""
    prefix = output.locate("")
    if is_single_file(source_uri) or not prefix.startswith(open_folder(source_uri, endpoint).locate("")):
        return lambda uri: False
    ours = re.compile(rf"{re.escape(prefix.rstrip('/'))}/({OWN_FOLDERS})/")
    return lambda uri: ours.match(uri) is not None


def _split(listing: Path, count: int, shard_size: int, folder: Path) -> list[str]:
    shards = max(1, min(MAX_SHARDS, math.ceil(count / shard_size)))
    size = math.ceil(count / shards)
    shards = max(1, math.ceil(count / max(1, size)))  # rounding up may have filled fewer
    rows = records.read_parquet(listing)
    names = [f"shard-{i:03d}" for i in range(shards)]
    for name in names:
        records.write_parquet(folder / f"{name}.parquet", records.SOURCES, islice(rows, size))
    return names


def read_summary(folder: Path) -> Dataset:
    """Reads this step's summary from its output folder."""
    return Dataset(**json.loads((folder / SUMMARY).read_text("utf-8")))
