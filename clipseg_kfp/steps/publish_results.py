"""Gathers the shards' tables into the run's files, and commits the run with its manifest."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa

from clipseg_kfp import __version__, records
from clipseg_kfp.errors import ParameterError, StorageError
from clipseg_kfp.report import Report, build_report, render_report
from clipseg_kfp.report.build import QUARANTINE_ROWS, Tables
from clipseg_kfp.report.facts import time_by_step
from clipseg_kfp.results import IMAGES as RUN_IMAGES
from clipseg_kfp.results import MANIFEST, QUARANTINE, Counts, Results, json_bytes
from clipseg_kfp.results.commit import facts_of, same_data
from clipseg_kfp.results.counts import Quarantine, reconcile
from clipseg_kfp.results.formats import export_coco, export_named
from clipseg_kfp.results.inventory import check_present, gone
from clipseg_kfp.results.layout import DELETED, run_key
from clipseg_kfp.results.ledger import Ledger
from clipseg_kfp.results.parts import gather, part_key
from clipseg_kfp.runtime.progress import say
from clipseg_kfp.steps.encode_prompts import prompt_rows, read_configuration, read_facts_of
from clipseg_kfp.steps.evaluate_masks import CURVES, PER_IMAGE, TABLE, THRESHOLDS, TRUTHS, metrics_of
from clipseg_kfp.steps.fetch_dataset import LEFT, TAKEN, Dataset, read_summary
from clipseg_kfp.steps.handover import Handover
from clipseg_kfp.steps.postprocess_masks import GALLERY, MASKS
from clipseg_kfp.steps.preprocess_images import IMAGES
from clipseg_kfp.steps.segment_images import ENGINE
from clipseg_kfp.steps.settings import Settings
from clipseg_kfp.steps.timing import summed
from clipseg_kfp.storage import open_folder

STEP = "publish_results"
FORMATS = {
    "yolo": "annotations.yolo.zip",
    "labelstudio": "annotations.labelstudio.json",
    "labelstudio-polygons": "annotations.labelstudio-polygons.json",
    "coco-polygons": "annotations.coco-polygons.json",
    "csv": "masks.csv",
}
EVALUATED = (TABLE, PER_IMAGE, CURVES, THRESHOLDS)
LONG_SECONDS = 20 * 3600.0  # 'results gc' leaves alone what is younger than a day
METRICS, REPORT = "metrics.json", "report.html"
FILES = ("masks.parquet", RUN_IMAGES, "annotations.coco.json", METRICS, QUARANTINE, DELETED, *EVALUATED)


@dataclass(frozen=True)
class Published:
    """The end of a run.

    Attributes:
        manifest: URI of ``manifest.json``.
        counts: what became of the images.
        mean_iou: ``None`` where there was no ground truth.
        report: the HTML page.
    """

    manifest: str
    counts: Counts
    mean_iou: float | None
    report: str


def run(
    *,
    masks: Sequence[Path],
    dataset: Path,
    encoded_prompts: Path,
    evaluation: Path,
    output_uri: str,
    job_id: str = "",
    report: Path,
    run_id: str = "",
    model_uri: str = "",
    formats: Sequence[str] = (),
    endpoint: str = "",
) -> Published:
    """Writes the run's tables, COCO file, metrics and report, and the manifest last.

    Args:
        masks: postprocess_masks' outputs.
        dataset: fetch_dataset's output.
        encoded_prompts: encode_prompts' output.
        evaluation: evaluate_masks' output.
        output_uri: where results go.
        job_id: names the run where ``run_id`` is empty.
        report: file for the HTML page.
        run_id: names the run in the results; every attempt of a run must use the same, and no other run.
        model_uri: recorded in the manifest.
        formats: what to write besides COCO with run lengths: names of ``FORMATS``.
        endpoint: S3 endpoint URL.

    Returns:
        Where the manifest lies, and the counts.

    Raises:
        ParameterError: an unknown format, or another run of that name is committed; it stays as it is.
        QuarantineError: more images were set aside than ``max_quarantined`` allows; the run does not exist
            then.
        StorageError: an image of the listing is missing or came out twice, the counts do not add up, what was
            taken over is gone, or the output cannot be written; the run does not exist then.
    """
    check_formats(formats)
    with TemporaryDirectory() as folder:
        return _publish(
            masks,
            dataset,
            encoded_prompts,
            evaluation,
            Path(folder),
            output_uri,
            report_file=report,
            run_id=run_id or job_id,
            model_uri=model_uri,
            formats=formats,
            endpoint=endpoint,
        )


def handover(published: Published) -> Handover:
    """The counts, for the UI, and the manifest's URI."""
    return Handover(metrics={"metrics": vars(published.counts)}, output=published.manifest)


def _publish(
    shards: Sequence[Path],
    dataset: Path,
    prompts: Path,
    evaluation: Path,
    target: Path,
    output_uri: str,
    *,
    report_file: Path,
    run_id: str,
    model_uri: str,
    formats: Sequence[str],
    endpoint: str,
) -> Published:
    """As ``run``; ``target`` is a folder for working files."""
    config = read_configuration(prompts)
    output = open_folder(output_uri, endpoint)
    results = Results(output, config)
    listing = read_summary(dataset)
    taken = dict(gather(results, dataset / TAKEN, target / "taken", ENGINE))
    whole = [*taken.values(), *shards]
    parts = [*taken, *(part for shard in shards if (part := part_key(shard / MASKS)))]
    committed = results.manifest(run_id)
    if committed and not same_data(committed, {"dataset_digest": listing.digest, "parts": parts}):
        raise results.name_taken(run_id)
    listed = [dataset / TAKEN, *(dataset / "shards" / f"{name}.parquet" for name in listing.shards)]
    reconcile(listed, [folder / IMAGES for folder in whole])
    metrics = metrics_of(evaluation)
    table = [prompt for prompt in prompt_rows(prompts) if not prompt["hidden"]]
    instances = {prompt["id"] for prompt in table if prompt["instances"]}
    facts = read_facts_of(prompts)

    masks_path, coco_path = target / "masks.parquet", target / "annotations.coco.json"
    masks = records.write_parquet(masks_path, records.MASKS, _rows(whole, MASKS))
    quarantine: list[dict[str, Any]] = []  # the first rows: report and log show no more
    reasons = Quarantine()
    (target / DELETED).write_bytes((dataset / DELETED).read_bytes())
    run_images = ({name: row[name] for name in records.RUN_IMAGES.names} for row in _rows(whole, IMAGES))
    records.write_parquet(target / RUN_IMAGES, records.RUN_IMAGES, run_images)

    def quarantined_rows() -> Iterator[dict[str, Any]]:
        for row in _rows(whole, IMAGES):
            reasons.add(row)
            if row["status"] == "quarantined":
                kept = {name: row[name] for name in records.QUARANTINE.names}
                if len(quarantine) < QUARANTINE_ROWS:
                    quarantine.append(kept)
                yield kept

    quarantined = records.write_parquet(target / QUARANTINE, records.QUARANTINE, quarantined_rows())
    categories = [(prompt["id"], prompt["name"]) for prompt in table]
    done = export_coco(coco_path, _rows(whole, IMAGES), _rows(whole, MASKS), categories, instances=instances)
    extra = _export(target, formats, whole, categories, instances)
    for name in EVALUATED:
        shutil.copyfile(evaluation / name, target / name)
    counts = Counts(listing.listed, done, listing.skipped, quarantined, masks, listing.left)
    _check(counts, reasons, listing, len(table))
    _check_parts(results, parts)
    check_present(
        results, list(taken.values())
    )  # of another run, and so old that 'results gc' may have met them
    metrics = {"counts": vars(counts), **metrics}
    (target / METRICS).write_bytes(json_bytes(metrics))

    body = {
        "source_uri": listing.source_uri,
        "dataset_digest": listing.digest,
        "model": {"uri": model_uri, **facts.to_json()},
        "prompts": [{**prompt, "category_id": prompt["id"]} for prompt in table],
        "software": {"clipseg-kfp": __version__},
        "inference": _inference(whole),
        "settings": Settings.read(prompts).to_json(),
        "deleted": listing.deleted,
        "taken_over": listing.taken_over,
        "parts": parts,
    }
    draft = build_report(
        run_id,
        config,
        counts,
        metrics,
        json.loads((evaluation / CURVES).read_text("utf-8")),
        body,
        Tables([masks_path], [s / GALLERY for s in shards], evaluation / PER_IMAGE, evaluation / TRUTHS),
        quarantine,
        dict(reasons.counts),
    )
    names = (*FILES, *extra)
    uri = results.folder.locate(run_key(run_id, MANIFEST))
    handover(
        Published(uri, counts, metrics["mean_iou"], "")
    )  # refused after the commit, it would fail a good run
    if committed:  # by an attempt of this run that was not heard of: its files stay, byte by byte
        results.settle(run_id)
        report = _rendered(draft, committed["created"], committed.get("seconds", {}))
        report_file.write_text(report, "utf-8")
        manifest = results.point_to(run_id)
    else:
        content = [body, render_report(draft), {name: facts_of(target / name) for name in names}]
        seconds = summed([prompts, dataset, *shards, evaluation])
        attempt = results.begin(run_id, content, seconds)
        report = _rendered(draft, attempt.created, attempt.seconds)
        for path in (target / REPORT, report_file):
            path.write_text(report, "utf-8")
        for name in (*names, REPORT):
            attempt.add(name, target / name)
        if time.time() - listing.listed_at > LONG_SECONDS:
            # 'results gc' may have taken its first masks for garbage
            check_present(results, shards)
        attempt.commit(counts, body)
        manifest = results.point_to(run_id)
    _tell(counts, listing, quarantine, manifest)
    if listing.compact:
        _compact(results)
    return Published(manifest, counts, metrics["mean_iou"], report)


def _rendered(draft: Report, created: str, seconds: dict[str, float]) -> str:
    """The page with what differs from attempt to attempt: the claim fixes it, so that all write the same bytes."""
    return render_report(replace(draft, created=created, facts=(*draft.facts, *time_by_step(seconds))))


def _check(counts: Counts, quarantine: Quarantine, listing: Dataset, prompts: int) -> None:
    """Refuses what must not be committed."""
    counts.check()
    if counts.masks != counts.done * prompts:
        raise StorageError(
            f"{counts.done:,} images were done for {prompts} prompts, but there are {counts.masks:,} masks.",
            "Nothing was committed. Run again; if it stays, a shard's output is damaged.",
        )
    quarantine.check(listing.max_quarantined, listing.listed)
    quarantine.check_readable(counts.done, counts.skipped)


def _check_parts(results: Results, parts: Sequence[str]) -> None:
    """Notices an output that was emptied while the run went on; its masks would be named, and gone."""
    for part in parts:
        if results.folder.stat(part) is None:
            raise gone(results, part)


def _compact(results: Results) -> None:
    """The run is committed: what goes wrong here costs time, and nothing else."""
    try:
        ledger = Ledger.read(results)
        ledger.compact()
        say(STEP, f"gathered {len(ledger.runs):,} runs in one table, so that the next ones start sooner")
    except (StorageError, OSError, pa.ArrowException, MemoryError) as error:
        say(STEP, f"the ledger was not gathered; later runs read run by run: {error}")


def check_formats(formats: Sequence[str]) -> None:
    """Raises ``ParameterError`` unless all are names of formats."""
    for name in formats:
        if name not in FORMATS:
            raise ParameterError(f"formats: there is no '{name}'.", f"Take of {', '.join(FORMATS)}.")


def _export(
    target: Path,
    formats: Sequence[str],
    shards: Sequence[Path],
    categories: list[tuple[int, str]],
    instances: set[int],
) -> list[str]:
    """Writes the formats that were asked for and returns the names of the files."""
    names = []
    for name in dict.fromkeys(formats):
        path = target / FORMATS[name]
        images, masks = _rows(shards, IMAGES), _rows(shards, MASKS)
        export_named(name, path, images, masks, categories, instances=instances)
        if name.startswith("labelstudio"):
            names.append(path.with_suffix(".xml").name)
        names.append(path.name)
    return names


def _rows(shards: Sequence[Path], name: str) -> Iterator[dict[str, Any]]:
    for shard in shards:
        yield from records.read_parquet(shard / name)


def _inference(shards: Sequence[Path]) -> list[dict[str, Any]]:
    """Says how the shards were computed, each way once; with int8, how masks agreed is told by shard."""
    ways: list[dict[str, Any]] = []
    for shard in shards:
        facts = json.loads((shard / ENGINE).read_text("utf-8"))
        if facts.pop("maps", 0) and facts not in ways:
            ways.append(facts)
    return ways


def _tell(counts: Counts, listing: Dataset, quarantine: list[dict[str, Any]], manifest: str) -> None:
    say(
        STEP,
        f"{counts.listed:,} images: {counts.done:,} done, {counts.skipped:,} skipped, "
        f"{counts.quarantined:,} quarantined; {counts.masks:,} masks",
    )
    if counts.left:
        say(STEP, f"{counts.left:,} {LEFT}")
    for row in quarantine[:20]:
        say(STEP, f"quarantined {row['key']}: {row['reason']}, {row['detail']}")
    if not counts.listed:
        say(STEP, f"there are no images at {listing.source_uri}; the run is committed, and empty")
    elif not counts.done and counts.skipped:
        say(STEP, f"nothing new: {counts.skipped:,} images were done before under this configuration")
    say(STEP, f"committed {manifest}")
