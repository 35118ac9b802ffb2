"""Gathers the shards' tables into the run's files, and commits the run with its manifest."""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa

from clipseg_kfp import __version__, records
from clipseg_kfp.dataset.ignored import ignored_text
from clipseg_kfp.errors import StorageError
from clipseg_kfp.naming import redacted
from clipseg_kfp.options import Limits, Outputs
from clipseg_kfp.prompts import Row
from clipseg_kfp.report import Report, build_report, render_report
from clipseg_kfp.report.build import QUARANTINE_ROWS
from clipseg_kfp.report.facts import time_by_step
from clipseg_kfp.results import IMAGES, MANIFEST, MASKS, QUARANTINE, Counts, Results, json_bytes
from clipseg_kfp.results.commit import facts_of, same_data
from clipseg_kfp.results.counts import Quarantine, reconcile
from clipseg_kfp.results.formats import export_named, file_names
from clipseg_kfp.results.inventory import check_present, gone
from clipseg_kfp.results.layout import DELETED, run_key
from clipseg_kfp.results.ledger import Ledger
from clipseg_kfp.results.shard_tables import part_key, take_over
from clipseg_kfp.runtime.progress import say
from clipseg_kfp.steps.artifacts import (
    LEFT,
    EncodedPrompts,
    EvaluationTables,
    Listing,
    Probabilities,
    ShardMasks,
    Summary,
)
from clipseg_kfp.steps.handover import Handover
from clipseg_kfp.steps.timing import summed, timed
from clipseg_kfp.storage import open_folder

STEP = "publish_results"
LONG_SECONDS = 20 * 3600.0  # by default 'results gc' removes what is older than a day
METRICS, REPORT = "metrics.json", "report.html"
TABLES = (MASKS, IMAGES, METRICS, QUARANTINE, DELETED, *EvaluationTables.PUBLISHED)


@dataclass(frozen=True)
class Published:
    """The end of a run.

    Attributes:
        manifest: URI of ``manifest.json``.
        counts: the images by outcome.
        mean_iou: ``None`` where there was no ground truth.
        report: the HTML page.
    """

    manifest: str
    counts: Counts
    mean_iou: float | None
    report: str


@timed(STEP)
def run(
    *,
    masks: Sequence[Path],
    dataset: Path,
    encoded_prompts: Path,
    evaluation: Path,
    output_uri: str,
    job_id: str = "",
    report: Path,
    model_uri: str = "",
    outputs: Outputs | None = None,
    endpoint: str = "",
) -> Published:
    """Writes the run's tables, annotations, metrics and report, and the manifest last.

    Args:
        masks: postprocess_masks' outputs.
        dataset: fetch_dataset's output.
        encoded_prompts: encode_prompts' output.
        evaluation: evaluate_masks' output.
        output_uri: where results go.
        job_id: names the run where ``outputs.run_id`` is empty.
        report: file for the HTML page.
        model_uri: recorded in the manifest.
        outputs: the formats to write besides COCO with run lengths, and the run's name in the results. Every attempt
            of a run must use the same name, and no other run.
        endpoint: S3 endpoint URL.

    Returns:
        The manifest's URI, and the counts.

    Raises:
        ParameterError: another run of that name is committed.
        QuarantineError: more images were quarantined than ``max_quarantined`` allows; nothing is committed.
        StorageError: an image of the listing is missing or came out twice, the counts do not add up, what was
            taken over is gone, or the output cannot be written; nothing is committed.
    """
    outputs = outputs or Outputs()
    prompts = EncodedPrompts(encoded_prompts)
    results = Results(open_folder(output_uri, endpoint), prompts.configuration())
    with TemporaryDirectory() as folder:
        return _publish(
            Path(folder),
            results,
            prompts,
            Listing(dataset),
            [ShardMasks(shard) for shard in masks],
            EvaluationTables(evaluation),
            run_id=outputs.run_id or job_id,
            model_uri=model_uri,
            formats=("coco", *outputs.formats),
            report_file=report,
        )


def handover(published: Published) -> Handover:
    """The counts, for the UI, and the manifest's URI."""
    return Handover(metrics={"metrics": vars(published.counts)}, output=published.manifest)


def _publish(
    target: Path,
    results: Results,
    prompts: EncodedPrompts,
    dataset: Listing,
    shards: Sequence[ShardMasks],
    evaluation: EvaluationTables,
    *,
    run_id: str,
    model_uri: str,
    formats: Sequence[str],
    report_file: Path,
) -> Published:
    """As ``run``; ``target`` is a folder for working files."""
    listing, shown = dataset.summary(), prompts.shown()
    taken_over = {
        part: ShardMasks(folder)
        for part, folder in take_over(results, dataset.taken_path, target / "taken", Probabilities.ENGINE)
    }
    sources = [*taken_over.values(), *shards]
    parts = [*taken_over, *filter(None, (part_key(shard.masks_path) for shard in shards))]
    committed = results.manifest(run_id)
    if committed and not same_data(committed, {"dataset_digest": listing.digest, "parts": parts}):
        raise results.name_taken(run_id)
    reconcile(
        [dataset.taken_path, *map(dataset.shard_path, listing.shards)],
        [shard.images_path for shard in sources],
    )
    masks = records.write_parquet(target / MASKS, records.MASKS, _masks(sources))
    records.write_parquet(target / IMAGES, records.RUN_IMAGES, _columns(_images(sources), records.RUN_IMAGES))
    quarantine = Quarantine()
    for row in _images(sources):
        quarantine.add(row)
    refused = (row for row in _images(sources) if row["status"] == "quarantined")
    rows = chain(refused, records.read_parquet(dataset.known_path))
    records.write_parquet(target / QUARANTINE, records.QUARANTINE, _columns(rows, records.QUARANTINE))
    reasons = Counter(row["reason"] for row in records.read_parquet(target / QUARANTINE, ["reason"]))
    first_quarantined = list(islice(records.read_parquet(target / QUARANTINE), QUARANTINE_ROWS))
    shutil.copyfile(dataset.deleted_path, target / DELETED)
    for name in evaluation.PUBLISHED:
        shutil.copyfile(evaluation.folder / name, target / name)
    written = _export(target, formats, sources, shown)
    counts = Counts(
        listed=listing.listed,
        done=written["coco"],
        skipped=listing.skipped,
        quarantined=reasons.total(),
        masks=masks,
        left=listing.left,
    )
    _check(counts, quarantine, listing, len(shown))
    for part in parts:  # the output may have been emptied during the run
        if results.folder.stat(part) is None:
            raise gone(results, part)
    # Of another run, and so old that 'results gc' may have removed them.
    check_present(results, [shard.folder for shard in taken_over.values()])
    metrics = {"counts": vars(counts), "ignored": listing.ignored, **evaluation.metrics()}
    (target / METRICS).write_bytes(json_bytes(metrics))

    body = {
        "source_uri": listing.source_uri,
        "dataset_digest": listing.digest,
        "model": {"uri": redacted(model_uri), **prompts.facts().to_json()},
        "prompts": [{**prompt.to_json(), "category_id": prompt.id} for prompt in shown],
        "software": {"clipseg-kfp": __version__},
        "inference": _inference(sources),
        "settings": prompts.options(),
        "reader": listing.reader,
        "quarantined_before": listing.quarantined_before,
        "deleted": listing.deleted,
        "taken_over": listing.taken_over,
        "ignored": listing.ignored,
        "parts": parts,
    }
    draft = build_report(
        run_id,
        results.config,
        counts,
        metrics,
        evaluation.curves(),
        body,
        evaluation.report_tables([target / MASKS], shards),
        first_quarantined,
        dict(reasons),
    )
    names = [*TABLES, *chain.from_iterable(map(file_names, written))]
    published = Published(results.folder.locate(run_key(run_id, MANIFEST)), counts, metrics["mean_iou"], "")
    handover(published)  # if this was refused after the commit, a good run would fail
    if committed:  # by an attempt of this run whose answer was lost: its files stay as they are
        results.settle(run_id)
        page = _rendered(draft, committed["created"], committed.get("seconds", {}))
        report_file.write_text(page, "utf-8")
    else:
        content = [body, render_report(draft), {name: facts_of(target / name) for name in names}]
        seconds = summed(folder.folder for folder in (prompts, dataset, *shards, evaluation))
        attempt = results.begin(run_id, content, seconds)
        page = _rendered(draft, attempt.created, attempt.seconds)
        for path in (target / REPORT, report_file):
            path.write_text(page, "utf-8")
        for name in (*names, REPORT):
            attempt.add(name, target / name)
        if time.time() - listing.listed_at > LONG_SECONDS:
            # 'results gc' may have removed its first masks
            check_present(results, [shard.folder for shard in shards])
        attempt.commit(counts, body, listing.sequence)
    manifest = results.point_to(run_id)
    _tell(counts, listing, first_quarantined, manifest)
    if listing.compact:
        _compact(results)
    return replace(published, manifest=manifest, report=page)


def _rendered(draft: Report, created: str, seconds: dict[str, float]) -> str:
    """The page, with times that the claim fixes, so that all attempts write the same bytes."""
    return render_report(replace(draft, created=created, facts=(*draft.facts, *time_by_step(seconds))))


def _check(counts: Counts, quarantine: Quarantine, listing: Summary, prompts: int) -> None:
    """Refuses what must not be committed."""
    counts.check()
    if counts.masks != counts.done * prompts:
        raise StorageError(
            f"{counts.done:,} images were done for {prompts} prompts, but there are {counts.masks:,} masks.",
            "Nothing was committed. Run again. If that does not help, a shard's output is damaged.",
            code="masks_missing",
        )
    quarantine.check(Limits(max_quarantined=listing.max_quarantined), listing.listed)
    quarantine.check_readable(counts.done, counts.skipped + listing.quarantined_before)


def _compact(results: Results) -> None:
    """The run is committed: a failure here only costs later runs time."""
    try:
        ledger = Ledger.read(results)
        ledger.compact()
        say(STEP, f"gathered {len(ledger.runs):,} runs in one table, so that later runs start sooner")
    except (StorageError, OSError, pa.ArrowException, MemoryError) as error:
        say(STEP, f"the runs were not gathered in one table; later runs read all of them: {error}")


def _export(
    target: Path, formats: Sequence[str], shards: Sequence[ShardMasks], prompts: Sequence[Row]
) -> dict[str, int]:
    """Writes annotations; returns each format with what ``export_named`` returned."""
    categories = [(prompt.id, prompt.name) for prompt in prompts]
    instances = {prompt.id for prompt in prompts if prompt.instances}

    def export(name: str) -> int:
        path = target / file_names(name)[0]
        return export_named(name, path, _images(shards), _masks(shards), categories, instances=instances)

    return {name: export(name) for name in dict.fromkeys(formats)}


def _columns(rows: Iterable[dict[str, Any]], schema: pa.Schema) -> Iterator[dict[str, Any]]:
    return ({name: row[name] for name in schema.names} for row in rows)


def _images(shards: Sequence[ShardMasks]) -> Iterator[dict[str, Any]]:
    return chain.from_iterable(shard.images() for shard in shards)


def _masks(shards: Sequence[ShardMasks]) -> Iterator[dict[str, Any]]:
    return chain.from_iterable(shard.masks() for shard in shards)


def _inference(shards: Sequence[ShardMasks]) -> list[dict[str, Any]]:
    """How the shards were computed, each way once; with int8 each shard has its own agreement of masks."""
    ways: list[dict[str, Any]] = []
    for shard in shards:
        facts = shard.engine()
        if facts.pop("maps", 0) and facts not in ways:
            ways.append(facts)
    return ways


def _tell(counts: Counts, listing: Summary, quarantine: list[dict[str, Any]], manifest: str) -> None:
    say(
        STEP,
        f"{counts.listed:,} images: {counts.done:,} done, {counts.skipped:,} skipped, "
        f"{counts.quarantined:,} quarantined; {counts.masks:,} masks",
    )
    if counts.left:
        say(STEP, f"{counts.left:,} {LEFT}")
    if words := ignored_text(listing.ignored):
        say(STEP, words)
    for row in quarantine[:20]:
        say(STEP, f"quarantined {row['key']}: {row['reason']}, {row['detail']}")
    if not counts.listed:
        say(STEP, f"there are no images under {listing.source_uri}; the run is committed, and empty")
    elif not counts.done and counts.skipped:
        say(STEP, f"nothing new: {counts.skipped:,} images were done before under this configuration")
    say(STEP, f"committed {manifest}")
