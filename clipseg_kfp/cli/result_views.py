"""``clipseg-kfp results show``, ``report`` and ``export``: look at results, and take them elsewhere."""

from __future__ import annotations

import json
import sys
import tempfile
import webbrowser
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from clipseg_kfp.cli.shared import Endpoint
from clipseg_kfp.errors import ParameterError

Output = Annotated[str, typer.Argument(help="Where results are: folder or s3:// prefix, as in output_uri.")]
Config = Annotated[str, typer.Option(help="One configuration, by its digest; without it, the latest run's.")]
Run = Annotated[str, typer.Option(help="One run, by its ID; without it, the current state after all runs.")]
Source = Annotated[
    str, typer.Option(help="Runs over this source only, where several have results in one configuration.")
]
Open = Annotated[bool, typer.Option("--open", help="Open the report in the browser.")]


def show(
    output: Output,
    config: Config = "",
    run: Run = "",
    source: Source = "",
    open_: Open = False,
    out: Annotated[Path | None, typer.Option(help="Write the report to this file.")] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
    endpoint: Endpoint = "",
) -> None:
    """Shows the current state after all runs, or one run: counts, agreement, quarantine; and its report.

    Examples:
        clipseg-kfp results show ./masks

        clipseg-kfp results show s3://bucket/masks --open

        clipseg-kfp results show s3://bucket/masks --run nightly-7 --out report.html
    """
    from clipseg_kfp.results import Results
    from clipseg_kfp.results.layout import MANIFEST, run_key
    from clipseg_kfp.results.summary import read_run, read_state, show_in_full, show_state
    from clipseg_kfp.storage import open_folder

    runs = _chosen(output, config, run, source, endpoint)
    manifest = runs[0]
    results = Results(open_folder(output, endpoint), manifest["config"])
    console = Console()
    if run:
        found = read_run(results.folder.locate(run_key(manifest["run"], MANIFEST)), endpoint)
        names = ("config", "run", "created", "source_uri", "counts")
        facts, metrics, quarantine = (
            {name: manifest.get(name) for name in names},
            found.metrics,
            found.quarantine,
        )
        if not json_:
            show_in_full(found, console)
    else:
        state = read_state(results, runs)
        facts, metrics, quarantine = state.facts(), state.metrics, state.quarantine
        if not json_:
            show_state(state, console)
    if json_:
        rows = [{name: row[name] for name in ("key", "reason", "detail")} for row in quarantine]
        print(json.dumps({**facts, "metrics": metrics, "quarantine": rows}, indent=2))
    if out is not None or open_:
        page = out or Path(tempfile.mkdtemp(prefix="clipseg-kfp-"), "report.html")
        _write_report(results, runs, page, open_, to_errors=json_)


def report(
    output: Output,
    out: Annotated[Path, typer.Option(help="The page to write.")] = Path("report.html"),
    config: Config = "",
    run: Run = "",
    source: Source = "",
    open_: Open = False,
    endpoint: Endpoint = "",
) -> None:
    """Writes the report of the current state, rebuilt from all runs, or that of one run: one HTML file.

    Examples:
        clipseg-kfp results report ./masks

        clipseg-kfp results report s3://bucket/masks --out all.html --open
    """
    from clipseg_kfp.results import Results
    from clipseg_kfp.storage import open_folder

    runs = _chosen(output, config, run, source, endpoint)
    _write_report(Results(open_folder(output, endpoint), runs[0]["config"]), runs, out, open_)


def _write_report(
    results: Any, runs: list[dict[str, Any]], page: Path, open_: bool, *, to_errors: bool = False
) -> None:
    """Writes the page of a single run as that run made it, which has more pictures; else that of the state."""
    from clipseg_kfp.report.current import render_current
    from clipseg_kfp.results.commit import file_key
    from clipseg_kfp.results.current import fold

    if len(runs) == 1:
        data = results.folder.read(file_key(runs[0], "report.html"))
    else:
        data = render_current(fold(results, runs)).encode()
    try:
        page.write_bytes(data)
    except OSError as error:
        raise _unwritable(page, error) from error
    print(f"The report is in {page}", file=sys.stderr if to_errors else sys.stdout)
    if open_ and not webbrowser.open(page.resolve().as_uri()):
        print("No browser was found. Open the file yourself.", file=sys.stderr)


def export(
    output: Output,
    format_: Annotated[
        str,
        typer.Option("--format", help="coco, coco-polygons, yolo, csv, labelstudio or labelstudio-polygons."),
    ],
    out: Annotated[Path, typer.Option(help="The file to write; with yolo a new folder, or a file *.zip.")],
    config: Config = "",
    run: Run = "",
    source: Source = "",
    all_: Annotated[
        bool,
        typer.Option("--all", help="Images as well that are no longer at their source."),
    ] = False,
    tolerance: Annotated[
        float | None,
        typer.Option(help="Pixels that polygons may deviate, to save points: 1 by default; 0 is exact."),
    ] = None,
    image_url_prefix: Annotated[
        str, typer.Option(help="With labelstudio: where its browser finds the images, before their keys.")
    ] = "",
    endpoint: Endpoint = "",
) -> None:
    """Writes the masks of the current state, or of one run, in another format.

    The current state has each image once, as the latest run that did it has it, and no image that is gone.

    Examples:
        clipseg-kfp results export ./masks --format coco --out masks.coco.json

        clipseg-kfp results export s3://bucket/masks --all --format yolo --out masks.zip

        clipseg-kfp results export s3://bucket/masks --run nightly-7 --format csv --out masks.csv
    """
    from clipseg_kfp.results import Results
    from clipseg_kfp.results.export import export_runs
    from clipseg_kfp.storage import open_folder

    if run and all_:
        raise ParameterError(
            "--run and --all were both given.", "Give one of them.", code="exclusive", where="run"
        )
    runs = _chosen(output, config, run, source, endpoint)
    results = Results(open_folder(output, endpoint), runs[0]["config"])
    try:
        images, older = export_runs(
            results,
            runs,
            format_,
            out,
            keep_gone=all_ or bool(run),
            tolerance=tolerance,
            image_url_prefix=image_url_prefix,
        )
    except OSError as error:
        raise _unwritable(out, error) from error
    told = f"{images:,} images of {len(runs):,} run{'' if len(runs) == 1 else 's'} in {out}"
    print(told + (f"; {older:,} older versions left out." if older else "."))


def _chosen(output: str, config: str, run: str, source: str, endpoint: str) -> list[dict[str, Any]]:
    """Manifests, the latest first: of that run, or all of the configuration that the latest run has."""
    runs = runs_of(output, config, endpoint)
    if runs and source:
        known = sorted({manifest["source_uri"] for manifest in runs})
        runs = [manifest for manifest in runs if manifest["source_uri"].rstrip("/") == source.rstrip("/")]
        if not runs:
            raise ParameterError(
                f"No committed run under {output} is over {source}.",
                f"Give one of these: {', '.join(known[:20])}.",
                code="no_such_source",
                where=source,
            )
    if not runs:
        raise ParameterError(
            f"There are no committed runs under {output}.",
            "Name the folder or prefix that the runs had as output_uri.",
            code="no_runs",
            where=output,
        )
    named = [manifest for manifest in runs if manifest["run"] == run]
    if run and not named:
        raise no_such_run(run, output)
    if len({manifest["config"] for manifest in named}) > 1:
        raise ParameterError(
            f"Several configurations have a run '{run}': "
            f"{', '.join(manifest['config'] for manifest in named)}.",
            "Name one with --config.",
            code="run_ambiguous",
            where=run,
        )
    return named or [manifest for manifest in runs if manifest["config"] == runs[0]["config"]]


def runs_of(output: str, config: str, endpoint: str) -> list[dict[str, Any]]:
    """Manifests of committed runs, the latest first."""
    from clipseg_kfp.results import Results
    from clipseg_kfp.results.commit import commit_order
    from clipseg_kfp.storage import open_folder

    folder = open_folder(output, endpoint)
    found = [m for name in configs_of(folder, config, output) for m in Results(folder, name).manifests()]
    return sorted(found, key=lambda run: (*commit_order(run), run["config"]), reverse=True)


def configs_of(folder: Any, config: str, output: str) -> list[str]:
    """Digests of all configurations, or of the one that is asked for."""
    from clipseg_kfp.results.commit import configurations

    known = configurations(folder)
    if config and config not in known:
        raise ParameterError(
            f"There is no configuration '{config}' under {output}.",
            "'clipseg-kfp results list' shows all.",
            code="no_such_config",
            where=config,
        )
    return [config] if config else known


def no_such_run(run: str, output: str) -> ParameterError:
    """The error of a run that is not there."""
    return ParameterError(
        f"There is no committed run '{run}' under {output}.",
        "'clipseg-kfp results list' shows all.",
        code="no_such_run",
        where=run,
    )


def _unwritable(path: Path, error: OSError) -> ParameterError:
    return ParameterError(
        f"{path} cannot be written: {error.strerror}.",
        "Name another --out.",
        code="unwritable",
        where=str(path),
    )
