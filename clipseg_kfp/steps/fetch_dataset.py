"""Lists the data set, leaves out what is done already, and splits what fits into a run into shards."""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from clipseg_kfp import records
from clipseg_kfp.dataset.convention import NAMED, some
from clipseg_kfp.dataset.ignored import GROUND_TRUTH, RESULTS, Ignored, ignored_text
from clipseg_kfp.dataset.listing import Source, is_single_file, list_sources
from clipseg_kfp.errors import ParameterError
from clipseg_kfp.images import formats
from clipseg_kfp.naming import redacted
from clipseg_kfp.options import GroundTruth, Limits, Outputs
from clipseg_kfp.prompts.files import listed
from clipseg_kfp.results import Results
from clipseg_kfp.results.earlier import EarlierResults, below
from clipseg_kfp.results.layout import DELETED, STAGING, image_id
from clipseg_kfp.results.ledger import DONE, QUARANTINED, Ids, Ledger, among, ids_of, reader_of
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
        ParameterError: a bad source, or one without images unless ``limits.allow_empty``; ground truth that does not
            fit images or prompts, or the run exists.
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
    measured = _Measured(prompts, ground_truth or GroundTruth(), endpoint, limits.max_megapixels * 1e6)
    results_there = _earlier_results(source_uri, output, endpoint)
    sizes = Sizes.of(prompts)
    selection = Selection(min(limit or sizes.most_images, sizes.most_images))
    skipped = 0
    ignored = Ignored()
    keys: list[Ids] = [ids_of(())]
    taken: list[bytes] = []
    known: list[bytes] = []
    able = {name: getattr(limits, name) for name in ("max_megapixels", "max_megabytes")}
    reader = {"version": formats.READER_VERSION, **able}
    bad = ids_of(()) if full or limits.retry_quarantined else ledger.known_bad(reader_of(reader))

    def other(key: str, uri: str) -> str:
        if measured.is_picture_of(uri):
            return GROUND_TRUTH
        return RESULTS if results_there(key) else ""

    with tempfile.TemporaryDirectory(prefix="clipseg-kfp-") as work:
        shown = sum(not row.hidden for row in table)
        uncommitted = UncommittedImages(results, Path(work))
        if not full:
            uncommitted = UncommittedImages.find(results, ledger, shown, Path(work))
        listing = list_sources(
            source_uri,
            output.child(STAGING),
            endpoint,
            ignored=ignored,
            other=other,
            allow_empty=limits.allow_empty,
        )
        while batch := list(islice(listing, AT_ONCE)):
            keys.append(ids_of(image_id(source.key) for source in batch))
            images = [(source.key, source.version) for source in batch]
            states = ledger.states(images)
            turns = ledger.turns(images) if full or QUARANTINED in states else states  # 0 is new in both
            there = uncommitted.has((source.source, source.key, source.version) for source in batch)
            again = among(ids_of(image_id(*image) for image in images), bad)
            for source, state, turn, is_there, is_bad in zip(batch, states, turns, there, again, strict=True):
                if state == DONE and not full:
                    skipped += 1
                elif is_bad:
                    known.append(image_id(source.key, source.version))
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
    there_now, shown_uri = np.concatenate(keys), redacted(source_uri)
    deleted = _write_deleted(
        target.deleted_path,
        ledger.gone(shown_uri, there_now),
        ledger.gone(shown_uri, there_now, done=False),
    )
    reasons = ledger.first_reasons(ids_of(known), reader_of(reader))
    quarantined_before = records.write_parquet(target.known_path, records.QUARANTINE, reasons)
    skipped += selection.waiting
    summary = Summary(
        source_uri=shown_uri,
        listed=len(chosen) + taken_over + skipped + quarantined_before,
        skipped=skipped,
        digest=_digest([*taken, *(image_id(source.key, source.version) for source in chosen)]),
        shards=names,
        deleted=deleted,
        left=selection.left,
        taken_over=taken_over,
        max_quarantined=limits.max_quarantined,
        compact=ledger.overdue,
        listed_at=listed_at,
        quarantined_before=quarantined_before,
        reader=reader,
        sequence=ledger.sequence,
        ignored=ignored.counts(),
    )
    target.write_summary(summary)
    if run_id or job_id:
        planned = tuple(PlannedShard(name, count) for name, count in zip(names, shards, strict=True))
        counts = (summary.listed, skipped, taken_over, summary.left, len(chosen))
        plan = Plan(
            run_id or job_id,
            shown_uri,
            *counts,
            planned,
            quarantined_before=quarantined_before,
            ignored=summary.ignored,
        )
        write_plan(results, plan)
    _tell(summary, selection, full)
    return summary


def handover(summary: Summary) -> Handover:
    """Counts for the UI, and the shards, one task per shard."""
    counts = {name: getattr(summary, name) for name in ("listed", "skipped", "taken_over", "left")}
    counts["ignored"] = sum((summary.ignored or {}).values())  # the manifest has the kinds: this stays small
    about = {**counts, "shards": len(summary.shards), "digest": summary.digest}
    return Handover(metadata={"dataset": about}, output=[*summary.shards])


def _digest(images: list[bytes]) -> str:
    return hashlib.sha256(b"".join(sorted(images))).hexdigest()[:32]


def _tell(dataset: Summary, selection: Selection, full: bool) -> None:
    if words := ignored_text(dataset.ignored):
        say(STEP, f"{dataset.source_uri}: {words}")
    seen = "that an earlier run has seen" if full else "that were quarantined before"
    new = selection.taken - selection.again
    if dataset.taken_over:
        say(STEP, f"{dataset.taken_over:,} images are taken over from a run that was not committed")
    if selection.again:
        say(STEP, f"{selection.again:,} images {seen} are tried again")
    if selection.waiting:
        say(STEP, f"{selection.waiting:,} images {seen} wait for a later run, since this one is full")
    if dataset.quarantined_before:
        say(
            STEP,
            f"{dataset.quarantined_before:,} images that were quarantined before have not changed, and stay in "
            "quarantine; limits.retry_quarantined=true tries them again",
        )
    if dataset.left:
        say(STEP, f"{dataset.left:,} {LEFT}")
    if selection.taken:
        images = f"{new:,} new images, {dataset.skipped:,} done before"
        say(STEP, f"{dataset.source_uri}: {images}; {len(dataset.shards)} shards")
    elif not dataset.listed:
        say(STEP, f"{dataset.source_uri}: there are no images")
    elif not dataset.taken_over:
        images = f"all {dataset.skipped:,} other images are done" if dataset.quarantined_before else ""
        images = images or f"all {dataset.listed:,} images are done with this configuration"
        say(STEP, f"{dataset.source_uri}: nothing new, {images}")


def _write_deleted(path: Path, done: Iterator[dict[str, Any]], bad: Iterator[dict[str, Any]]) -> int:
    """Writes the images that are gone; returns the number of those that were done."""
    first: list[str] = []
    count = 0

    def rows() -> Iterator[dict[str, Any]]:
        nonlocal count
        for count, row in enumerate(done, 1):  # noqa: B007
            if len(first) < SHOWN:
                first.append(row["key"])
            yield row
        yield from bad

    records.write_parquet(path, records.DELETED, rows())
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
        max_pixels: of an image.

    Raises:
        ParameterError: no prompt looks for any class.
    """

    def __init__(
        self, prompts: EncodedPrompts, options: GroundTruth, endpoint: str, max_pixels: float
    ) -> None:
        self._shown = shown = [row.name for row in prompts.shown()]
        own, named = prompts.classes(), options.classes  # of several sets: by the names in their set, too
        classes = {prompt: named.get(name, name) for prompt, name in own.items() if prompt in shown}
        classes |= {prompt: name for prompt, name in named.items() if prompt not in own.values()}
        self._classes = Classes(shown, classes)
        self._uri = uri = options.uri
        self._truth = open_truth(uri, options.format, endpoint, max_pixels) if uri else None
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
        others = images.without_image(NAMED)
        if new and not images.found and not skipped:
            raise ParameterError(
                f"{self._uri} names none of the {new:,} images, but {len(images):,} others: {some(others)}.",
                "Names must end in the same way, such as folder/a.jpg and a.jpg.",
                code="truth_of_other_images",
                where="ground_truth.uri",
            )
        say(
            STEP,
            f"{self._uri}: ground truth of {images.found:,} images, {len(self._wanted):,} classes asked for; "
            f"looked for {len(images):,} names",
        )
        if others and not skipped:
            say(
                STEP,
                f"{len(images) - images.found:,} of these names are of no image of this run: {some(others)}",
            )
        for remark in self._truth.left_out:
            say(STEP, f"ground truth left out: {remark}")
        unasked = set(self._truth.classes) - set(self._wanted)
        if unasked:
            say(STEP, f"no prompt looks for {len(unasked):,} of its classes: {listed(unasked)}")
        asked = {prompt for name in self._wanted for prompt in self._classes.prompts_of(name)}
        if without := set(self._shown) - asked:
            say(STEP, f"it has no class for the prompts {listed(without)}")


def _earlier_results(source_uri: str, output: Folder, endpoint: str) -> Callable[[str], bool]:
    """Tells by its key below the source whether an object is a result of this suite."""
    if is_single_file(source_uri):
        return lambda key: False
    source = open_folder(source_uri, endpoint)
    return EarlierResults(source, below(source, output.child(STAGING))).has
