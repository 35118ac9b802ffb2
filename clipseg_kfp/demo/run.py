"""``make demo``: the real pipelines over sample images in an embedded object store."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.tree import Tree

from clipseg_kfp.demo.bucket import DEMO_PROMPTS, EXAMPLES, demo_objects
from clipseg_kfp.demo.one_shot import one_shot_objects
from clipseg_kfp.errors import ModelError
from clipseg_kfp.local.runner import LocalRun, new_run_id, run_batch
from clipseg_kfp.local.store import EmbeddedStore
from clipseg_kfp.prompts import split_prompt_text
from clipseg_kfp.results import Results, json_bytes
from clipseg_kfp.results.commit import commit_order, file_key
from clipseg_kfp.results.summary import RunSummary, read_run, show
from clipseg_kfp.runtime.concurrency import ordered_map
from clipseg_kfp.storage import Folder, open_folder

BUCKET = "demo"
SOURCE, OUTPUT = f"s3://{BUCKET}/dataset", f"s3://{BUCKET}/results"
ONE_SHOT = f"s3://{BUCKET}/one-shot"
MODEL = EXAMPLES / "demo-model"
REAL_MODEL = "hf://CIDAS/clipseg-rd64-refined"
SHARD_SIZE = 20  # two shards, so that the fan-out shows


def run_demo(folder: Path, model: str = "", prompts: str = "") -> dict[str, Any]:
    """Runs the demo and prints its outcome; without a model and prompts, the one-shot demo as well.

    Args:
        folder: for the store's data, the log, the report and ``summary.json``.
        model: checkpoint URI; empty takes the demo model of the checkout.
        prompts: texts separated by commas, or a JSON list; empty takes the demo's own.

    Returns:
        The content of ``summary.json``.

    Raises:
        ModelError: no model was given, and the checkout's is missing.
        LocalRunError: a step failed.
    """
    console = Console()
    if not model and not MODEL.is_dir():
        raise ModelError(
            f"There is no demo model at {MODEL}; a checkout and the notebook image have it.",
            f"Name a checkpoint: --model {REAL_MODEL}",
            code="demo_model_missing",
            where="model",
        )
    folder.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    with EmbeddedStore(folder / "store") as store:
        store.make_bucket(BUCKET)
        os.environ.update(store.environment())
        os.environ.pop("AWS_SESSION_TOKEN", None)  # of other keys, and would be sent with these
        console.print(f"Object store at {store.endpoint}, data in {folder / 'store'}", highlight=False)
        _load(SOURCE, demo_objects(), console)
        finished = _segment(
            {"source_uri": SOURCE, "output_uri": OUTPUT, "prompts": _prompts(prompts)},
            model,
            folder / "pipeline.log",
            console,
        )
        run = read_run(finished.manifest)
        show(run, console)
        one_shot = None if model or prompts else _one_shot(folder, console)
        console.print(_bucket_tree(open_folder(f"s3://{BUCKET}")))
        _keep_report(run, folder / "report.html")
        summary = {
            **_figures(run, finished, OUTPUT),
            "report": str(folder / "report.html"),
            "one_shot_iou": one_shot and one_shot["mean_iou"],
            "one_shot": one_shot,
        }
    (folder / "summary.json").write_bytes(json_bytes(summary))
    _print_summary(console, summary, folder, time.monotonic() - start, own_model=not model)
    return summary


def _segment(parameters: dict[str, Any], model: str, log: Path, console: Console) -> LocalRun:
    return run_batch(
        {
            **parameters,
            "model_uri": model or str(MODEL),
            "threshold": 0.5,
            "limits": {"shard_size": SHARD_SIZE},
            "outputs": {"run_id": new_run_id()},
            "endpoint": "",
        },
        log,
        console,
    )


def _one_shot(folder: Path, console: Console) -> dict[str, Any]:
    """Runs the one-shot pipeline on its own pictures; returns its figures."""
    console.print()
    console.print("Now by example: one picture per thing, no words", style="bold")
    _load(ONE_SHOT, one_shot_objects(), console)
    places: dict[str, Any] = {
        "source_uri": f"{ONE_SHOT}/dataset",
        "output_uri": f"{ONE_SHOT}/results",
        "support": {"uri": f"{ONE_SHOT}/support"},
    }
    finished = _segment(places, "", folder / "one-shot.log", console)
    run = read_run(finished.manifest)
    show(run, console)
    return _figures(run, finished, places["output_uri"])


def _prompts(text: str) -> list[Any]:
    if text:
        return split_prompt_text(text)
    return [{"name": name, "texts": texts} for name, texts in DEMO_PROMPTS.items()]


def _load(uri: str, objects: Iterable[tuple[str, bytes]], console: Console) -> None:
    """Writes the sample files that are missing in the bucket."""
    folder = open_folder(uri)
    present = {entry.key: entry.size for entry in folder.entries()}
    missing = ((key, data) for key, data in objects if present.get(key) != len(data))

    def put(item: tuple[str, bytes]) -> None:
        folder.write(*item)

    loaded = sum(1 for _ in ordered_map(put, missing, workers=8))
    console.print(f"Wrote {loaded} sample files to {uri}" if loaded else f"{uri} has all sample files")


def _bucket_tree(bucket: Folder) -> Tree:
    """The bucket's folders to three levels, with the number of objects in each."""
    counts: Counter[tuple[str, ...]] = Counter()
    for entry in bucket.entries():
        parts = tuple(entry.key.split("/")[:-1])[:3]
        for depth in range(1, len(parts) + 1):
            counts[parts[:depth]] += 1
    tree = Tree(f"{bucket.uri}/")
    branches: dict[tuple[str, ...], Tree] = {(): tree}
    for path, count in sorted(counts.items()):
        siblings = [other for other in sorted(counts) if other[:-1] == path[:-1]]
        index = siblings.index(path)
        if index < 6 and path[:-1] in branches:
            branches[path] = branches[path[:-1]].add(f"{path[-1]}/  ({count:,})", highlight=False)
        elif index == 6 and path[:-1] in branches:
            branches[path[:-1]].add(f"… {len(siblings) - 6} more folders")
    return tree


def _keep_report(run: RunSummary, path: Path) -> None:
    if run.manifest["counts"]["done"] or not path.exists():  # a run without new images has no pictures
        path.write_bytes(run.read("report.html"))


def _figures(run: RunSummary, finished: LocalRun, output: str) -> dict[str, Any]:
    """The summary of a run whose results are in ``output``."""
    counts = run.manifest["counts"]
    mean_iou, iou_run = run.metrics["mean_iou"], run.manifest["run"]
    if mean_iou is None and counts["skipped"]:
        mean_iou, iou_run = _last_measured(run, output)
    return {
        "run": run.manifest["run"],
        **{name: counts[name] for name in ("listed", "done", "skipped", "quarantined")},
        "prompts": len(run.manifest["prompts"]),
        "masks": counts["masks"],
        "mean_iou": mean_iou,
        "mean_iou_run": iou_run if mean_iou is not None else None,
        "manifest": finished.manifest,
        "seconds_by_step": finished.seconds,
    }


def _last_measured(run: RunSummary, output: str) -> tuple[float | None, str]:
    """Mean IoU of the latest run of the configuration that has one, and that run."""
    folder, config = open_folder(output), run.manifest["config"]
    for manifest in sorted(Results(folder, config).manifests(), key=commit_order, reverse=True):
        mean = json.loads(folder.child(config).read(file_key(manifest, "metrics.json")))["mean_iou"]
        if mean is not None:
            return mean, manifest["run"]
    return None, ""


def _print_summary(
    console: Console, summary: dict[str, Any], folder: Path, seconds: float, *, own_model: bool
) -> None:
    def say(text: str) -> None:
        console.print(text, soft_wrap=True, highlight=False, markup=False, emoji=False)

    for what, figures in (("mean IoU", summary), ("one-shot IoU", summary["one_shot"] or {})):
        if figures.get("mean_iou_run") not in (None, figures.get("run")):
            say(f"{what} {figures['mean_iou']:.3f}, measured by run {figures['mean_iou_run']}")
    say(f"report: {summary['report']}")
    say(f"summary: {folder / 'summary.json'}")
    say(f"To look into the bucket: clipseg-kfp local store --data {folder / 'store'}, then any S3 client.")
    if own_model:
        say("")
        say("The demo model knows only drawn shapes. With access to the Hub, use the real one:")
        say(f'  clipseg-kfp demo --model {REAL_MODEL} --prompts "a cat,a cup"')
    say(f"Done in {seconds:.0f} s.")
