"""Gathers the shards' tables into the run's files, and commits the run with its manifest."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipseg_kfp import __version__, records
from clipseg_kfp.errors import ParameterError
from clipseg_kfp.formats import export_coco, export_csv, export_labelstudio, export_yolo
from clipseg_kfp.progress import say
from clipseg_kfp.report import build_report, render_report
from clipseg_kfp.report.build import QUARANTINE_ROWS
from clipseg_kfp.results import QUARANTINE, Counts, Results, json_bytes
from clipseg_kfp.steps.encode_prompts import prompt_rows, read_facts_of
from clipseg_kfp.steps.evaluate_masks import CURVES, PER_IMAGE, TABLE, THRESHOLDS, metrics_of
from clipseg_kfp.steps.fetch_dataset import Dataset, read_summary
from clipseg_kfp.steps.postprocess_masks import GALLERY, MASKS, PartName
from clipseg_kfp.steps.preprocess_images import IMAGES
from clipseg_kfp.steps.segment_images import ENGINE
from clipseg_kfp.storage import open_folder

STEP = "publish_results"
FORMATS = {"yolo": "annotations.yolo.zip", "labelstudio": "annotations.labelstudio.json", "csv": "masks.csv"}
EVALUATED = (TABLE, PER_IMAGE, CURVES, THRESHOLDS)
FILES = ("masks.parquet", "annotations.coco.json", "metrics.json", QUARANTINE, "report.html", *EVALUATED)


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
    shards: Sequence[Path],
    dataset: Path,
    prompts: Path,
    evaluation: Path,
    target: Path,
    output_uri: str,
    config: str,
    run_id: str,
    model_uri: str = "",
    formats: Sequence[str] = (),
    endpoint: str = "",
) -> Published:
    """Writes the run's tables, COCO file, metrics and report, and the manifest last.

    Args:
        shards: postprocess_masks' outputs.
        dataset: fetch_dataset's output.
        prompts: encode_prompts' output.
        evaluation: evaluate_masks' output.
        target: folder for working files.
        output_uri: where results go.
        config: the configuration's digest.
        run_id: names the run in the results; every attempt of a run must use the same, and no other run.
        model_uri: recorded in the manifest.
        formats: what to write besides COCO: ``yolo``, ``labelstudio``, ``csv``.
        endpoint: S3 endpoint URL.

    Returns:
        Where the manifest lies, and the counts.

    Raises:
        ParameterError: an unknown format, or another run of that name is committed; it stays as it is.
        StorageError: the counts do not add up, or the output cannot be written; the run does not exist then.
    """
    check_formats(formats)
    target.mkdir(parents=True, exist_ok=True)
    output = open_folder(output_uri, endpoint)
    results = Results(output, config)
    listing = read_summary(dataset)
    parts = _parts(shards)
    committed = results.manifest(run_id)
    if committed and (committed["dataset_digest"], committed["parts"]) != (listing.digest, parts):
        raise results.name_taken(run_id)
    metrics = metrics_of(evaluation)
    table = [prompt for prompt in prompt_rows(prompts) if not prompt["hidden"]]
    instances = {prompt["id"] for prompt in table if prompt["instances"]}
    facts = read_facts_of(prompts)

    masks_path, coco_path = target / "masks.parquet", target / "annotations.coco.json"
    masks = records.write_parquet(masks_path, records.MASKS, _rows(shards, MASKS))
    quarantine: list[dict[str, Any]] = []  # the first rows: report and log show no more

    def quarantined_rows() -> Iterator[dict[str, Any]]:
        for row in _rows(shards, IMAGES):
            if row["status"] == "quarantined":
                kept = {name: row[name] for name in records.QUARANTINE.names}
                if len(quarantine) < QUARANTINE_ROWS:
                    quarantine.append(kept)
                yield kept

    quarantined = records.write_parquet(target / QUARANTINE, records.QUARANTINE, quarantined_rows())
    categories = [(prompt["id"], prompt["name"]) for prompt in table]
    done = export_coco(
        coco_path, _rows(shards, IMAGES), _rows(shards, MASKS), categories, instances=instances
    )
    extra = _export(target, formats, shards, categories)
    for name in EVALUATED:
        shutil.copyfile(evaluation / name, target / name)
    counts = Counts(listing.listed, done, listing.skipped, quarantined, masks)
    counts.check()
    metrics = {"counts": vars(counts), **metrics}
    (target / "metrics.json").write_bytes(json_bytes(metrics))

    body = {
        "source_uri": listing.source_uri,
        "dataset_digest": listing.digest,
        "model": {"uri": model_uri, **facts.to_json()},
        "prompts": [{**prompt, "category_id": prompt["id"]} for prompt in table],
        "software": {"clipseg-kfp": __version__},
        "inference": _inference(shards),
        "parts": parts,
    }
    report = render_report(
        build_report(
            run_id,
            config,
            counts,
            metrics,
            body,
            masks_path,
            quarantine,
            _gallery(shards),
            results.created(run_id),
            quarantined,
        )
    )
    (target / "report.html").write_text(report, "utf-8")
    if committed:  # by an attempt of this run that was not heard of: its files stay, byte by byte
        manifest = results.point_to(run_id)
    else:
        for name in (*FILES, *extra):
            results.add_file_to_run(run_id, name, target / name)
        manifest = results.commit(run_id, counts, body)
    _tell(counts, listing, quarantine, manifest)
    return Published(manifest, counts, metrics["mean_iou"], report)


def check_formats(formats: Sequence[str]) -> None:
    """Raises ``ParameterError`` unless all are names of formats."""
    for name in formats:
        if name not in FORMATS:
            raise ParameterError(f"formats: there is no '{name}'.", f"Take of {', '.join(FORMATS)}.")


def _export(
    target: Path, formats: Sequence[str], shards: Sequence[Path], categories: list[tuple[int, str]]
) -> list[str]:
    """Writes the formats that were asked for and returns the names of the files."""
    names = []
    for name in dict.fromkeys(formats):
        path = target / FORMATS[name]
        images, masks = _rows(shards, IMAGES), _rows(shards, MASKS)
        if name == "csv":
            export_csv(path, masks)
        elif name == "yolo":
            export_yolo(path, images, masks, categories)
        else:
            export_labelstudio(path, images, masks, categories)
            names.append(path.with_suffix(".xml").name)
        names.append(path.name)
    return names


def _rows(shards: Sequence[Path], name: str) -> Iterator[dict[str, Any]]:
    for shard in shards:
        yield from records.read_parquet(shard / name)


def _parts(shards: Sequence[Path]) -> list[str]:
    keys = []
    for shard in shards:
        part = PartName()
        for row in records.read_parquet(shard / MASKS, columns=list(part.COLUMNS)):
            part.add(row)
        if part.rows:
            keys.append(part.key)
    return keys


def _inference(shards: Sequence[Path]) -> list[dict[str, Any]]:
    """Says how the shards were computed, each way once; with int8, how masks agreed is told by shard."""
    ways: list[dict[str, Any]] = []
    for shard in shards:
        facts = json.loads((shard / ENGINE).read_text("utf-8"))
        if facts.pop("maps", 0) and facts not in ways:
            ways.append(facts)
    return ways


def _gallery(shards: Sequence[Path]) -> Iterator[dict[str, Any]]:
    for shard in shards:
        for batch in records.read_arrow(shard / GALLERY):
            yield from batch.to_pylist()


def _tell(counts: Counts, listing: Dataset, quarantine: list[dict[str, Any]], manifest: str) -> None:
    say(
        STEP,
        f"{counts.listed:,} images: {counts.done:,} done, {counts.skipped:,} skipped, "
        f"{counts.quarantined:,} quarantined; {counts.masks:,} masks",
    )
    for row in quarantine[:20]:
        say(STEP, f"quarantined {row['key']}: {row['reason']}, {row['detail']}")
    if not counts.listed:
        say(STEP, f"there are no images at {listing.source_uri}; the run is committed, and empty")
    elif not counts.done and counts.skipped:
        say(STEP, f"nothing new: {counts.skipped:,} images were done before under this configuration")
    say(STEP, f"committed {manifest}")
