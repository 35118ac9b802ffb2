"""``clipseg-kfp local``: work without a cluster."""

from __future__ import annotations

import signal
from itertools import count
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from clipseg_kfp.cli.shared import (
    DEMO_FOLDER,
    Endpoint,
    Set,
    group,
    interruptible,
    local_groups,
    parsed_prompt,
)
from clipseg_kfp.errors import ParameterError
from clipseg_kfp.options import Limits

app = group("Work without a cluster.")


@app.command("run")
def local_run(
    source: Annotated[str, typer.Option(help="Folder, s3:// prefix, manifest file, archive or image.")],
    output: Annotated[str, typer.Option(help="Folder or s3:// prefix for masks, tables and the report.")],
    model: Annotated[str, typer.Option(help="hf://org/name@revision, s3:// prefix or folder.")],
    prompt: Annotated[
        list[str] | None,
        typer.Option(help="What to look for: a text, or a JSON object as in prompt files; repeatable."),
    ] = None,
    prompts_file: Annotated[str, typer.Option(help="JSON or YAML prompt file instead of --prompt.")] = "",
    support: Annotated[
        str, typer.Option(help="Example pictures, one folder per thing: NAME/images/x.jpg, NAME/masks/x.png.")
    ] = "",
    ground_truth: Annotated[
        str, typer.Option(help="COCO or PhraseCut file, or folder of masks or label maps, to compare with.")
    ] = "",
    ground_truth_class: Annotated[
        list[str] | None, typer.Option(help="PROMPT=CLASS where names differ; repeatable.")
    ] = None,
    threshold: Annotated[
        float, typer.Option(help="Probability at which a pixel starts to belong to a mask.")
    ] = 0.5,
    options: Set = None,
    run_id: Annotated[str, typer.Option(help="Name of the run in the results; empty takes the time.")] = "",
    endpoint: Endpoint = "",
    log: Annotated[Path, typer.Option(help="File for the whole log.")] = Path("clipseg-kfp.log"),
    work: Annotated[
        Path | None,
        typer.Option(
            help="Folder for intermediate files, emptied at the end: about 0.4 MB per view, and 0.03 MB more "
            "per prompt. Default: the system's temporary folder."
        ),
    ] = None,
) -> None:
    """Runs batch-segmentation on this machine, or with --support one-shot-segmentation, on folders or s3://.

    Credentials come from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, the endpoint from S3_ENDPOINT.
    Images that an earlier run has done with the same model, prompts and options are skipped. A run takes as many images
    as keep the folder for intermediate files below about 12 GB. If images are left, the next run follows, named
    RUN_ID-2 and so on, with a log of its own.

    Examples:
        clipseg-kfp local run --source ./photos --output ./masks --model ./clipseg --prompt "a cat"

        clipseg-kfp local run --source s3://in/photos --output s3://out/masks --prompts-file prompts.yaml
        --model hf://CIDAS/clipseg-rd64-refined

        clipseg-kfp local run --source ./photos --output ./masks --model ./clipseg --support ./examples

        clipseg-kfp local run --source ./photos --output ./masks --model ./clipseg --prompt "a cat"
        --set views.tile_size=512 --set outputs.formats=yolo,csv --set limits.limit=100
    """
    from clipseg_kfp.local.runner import new_run_id, run_batch
    from clipseg_kfp.results.summary import read_run, show
    from clipseg_kfp.results.until_done import Rest

    if not (prompt or prompts_file or support):
        raise ParameterError(
            "There are no prompts.",
            "Give --prompt, --prompts-file or --support.",
            code="prompts_empty",
            where="prompt",
        )
    if prompt and prompts_file:
        raise ParameterError(
            "--prompt and --prompts-file were both given.",
            "Give one of them.",
            code="exclusive",
            where="prompt",
        )
    name = run_id or new_run_id()
    groups = local_groups(options, support, ground_truth, ground_truth_class, name)
    name = groups["outputs"]["run_id"]
    arguments = {
        "source_uri": source,
        "output_uri": output,
        "model_uri": model,
        "prompts": [parsed_prompt(text) for text in prompt or []],
        "prompts_uri": prompts_file,
        "threshold": threshold,
        **groups,
        "endpoint": endpoint,
    }
    limits = Limits.read(groups["limits"])
    rest, console = Rest(limits.full), Console()
    with interruptible():
        for number in count(1):
            place = log.with_stem(f"{log.stem}-{number}") if number > 1 else log
            finished = run_batch(arguments, place, console, work)
            found = read_run(finished.manifest, endpoint)
            show(found, console)
            if limits.limit or not rest.after(found.manifest["counts"]):
                return
            groups["outputs"]["run_id"] = f"{name}-{number + 1}"


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
        print(f"\nThe data are in {data}. Ctrl-C stops the store.", flush=True)
        try:
            signal.pause()
        finally:
            print("\nStopped.")
