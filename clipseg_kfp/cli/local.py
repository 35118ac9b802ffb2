"""``clipseg-kfp local``: work without a cluster."""

from __future__ import annotations

import signal
from itertools import count
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from clipseg_kfp.cli.shared import DEMO_FOLDER, Endpoint, group, interruptible, parsed_classes, parsed_prompt
from clipseg_kfp.errors import ParameterError

app = group("Work without a cluster.")


@app.command("run")
def local_run(
    source: Annotated[str, typer.Option(help="Folder, s3:// prefix, manifest file, archive or image.")],
    output: Annotated[str, typer.Option(help="Folder or s3:// prefix for masks, tables and the report.")],
    model: Annotated[str, typer.Option(help="hf://org/name@revision, s3:// prefix or folder.")],
    prompt: Annotated[
        list[str] | None,
        typer.Option(help="What to look for: a text, or a JSON object as in prompt files; repeat for more."),
    ] = None,
    prompts_file: Annotated[str, typer.Option(help="JSON or YAML prompt file instead of --prompt.")] = "",
    support: Annotated[
        str, typer.Option(help="Example pictures, a folder a thing: NAME/images/x.jpg, NAME/masks/x.png.")
    ] = "",
    engineering: Annotated[
        str,
        typer.Option(help="With --support: paper crops, blurs and fades around the thing; none does not."),
    ] = "paper",
    ground_truth: Annotated[
        str, typer.Option(help="COCO or PhraseCut file, or folder of masks or label maps, to measure with.")
    ] = "",
    ground_truth_format: Annotated[
        str, typer.Option(help="auto, masks, labels, voc, coco or phrasecut.")
    ] = "auto",
    ground_truth_class: Annotated[
        list[str] | None, typer.Option(help="PROMPT=CLASS where names differ; repeat for more.")
    ] = None,
    threshold: Annotated[float, typer.Option(help="Probability from which a pixel belongs to a mask.")] = 0.5,
    limit: Annotated[int, typer.Option(help="The most new images to take, in one run; 0 takes all.")] = 0,
    full: Annotated[
        bool, typer.Option("--full", help="Take images that earlier runs have done, too.")
    ] = False,
    max_quarantined: Annotated[
        str, typer.Option(help="Bad images that the run may have: 20, or 5%; without it, no bound.")
    ] = "",
    shard_size: Annotated[int, typer.Option(help="Images a shard; two shards run at once.")] = 500,
    batch_size: Annotated[int, typer.Option(help="Images encoded at once, at most; 0 chooses.")] = 0,
    memory_mb: Annotated[int, typer.Option(help="Megabytes for the model's activations; 0 chooses.")] = 0,
    backend: Annotated[str, typer.Option(help="auto, torch or openvino.")] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    precision: Annotated[str, typer.Option(help="auto, float32, bfloat16 or int8.")] = "auto",
    int8_min_iou: Annotated[float, typer.Option(help="Least IoU of masks of int8 with float32.")] = 0.99,
    tile_size: Annotated[
        int, typer.Option(help="Look at larger images in tiles of so many pixels as well; 0 does not.")
    ] = 0,
    tile_ground_resolution: Annotated[
        float, typer.Option(help="Instead: meters that a pixel of the model shall cover.")
    ] = 0.0,
    tile_overlap: Annotated[float, typer.Option(help="Least overlap of tiles, a part of their side.")] = 0.25,
    meters_per_pixel: Annotated[
        float, typer.Option(help="Ground resolution of the images; 0 takes what their files say.")
    ] = 0.0,
    flip: Annotated[bool, typer.Option(help="Average with the mirror image: twice the time.")] = False,
    max_megapixels: Annotated[float, typer.Option(help="Larger images go to quarantine.")] = 50.0,
    max_megabytes: Annotated[float, typer.Option(help="Larger files go to quarantine.")] = 100.0,
    label_maps: Annotated[
        bool, typer.Option(help="Write a palette map of the most probable prompt for each new image.")
    ] = True,
    overlays: Annotated[
        bool, typer.Option(help="Write a preview with the masks painted in for each new image.")
    ] = True,
    probability_bits: Annotated[
        int, typer.Option(help="8 or 16 writes probability maps as well; 0 does not.")
    ] = 0,
    formats: Annotated[
        list[str] | None,
        typer.Option(
            "--format",
            help="Also write coco-polygons, yolo, labelstudio, labelstudio-polygons or csv; repeat.",
        ),
    ] = None,
    run_id: Annotated[str, typer.Option(help="Name of the run in the results; empty takes the time.")] = "",
    endpoint: Endpoint = "",
    log: Annotated[Path, typer.Option(help="File for the whole log.")] = Path("clipseg-kfp.log"),
    work: Annotated[
        Path | None,
        typer.Option(
            help="Folder for intermediate files, emptied at the end; about 0.4 MB a view, and 0.03 MB more "
            "for each prompt. Without it, the system's temporary folder."
        ),
    ] = None,
) -> None:
    """Runs batch-segmentation on this machine, or with --support one-shot-segmentation, on folders or s3://.

    Credentials come from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, the endpoint from S3_ENDPOINT.
    Images that an earlier run has done under the same model, prompts and settings are skipped. A run takes what fits
    into it, which bounds the folder for intermediate files to about 12 GB; where images are left the next run follows,
    named RUN_ID-2 and so on, with a log of its own.

    Examples:
        clipseg-kfp local run --source ./photos --output ./masks --model ./clipseg --prompt "a cat"

        clipseg-kfp local run --source s3://in/photos --output s3://out/masks --prompts-file prompts.yaml
        --model hf://CIDAS/clipseg-rd64-refined

        clipseg-kfp local run --source ./photos --output ./masks --model ./clipseg --support ./examples
    """
    from clipseg_kfp.local.runner import new_run_id, run_batch
    from clipseg_kfp.results.repeating import Rest
    from clipseg_kfp.results.summary import read_run, show

    if not (prompt or prompts_file or support):
        raise ParameterError("There is nothing to look for.", "Give --prompt, --prompts-file or --support.")
    if prompt and prompts_file:
        raise ParameterError("--prompt and --prompts-file exclude each other.")
    console = Console()
    name = run_id or new_run_id()
    parameters = {
        "source_uri": source,
        "output_uri": output,
        "model_uri": model,
        "prompts": [parsed_prompt(text) for text in prompt or []],
        "prompts_uri": prompts_file,
        **({"support_uri": support, "engineering": engineering} if support else {}),
        "ground_truth_uri": ground_truth,
        "ground_truth_format": ground_truth_format,
        "ground_truth_classes": parsed_classes(ground_truth_class or []),
        "threshold": threshold,
        "limit": limit,
        "full": full,
        "max_quarantined": max_quarantined,
        "shard_size": shard_size,
        "batch_size": batch_size,
        "memory_mb": memory_mb,
        "backend": backend,
        "device": device,
        "precision": precision,
        "int8_min_iou": int8_min_iou,
        "tile_size": tile_size,
        "tile_ground_resolution": tile_ground_resolution,
        "tile_overlap": tile_overlap,
        "meters_per_pixel": meters_per_pixel,
        "flip": flip,
        "probability_bits": probability_bits,
        "formats": formats or [],
        "max_megapixels": max_megapixels,
        "max_megabytes": max_megabytes,
        "label_maps": label_maps,
        "overlays": overlays,
        "run_id": name,
        "endpoint": endpoint,
    }
    rest = Rest(full)
    with interruptible():
        for number in count(1):
            place = log.with_stem(f"{log.stem}-{number}") if number > 1 else log
            finished = run_batch(parameters, place, console, work)
            found = read_run(finished.manifest, endpoint)
            show(found, console)
            if limit or not rest.after(found.manifest["counts"]):
                return
            parameters["run_id"] = f"{name}-{number + 1}"


@app.command("store")
def local_store(
    data: Annotated[Path, typer.Option(help="Folder for the store's data.")] = DEMO_FOLDER / "store",
    port: Annotated[int, typer.Option(help="S3 port on 127.0.0.1; 0 takes a free one.")] = 0,
    bucket: Annotated[list[str] | None, typer.Option(help="Bucket to make if missing; repeatable.")] = None,
) -> None:
    """Starts the embedded object store (SeaweedFS) alone and shows how to reach it; Ctrl-C stops it.

    Examples:
        clipseg-kfp local store

        clipseg-kfp local store --data ./store --port 9000 --bucket photos
    """
    from clipseg_kfp.local.store import EmbeddedStore

    with EmbeddedStore(data, port=port) as store:
        for name in bucket or []:
            store.make_bucket(name)
        print("The store runs. In another terminal:\n")
        for name, value in store.environment().items():
            print(f"  export {name}={value}")
        print("  unset AWS_SESSION_TOKEN")
        print(f"\nData lie in {data}. Ctrl-C stops the store.", flush=True)
        try:
            signal.pause()
        finally:
            print("\nStopped.")
