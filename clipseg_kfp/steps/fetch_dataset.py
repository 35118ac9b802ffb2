"""Lists the data set, leaves out what is done already, and splits what fits into a run into shards."""

from __future__ import annotations

import hashlib
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from clipseg_kfp import records
from clipseg_kfp.dataset.listing import Source, is_single_file, list_sources
from clipseg_kfp.errors import ParameterError
from clipseg_kfp.naming import redacted
from clipseg_kfp.options import GroundTruth, Limits, Outputs
from clipseg_kfp.prompts.files import listed
from clipseg_kfp.results import Results
from clipseg_kfp.results.layout import DELETED, FOLDERS, STAGING, image_id
from clipseg_kfp.results.ledger import DONE, QUARANTINED, Ids, Ledger, ids_of
from clipseg_kfp.results.plan import Plan, PlannedShard, write_plan
from clipseg_kfp.results.shard_tables import UncommittedImages
from clipseg_kfp.runtime.progress import say
from clipseg_kfp.steps.artifacts import LEFT, EncodedPrompts, Listing, Summary
from clipseg_kfp.steps.handover import Handover
from clipseg_kfp.steps.sharding import Selection, Sizes, split
from clipseg_kfp.steps.timing import timed
from clipseg_kfp.storage import Folder, open_folder
from clipseg_kfp.truth import Classes, open_truth

STEP = "fetch_dataset"
OWN_FOLDERS = f"[0-9a-f]{{16}}/({'|'.join(name[:-1] for name in FOLDERS)})|{STAGING}/[0-9a-f]{{16}}/files"
AT_ONCE = 1000  # images looked up in the ledger together
SHOWN = 20  # deleted images that the log names


@timed(STEP, "dataset")
def run(
    *,
    source_uri: str,
    output_uri: str,
    encoded_prompts: Path,
    job_id: str = "",
    dataset: Path,
    limits: Limits | None = None,
    full: bool = False,
    ground_truth: GroundTruth | None = None,
    outputs: Outputs | None = None,
    endpoint: str = "",
) -> Summary:
    """Writes the images of each shard and a summary into ``dataset``; see ``artifacts.Listing``.

    Images that an uncommitted run has done are taken over, except those with ground truth: measuring needs their
    probabilities. Masks of images that are no longer listed stay, since manifests name them.

    The listing is read to its end; memory holds the images that the run takes, and 16 bytes of each other image.

    Args:
        source_uri: prefix, folder, manifest file, archive or single image.
        output_uri: where results go; earlier runs there are consulted.
        encoded_prompts: encode_prompts' output.
        job_id: names the run where ``outputs.run_id`` is empty; without both, no plan is written to the results.
        dataset: output folder.
        limits: images that no run has seen come first, then those that an earlier run quarantined, the longest ago
            first. With ``full``, where not all images fit, the run takes those that were done longest ago, and takes
            none over. See ``sharding`` for how shards are made.
        full: the same as ``limits.full``.
        ground_truth: see ``truth.open_truth``. Without a URI images keep the ground truth in ``masks/`` beside
            ``images/``, or that of the manifest file.
        outputs: its ``run_id`` must not be that of a committed run.
        endpoint: S3 endpoint URL.

    Returns:
        Counts and shard names.

    Raises:
        ParameterError: a bad source, ground truth that does not fit images or prompts, or the run exists.
        StorageError: the source or the output cannot be read.
    """
    limits = limits or Limits()
    limit, full = limits.limit, full or limits.full
    prompts, target, run_id = EncodedPrompts(encoded_prompts), Listing(dataset), (outputs or Outputs()).run_id
    listed_at = time.time()
    output = open_folder(output_uri, endpoint)
    config = prompts.configuration()
    results = Results(output, config)
    if run_id and results.manifest(run_id) is not None:
        raise results.name_taken(run_id)
    # An output that cannot be written fails here, not after the inference.
    table = prompts.rows()
    results.describe(
        {
            "configuration": config,
            "model": prompts.facts().to_json(),
            "prompts": [row.to_json() for row in table],
        }
    )
    ledger = Ledger.read(results)
    measured = _Measured(prompts, ground_truth or GroundTruth(), endpoint)
    own = _own_files(source_uri, output, endpoint)
    sizes = Sizes.of(prompts)
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
        shown = sum(not row.hidden for row in table)
        uncommitted = UncommittedImages(results, Path(work))
        if not full:
            uncommitted = UncommittedImages.find(results, ledger, shown, Path(work))
        listing = sources()
        while batch := list(islice(listing, AT_ONCE)):
            keys.append(ids_of(image_id(source.key) for source in batch))
            images = [(source.key, source.version) for source in batch]
            states = ledger.states(images)
            turns = ledger.turns(images) if full or QUARANTINED in states else states  # 0 is new in both
            there = uncommitted.has((source.source, source.key, source.version) for source in batch)
            for source, state, turn, is_there in zip(batch, states, turns, there, strict=True):
                if state == DONE and not full:
                    skipped += 1
                elif (
                    is_there
                    and (not limit or len(taken) < limit)
                    and not measured.with_truth(source).ground_truth
                ):
                    uncommitted.take(source.source, source.key, source.version)
                    taken.append(image_id(source.key, source.version))
                else:
                    selection.add(turn, source)
        taken_over = records.write_parquet(target.taken_path, records.TAKEN, uncommitted.rows())
    if limit:
        selection.lower(min(selection.most, limit - taken_over))
    chosen = selection.take(sizes)
    shards = split([sizes(source.size) for source in chosen], limits.shard_size)
    names = [f"shard-{i:03d}" for i in range(len(shards))]
    rows = (measured.with_truth(source).row() for source in chosen)
    for name, count in zip(names, shards, strict=True):
        records.write_parquet(target.shard_path(name), records.SOURCES, islice(rows, count))
    measured.tell(len(chosen), skipped + taken_over)
    deleted = _write_deleted(target.deleted_path, ledger.gone(redacted(source_uri), np.concatenate(keys)))
    skipped += selection.waiting
    summary = Summary(
        source_uri=redacted(source_uri),
        listed=len(chosen) + taken_over + skipped,
        skipped=skipped,
        digest=_digest([*taken, *(image_id(source.key, source.version) for source in chosen)]),
        shards=names,
        deleted=deleted,
        left=selection.left,
        taken_over=taken_over,
        max_quarantined=limits.max_quarantined,
        compact=ledger.overdue,
        listed_at=listed_at,
    )
    target.write_summary(summary)
    if run_id or job_id:
        planned = tuple(PlannedShard(name, count) for name, count in zip(names, shards, strict=True))
        counts = (summary.listed, skipped, taken_over, summary.left, len(chosen))
        write_plan(results, Plan(run_id or job_id, redacted(source_uri), *counts, planned))
    if left_out:
        say(STEP, f"left out {left_out:,} files of earlier results, which lie below the images")
    _tell(summary, selection, full)
    return summary


def handover(summary: Summary) -> Handover:
    """Counts for the UI, and the shards, one task per shard."""
    counts = {name: getattr(summary, name) for name in ("listed", "skipped", "taken_over", "left")}
    about = {**counts, "shards": len(summary.shards), "digest": summary.digest}
    return Handover(metadata={"dataset": about}, output=[*summary.shards])


def _digest(images: list[bytes]) -> str:
    return hashlib.sha256(b"".join(sorted(images))).hexdigest()[:32]


def _tell(dataset: Summary, selection: Selection, full: bool) -> None:
    seen = "that an earlier run has seen" if full else "that were quarantined before"
    new = selection.taken - selection.again
    if dataset.taken_over:
        say(STEP, f"{dataset.taken_over:,} images are taken over from a run that was not committed")
    if selection.again:
        say(STEP, f"{selection.again:,} images {seen} are tried again")
    if selection.waiting:
        say(STEP, f"{selection.waiting:,} images {seen} wait for a later run, since this one is full")
    if dataset.left:
        say(STEP, f"{dataset.left:,} {LEFT}")
    if selection.taken:
        images = f"{new:,} new images, {dataset.skipped:,} done before"
        say(STEP, f"{dataset.source_uri}: {images}; {len(dataset.shards)} shards")
    elif not dataset.listed:
        say(STEP, f"{dataset.source_uri}: there are no images")
    elif not dataset.taken_over:
        images = f"all {dataset.listed:,} images are done with this configuration"
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
        options: without a URI, images keep the ground truth that they came with.
        endpoint: S3 endpoint URL.

    Raises:
        ParameterError: no prompt looks for any class.
    """

    def __init__(self, prompts: EncodedPrompts, options: GroundTruth, endpoint: str) -> None:
        self._shown = shown = [row.name for row in prompts.shown()]
        own, named = prompts.classes(), options.classes  # of several sets: by the names in their set, too
        classes = {prompt: named.get(name, name) for prompt, name in own.items() if prompt in shown}
        classes |= {prompt: name for prompt, name in named.items() if prompt not in own.values()}
        self._classes = Classes(shown, classes)
        self._uri = uri = options.uri
        self._truth = open_truth(uri, options.format, endpoint) if uri else None
        if self._truth is not None:
            self._wanted = [name for name in self._truth.classes if self._classes.prompts_of(name)]
            if not self._wanted:
                raise ParameterError(
                    f"No prompt looks for a class of {uri}; it has {listed(self._truth.classes)}.",
                    'Name prompts after classes, or set ground_truth.classes to {"<prompt>": "<class>"}.',
                    code="truth_without_prompt",
                    where="ground_truth.classes",
                )

    def is_picture_of(self, uri: str) -> bool:
        """Whether this is a picture of ground truth, not an image to segment."""
        return self._truth is not None and bool(self._truth.place) and uri.startswith(self._truth.place)

    def with_truth(self, source: Source) -> Source:
        """The image with its ground truth, in terms of prompts."""
        found = source.ground_truth if self._truth is None else self._truth.of(source.key, self._wanted)
        return replace(source, ground_truth=tuple(self._classes.assign(found)))

    def tell(self, new: int, skipped: int) -> None:
        """Logs how much there is; raises ``ParameterError`` where it fits none of the images."""
        if self._truth is None:
            return
        images = self._truth.images
        if new and not images.found and not skipped:
            raise ParameterError(
                f"{self._uri} names none of the {new:,} images, but {len(images):,} others.",
                "Names must end in the same way, such as folder/a.jpg and a.jpg.",
                code="truth_of_other_images",
                where="ground_truth.uri",
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
    """Tells which objects this suite wrote: results below the images are not images to segment."""
    prefix = output.locate("")
    if is_single_file(source_uri) or not prefix.startswith(open_folder(source_uri, endpoint).locate("")):
        return lambda uri: False
    ours = re.compile(rf"{re.escape(prefix.rstrip('/'))}/({OWN_FOLDERS})/")
    return lambda uri: ours.match(uri) is not None
