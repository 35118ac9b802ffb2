"""``clipseg-kfp upload``, ``run`` and ``doctor``."""

from __future__ import annotations

from itertools import count
from typing import Annotated, Any

import typer
from rich.console import Console

from clipseg_kfp.cli.compile import warn_of_images
from clipseg_kfp.cli.connection import connected
from clipseg_kfp.cli.runs import StartTimeout, Timeout, follow, limits
from clipseg_kfp.cli.shared import Endpoint
from clipseg_kfp.client import Client, Recipe, Round, Run
from clipseg_kfp.client.packages import declared, spec_of
from clipseg_kfp.client.parameters import from_file, from_words
from clipseg_kfp.client.runs import DEFAULT_EXPERIMENT
from clipseg_kfp.client.upload import DEFAULT_PIPELINE
from clipseg_kfp.errors import ParameterError

Pipeline = Annotated[
    str, typer.Argument(help="Pipeline on the cluster, or a YAML file, which is uploaded first.")
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", "-p", help="A parameter as name=value; repeat for more, or for more of a list."),
]
SettingsFile = Annotated[str, typer.Option("--parameters", "-f", help="YAML or JSON file of parameters.")]
PromptsFile = Annotated[
    str,
    typer.Option(
        help="JSON or YAML prompt file: of this machine, sent with the run, or s3://, read by its pods."
    ),
]
Version = Annotated[
    str, typer.Option("--pipeline-version", help="Version of the pipeline; empty takes the newest.")
]
Experiment = Annotated[str, typer.Option(help="Experiment of the runs; it is made where it is not there.")]
ServiceAccount = Annotated[str, typer.Option(help="Kubernetes service account of the pods.")]


def given_parameters(
    version: object, settings: list[str] | None, file: str, prompts_file: str = ""
) -> dict[str, object]:
    """Parameters of a file, overruled by those of the command line, which are read by their declared types.

    A prompt file of this machine becomes the parameter ``prompts``, one in a bucket ``prompts_uri``.
    """
    words: dict[str, object] = from_words(declared(spec_of(version)), settings or [])
    read: dict[str, object] = from_file(file) if file else {}
    if not prompts_file:
        return {**read, **words}
    for name in ("prompts", "prompts_uri"):
        if name in words:
            raise ParameterError(
                f"Both --prompts-file and the parameter {name} give prompts.",
                "Give one of them.",
                code="prompts_twice",
                where=name,
            )
    if "://" in prompts_file:
        asked: dict[str, object] = {"prompts_uri": prompts_file}
    else:
        from clipseg_kfp.prompts import read_prompt_file_inline

        asked = {"prompts": read_prompt_file_inline(prompts_file), "prompts_uri": ""}
    return {**read, **words, **asked}


@connected
def upload(
    client: Client,
    recipe: Recipe,
    source: Annotated[
        str,
        typer.Argument(help="batch-segmentation, one-shot-segmentation, prompt-evaluation, or a YAML file."),
    ] = DEFAULT_PIPELINE,
    name: Annotated[str, typer.Option(help="Name on the cluster; empty takes the package's.")] = "",
    version_name: Annotated[
        str, typer.Option(help="Name of the version; empty derives it from the content.")
    ] = "",
    shared: Annotated[bool, typer.Option(help="In multi-user Kubeflow, for all users.")] = False,
) -> None:
    """Uploads a pipeline: a new one, a new version, or nothing where the same content is there already.

    Examples:
        clipseg-kfp upload batch-segmentation --image registry.example/clipseg-kfp@sha256:…

        clipseg-kfp upload batch-segmentation --settings cluster.yaml

        clipseg-kfp upload batch-segmentation.yaml --namespace team-a
    """
    done = client.upload(source, recipe, pipeline_name=name, version_name=version_name, shared=shared)
    warn_of_images(done.images)
    print(f"{done.action}: {done.pipeline}, version {done.version}")
    print(f"  {done.url}")
    if not done.newest:
        print(f"  newer ones are there; run this one with --pipeline-version {done.version}")


@connected
def run(
    client: Client,
    recipe: Recipe,
    pipeline: Pipeline = DEFAULT_PIPELINE,
    settings: Settings = None,
    parameters: SettingsFile = "",
    prompts_file: PromptsFile = "",
    version: Version = "",
    experiment: Experiment = DEFAULT_EXPERIMENT,
    name: Annotated[str, typer.Option(help="Name of the run; empty takes the pipeline's and the time.")] = "",
    service_account: ServiceAccount = "",
    wait: Annotated[
        bool, typer.Option("--wait", help="Follow the run to its end, as 'runs watch' does.")
    ] = False,
    until_done: Annotated[
        bool,
        typer.Option(
            "--until-done",
            help="Follow it, and start the next run until no images are left; reads the results' bucket.",
        ),
    ] = False,
    timeout: Timeout = "",
    start_timeout: StartTimeout = "",
    endpoint: Endpoint = "",
) -> None:
    """Starts a run of a pipeline; its parameters are checked before anything is sent.

    A run takes what fits into it; --until-done starts the next one for what is left, until nothing is. It stops where
    a run fails. --timeout is for all of them together.

    With --wait and --until-done, the exit status is the run's: 0 succeeded, 3 failed, 4 canceled, 5 skipped, 6 timeout,
    7 no pod of a task began within --start-timeout, 130 Ctrl-C, 1 an error of the client, 2 wrong usage.

    Examples:
        clipseg-kfp run batch-segmentation --set source_uri=s3://mlpipeline/shared/photos --set prompts="a cat"

        clipseg-kfp run batch-segmentation --prompts-file prompts.yaml

        clipseg-kfp run batch-segmentation.yaml --parameters parameters.yaml --wait --timeout 6h --start-timeout 10m

        clipseg-kfp run batch-segmentation --parameters parameters.yaml --until-done --timeout 2d
    """
    times = limits(timeout, start_timeout)
    # Read once, so that the parameters are checked against the version that is run.
    found = client.version(pipeline, recipe, version=version)
    given = given_parameters(found, settings, parameters, prompts_file)
    options: dict[str, Any] = {"experiment": experiment, "name": name, "service_account": service_account}
    if not until_done:
        started = client.runs.start(found, given, **options)
        _tell_started(started)
        if wait:
            started.endpoint = endpoint
            raise typer.Exit(follow(started, *times))
        print(f"  follow it: clipseg-kfp runs watch {started.id}")
        return

    def followed(run: Run, left: float | None) -> None:
        _tell_started(run)
        if status := follow(run, left, times[1]):
            raise typer.Exit(status)

    numbers = count(1)

    def tell(one: Round) -> None:
        counts = ", ".join(f"{one.counts[name]:,} {name}" for name in ("done", "quarantined", "skipped"))
        print(f"run {next(numbers)}: {counts}; {one.left:,} images left")

    client.runs.until_done(
        found, given, endpoint=endpoint, timeout=times[0], wait=followed, on_round=tell, **options
    )


def _tell_started(started: Run) -> None:
    Console().print(f"started: {started.name}", markup=False, emoji=False, highlight=False, soft_wrap=True)
    print(f"  {started.url}")


@connected
def doctor(
    client: Client,
    source_uri: Annotated[str, typer.Option(help="s3:// prefix of the images to check.")] = "",
    output_uri: Annotated[str, typer.Option(help="s3:// prefix for results to check.")] = "",
    model_uri: Annotated[
        str, typer.Option(help="Checkpoint to check; empty takes the pipeline's default.")
    ] = "",
    endpoint: Annotated[
        str, typer.Option(help="URL of the S3 endpoint as seen from here; empty takes S3_ENDPOINT.")
    ] = "",
    secret: Annotated[
        str, typer.Option(help="Storage secret in the namespace; empty takes the pipeline's default.")
    ] = "",
    pipeline: Annotated[str, typer.Option(help="Pipeline on the cluster to check.")] = DEFAULT_PIPELINE,
) -> None:
    """Checks the way to the cluster, the login, the storage and the pipeline, and says what to mend.

    Looks only, but for one object that it writes to --output-uri and deletes again. The exit status is 1 where
    something fails; warnings, and what cannot be told from here, give 0.

    Examples:
        clipseg-kfp doctor

        clipseg-kfp doctor --source-uri s3://mlpipeline/shared/images --output-uri s3://mlpipeline/shared/masks
    """
    from clipseg_kfp.client.doctor import Asked, examine, table

    findings = examine(client, Asked(source_uri, output_uri, model_uri, endpoint, secret, pipeline))
    Console().print(table(findings))
    if any(one.mark == "fail" for one in findings):
        raise typer.Exit(1)
