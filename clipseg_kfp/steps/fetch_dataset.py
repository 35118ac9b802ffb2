"""Lists the data set, leaves out what is done already, and splits what fits into a run into shards."""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from clipseg_kfp import records
from clipseg_kfp.dataset.sources import Source, is_single_file, list_sources
from clipseg_kfp.errors import ParameterError
from clipseg_kfp.prompts.files import listed
from clipseg_kfp.results import Results, json_bytes
from clipseg_kfp.results.counts import most_quarantined
from clipseg_kfp.results.layout import DELETED, FOLDERS, STAGING, image_id
from clipseg_kfp.results.ledger import DONE, QUARANTINED, Ids, Ledger, ids_of
from clipseg_kfp.results.parts import Unpublished
from clipseg_kfp.results.plan import Plan, PlannedShard, write_plan
from clipseg_kfp.runtime.progress import say
from clipseg_kfp.steps.encode_prompts import classes_of, prompt_rows, read_configuration, read_facts_of
from clipseg_kfp.steps.handover import Handover
from clipseg_kfp.steps.sharding import Selection, Sizes, split
from clipseg_kfp.steps.timing import timed
from clipseg_kfp.storage import Folder, open_folder
from clipseg_kfp.truth import Classes, open_truth

STEP = "fetch_dataset"
SUMMARY, TAKEN = "summary.json", "taken.parquet"
OWN_FOLDERS = f"[0-9a-f]{{16}}/({'|'.join(name[:-1] for name in FOLDERS)})|{STAGING}/[0-9a-f]{{16}}/files"
AT_ONCE = 1000  # images looked up in the ledger together
LEFT = "images are left for the next run: start it again, or let 'clipseg-kfp run --until-done' do so"
SHOWN = 20  # deleted images that the log names


@dataclass(frozen=True)
class Dataset:
    """What was found.

    Attributes:
        source_uri: what was listed.
        listed: images that this run answers for: to do, taken over and skipped.
        skipped: of those, images that an earlier committed run has dealt with under the same configuration: done,
            or set aside where there is no room to try them again.
        digest: sha256 (32 hex digits) over keys and versions of the images to do and to take over.
        shards: names of the shards; never empty, since a loop over nothing is an error in places.
        deleted: images that earlier runs over this source have done and that are no longer listed.
        max_quarantined: for the steps that set images aside; see ``results.accounting.most_quarantined``.
        compact: whether publish_results is to write a snapshot of the ledger.
        listed_at: when the listing began, in seconds since 1970: how old a run's objects may be when it is
            published.
        left: images beyond ``listed``, which no run has seen: they are for the next one.
        taken_over: images that an attempt has done that was not committed; this run's manifest will name them.
    """

    source_uri: str
    listed: int
    skipped: int
    digest: str
    shards: list[str]
    deleted: int = 0
    max_quarantined: str = ""
    compact: bool = False
    listed_at: float = 0.0
    left: int = 0
    taken_over: int = 0


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
    job_id: str = "",
    full: bool = False,
    max_quarantined: str = "",
    ground_truth_uri: str = "",
    ground_truth_format: str = "auto",
    ground_truth_classes: dict[str, str] | None = None,
    endpoint: str = "",
) -> Dataset:
    """Writes ``shards/<name>.parquet`` (``records.SOURCES``) and ``summary.json`` into ``dataset``.

    ``deleted.parquet`` (``records.DELETED``) names images that are done and no longer listed. Their masks
    stay: manifests name them. ``taken.parquet`` (``records.TAKEN``) names images that an attempt has done that
    was not committed. Images that have ground truth are not among them: measuring needs their probabilities.

    The listing is always read to its end; memory holds no more images than a run takes, and 16 bytes of each other.

    Args:
        source_uri: prefix, folder, manifest file, archive or single image.
        output_uri: where results go; earlier runs there are consulted.
        encoded_prompts: encode_prompts' output.
        dataset: output folder.
        shard_size: images a shard; see ``sharding`` for what raises and what bounds it.
        limit: the most images to take, at most what fits; 0 takes what fits. Those that no run has seen come
            first, and behind them those that an earlier run quarantined, the longest ago first.
        run_id: name of this run, where the user chose one; a committed run of that name is an error.
        job_id: names the run where ``run_id`` is empty; without both, no plan is written to the results.
        full: take images whatever earlier runs have done; where not all of them fit, those that were done longest
            ago. Nothing is taken over then.
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
    model, table = read_facts_of(encoded_prompts).to_json(), prompt_rows(encoded_prompts)
    results.describe({"configuration": config, "model": model, "prompts": table})
    ledger = Ledger.read(results)
    measured = _Measured(
        encoded_prompts, ground_truth_uri, ground_truth_format, ground_truth_classes, endpoint
    )
    own = _own_files(source_uri, output, endpoint)
    sizes = Sizes.of(encoded_prompts)
    selection = Selection(min(limit or sizes.most_images, sizes.most_images))
    left_out = skipped = 0
    keys: list[Ids] = [ids_of(())]
    taken: list[bytes] = []

    def sources() -> Iterator[Source]:
        nonlocal left_out
        for source in list_sources(source_uri, output.child(STAGING), endpoint, own):
            if measured.is_picture_of(source.uri):
                continue
            if own(source.uri):
                left_out += 1
            else:
                yield source

    with tempfile.TemporaryDirectory(prefix="clipseg-kfp-") as work:
        shown = sum(not row["hidden"] for row in table)
        earlier = (
            Unpublished(results, Path(work)) if full else Unpublished.find(results, ledger, shown, Path(work))
        )
        listing = sources()
        while batch := list(islice(listing, AT_ONCE)):
            keys.append(ids_of(image_id(source.key) for source in batch))
            images = [(source.key, source.version) for source in batch]
            states = ledger.states(images)
            turns = ledger.turns(images) if full or QUARANTINED in states else states  # 0 is new in both
            there = earlier.has((source.source, source.key, source.version) for source in batch)
            for source, state, turn, is_there in zip(batch, states, turns, there, strict=True):
                if state == DONE and not full:
                    skipped += 1
                elif (
                    is_there
                    and (not limit or len(taken) < limit)
                    and not measured.with_truth(source).ground_truth
                ):
                    earlier.take(source.source, source.key, source.version)
                    taken.append(image_id(source.key, source.version))
                else:
                    selection.add(turn, source)
        taken_over = records.write_parquet(dataset / TAKEN, records.TAKEN, earlier.rows())
    if limit:
        selection.lower(min(selection.most, limit - taken_over))
    chosen = selection.take(sizes)
    shards = split([sizes(source.size) for source in chosen], shard_size)
    names = [f"shard-{i:03d}" for i in range(len(shards))]
    rows = (measured.with_truth(source).row() for source in chosen)
    for name, count in zip(names, shards, strict=True):
        records.write_parquet(dataset / f"shards/{name}.parquet", records.SOURCES, islice(rows, count))
    measured.tell(len(chosen), skipped + taken_over)
    deleted = _write_deleted(dataset / DELETED, ledger.gone(source_uri, np.concatenate(keys)))
    skipped += selection.waiting
    found = Dataset(
        source_uri,
        len(chosen) + taken_over + skipped,
        skipped,
        _digest([*taken, *(image_id(source.key, source.version) for source in chosen)]),
        names,
        deleted,
        max_quarantined,
        ledger.overdue,
        listed_at,
        selection.left,
        taken_over,
    )
    (dataset / SUMMARY).write_bytes(json_bytes(asdict(found)))
    if run_id or job_id:
        planned = tuple(PlannedShard(name, count) for name, count in zip(names, shards, strict=True))
        counts = (found.listed, skipped, taken_over, found.left, len(chosen))
        write_plan(results, Plan(run_id or job_id, source_uri, *counts, planned))
    if left_out:
        say(STEP, f"left out {left_out:,} files of earlier results, which lie below the images")
    _tell(found, selection, full)
    return found


def handover(found: Dataset) -> Handover:
    """Counts for the UI, and the shards, one task each."""
    counts = {name: getattr(found, name) for name in ("listed", "skipped", "taken_over", "left")}
    about = {**counts, "shards": len(found.shards), "digest": found.digest}
    return Handover(metadata={"dataset": about}, output=[*found.shards])


def _digest(images: list[bytes]) -> str:
    return hashlib.sha256(b"".join(sorted(images))).hexdigest()[:32]


def _tell(dataset: Dataset, selection: Selection, full: bool) -> None:
    seen = "that an earlier run has seen" if full else "that were quarantined before"
    new = selection.taken - selection.again
    if dataset.taken_over:
        say(STEP, f"{dataset.taken_over:,} images are taken over from a run that was not committed")
    if selection.again:
        say(STEP, f"{selection.again:,} images {seen} are tried again")
    if selection.waiting:
        say(STEP, f"{selection.waiting:,} images {seen} have to wait, since this run is full")
    if dataset.left:
        say(STEP, f"{dataset.left:,} {LEFT}")
    if selection.taken:
        images = f"{new:,} new images, {dataset.skipped:,} done before"
        say(STEP, f"{dataset.source_uri}: {images}; {len(dataset.shards)} shards")
    elif not dataset.listed:
        say(STEP, f"{dataset.source_uri}: there are no images")
    elif not dataset.taken_over:
        images = f"all {dataset.listed:,} images are done under this configuration"
        say(STEP, f"{dataset.source_uri}: nothing new, {images}")


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


def read_summary(folder: Path) -> Dataset:
    """Reads this step's summary from its output folder."""
    return Dataset(**json.loads((folder / SUMMARY).read_text("utf-8")))
