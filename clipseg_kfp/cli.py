"""The command line: ``clipseg-kfp``."""

from __future__ import annotations

import errno
import json
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from clipseg_kfp import __version__
from clipseg_kfp.container import DEFAULT_IMAGE
from clipseg_kfp.errors import ClipsegKfpError, ParameterError

app = typer.Typer(
    help="Segments whole buckets of images by prompts with CLIPSeg, on Kubeflow Pipelines or right here.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
local_app = typer.Typer(help="Work without a cluster.", no_args_is_help=True, rich_markup_mode="markdown")
prompts_app = typer.Typer(help="Work with prompt files.", no_args_is_help=True, rich_markup_mode="markdown")
app.add_typer(local_app, name="local")
app.add_typer(prompts_app, name="prompts")

DEMO_FOLDER = Path(".demo")
Endpoint = Annotated[
    str, typer.Option(help="URL of the S3 endpoint; empty takes S3_ENDPOINT from the environment.")
]


def _version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command()
def demo(
    model: Annotated[str, typer.Option(help="Checkpoint; empty takes the demo model of the checkout.")] = "",
    prompts: Annotated[str, typer.Option(help='Texts with commas between, such as "a cat,a cup".')] = "",
    folder: Annotated[
        Path, typer.Option(help="Where the store and the results of the demo live.")
    ] = DEMO_FOLDER,
) -> None:
    """Runs the whole pipeline on sample images in an embedded object store.

    Examples:
        clipseg-kfp demo

        clipseg-kfp demo --model hf://CIDAS/clipseg-rd64-refined --prompts "a cat,a cup"
    """
    from clipseg_kfp.demo.run import run_demo

    with _interruptible():
        run_demo(folder, model=model, prompts=prompts)


@local_app.command("run")
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
    threshold: Annotated[float, typer.Option(help="Probability from which a pixel belongs to a mask.")] = 0.5,
    limit: Annotated[int, typer.Option(help="The most new images to take; 0 takes all.")] = 0,
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
        list[str] | None, typer.Option("--format", help="Also write yolo, labelstudio or csv; repeat.")
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
    Images that an earlier run has done under the same model, prompts and settings are skipped.

    Examples:
        clipseg-kfp local run --source ./photos --output ./masks --model ./clipseg --prompt "a cat"

        clipseg-kfp local run --source s3://in/photos --output s3://out/masks --prompts-file prompts.yaml
        --model hf://CIDAS/clipseg-rd64-refined

        clipseg-kfp local run --source ./photos --output ./masks --model ./clipseg --support ./examples
    """
    from clipseg_kfp.local import new_run_id, run_batch
    from clipseg_kfp.summary import read_run, show

    if not (prompt or prompts_file or support):
        raise ParameterError("There is nothing to look for.", "Give --prompt, --prompts-file or --support.")
    if prompt and prompts_file:
        raise ParameterError("--prompt and --prompts-file exclude each other.")
    console = Console()
    with _interruptible():
        finished = run_batch(
            {
                "source_uri": source,
                "output_uri": output,
                "model_uri": model,
                "prompts": [_parsed(text) for text in prompt or []],
                "prompts_uri": prompts_file,
                **({"support_uri": support} if support else {}),
                "threshold": threshold,
                "limit": limit,
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
                "run_id": run_id or new_run_id(),
                "endpoint": endpoint,
            },
            log,
            console,
            work,
        )
        show(read_run(finished.manifest, endpoint), console)


@local_app.command("store")
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
    from clipseg_kfp.embedded import EmbeddedStore

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


@app.command("compile")
def compile_package(
    pipeline: Annotated[str, typer.Argument(help="Name of the pipeline.")] = "batch-segmentation",
    output: Annotated[Path | None, typer.Option("--output", "-o", help="File to write.")] = None,
    image: Annotated[str, typer.Option(help="Container image of all components.")] = DEFAULT_IMAGE,
) -> None:
    """Writes the pipeline package that the Kubeflow UI and the kfp SDK take.

    Examples:
        clipseg-kfp compile

        clipseg-kfp compile one-shot-segmentation

        clipseg-kfp compile batch-segmentation --image registry.example/clipseg-kfp@sha256:… -o pipeline.yaml
    """
    from clipseg_kfp.compiling import compile_pipeline

    text = compile_pipeline(pipeline, image)
    path = output or Path(f"{pipeline}.yaml")
    path.write_text(text, "utf-8")
    print(f"Wrote {path}. Upload it in the Kubeflow UI under Pipelines.")


@prompts_app.command("check")
def prompts_check(
    file: Annotated[str, typer.Argument(help="JSON or YAML prompt file: a path or s3:// URI.")],
    model: Annotated[
        Path | None, typer.Option(help="Checkpoint folder: check the files that prompts name, too.")
    ] = None,
    endpoint: Endpoint = "",
) -> None:
    """Checks a prompt file and prints it in full form; a line a prompt goes to standard error.

    With --model, the files that it names are read and checked, too.

    Examples:
        clipseg-kfp prompts check prompts.yaml

        clipseg-kfp prompts check s3://bucket/prompts.yaml --model ./clipseg
    """
    from clipseg_kfp.prompts import read_prompts
    from clipseg_kfp.storage import open_object

    folder, key = open_object(file, endpoint)
    prompts = read_prompts(folder.read(key), file)
    if model:
        from clipseg_kfp.model import read_facts
        from clipseg_kfp.prompts import Files, gather

        for one in gather(prompts, read_facts(model), 0.5, Files(file, endpoint)):
            for note in one.notes:
                print(f"note: prompt '{one.prompt.name}': {note}", file=sys.stderr)
    for number, prompt in prompts.numbered():
        hidden = ", hidden" if prompt.hidden else ""
        print(f"{number}: {prompt.name} ({prompt.kind}{hidden})", file=sys.stderr)
    full = prompts.model_dump(mode="json", exclude_defaults=True)
    print(json.dumps(full, indent=2, ensure_ascii=False))


@prompts_app.command("schema")
def prompts_schema() -> None:
    """Prints the JSON Schema of prompt files, for editors and other checkers.

    Example:
        clipseg-kfp prompts schema > prompts.schema.json
    """
    from clipseg_kfp.prompts import json_schema

    print(json.dumps(json_schema(), indent=2, ensure_ascii=False))


def _parsed(prompt: str) -> Any:
    """A prompt of the command line: an object where it looks like one, else a text."""
    if not prompt.lstrip().startswith("{"):
        return prompt
    try:
        return json.loads(prompt)
    except ValueError as error:
        raise ParameterError(f"--prompt {prompt!r} is no JSON object: {error}.") from error


def main(arguments: list[str] | None = None) -> Any:
    """Entry point; a user's mistake ends in one clear message and status 1, never in a traceback."""
    # A polite kill ends like Ctrl-C does: servers are stopped, temporary folders removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        return app(arguments)
    except ClipsegKfpError as error:
        _complain(error.message, error.remedy)
        sys.exit(1)
    except OSError as error:
        _complain(*_words(error))
        sys.exit(1)


@contextmanager
def _interruptible() -> Iterator[None]:
    """Says what Ctrl-C leaves behind; typer would end without a word."""
    try:
        yield
    except KeyboardInterrupt:
        print(
            "\nStopped. The run is not committed: no manifest names the masks that it wrote. They stay "
            "in the output, and a new run makes them again.",
            file=sys.stderr,
        )
        raise typer.Exit(130) from None


def _words(error: OSError) -> tuple[str, str]:
    """What is wrong with a path, and what to do about it."""
    where = f"{error.filename}: " if error.filename else ""
    remedies = {
        errno.ENOSPC: "Free some space, or name a place on another disk.",
        errno.ENOENT: "Check the path; make its folder first.",
    }
    refused = "Check the path and its permissions, or name another one."
    return f"{where}{error.strerror or error}", remedies.get(error.errno or 0, refused)


def _complain(message: str, remedy: str) -> None:
    console = Console(stderr=True, soft_wrap=True)
    console.print(f"error: {message}", style="bold red", markup=False, highlight=False)
    if remedy:
        console.print(f"  remedy: {remedy}", markup=False, highlight=False)


if __name__ == "__main__":
    main()
