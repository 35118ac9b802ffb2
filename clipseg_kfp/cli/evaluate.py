"""``clipseg-kfp local evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from clipseg_kfp.cli.shared import Endpoint, Set, interruptible, local_groups, parsed_prompt, parted
from clipseg_kfp.errors import ParameterError
from clipseg_kfp.runtime.screen import plain


def evaluate(
    source: Annotated[str, typer.Option(help="Images: folder, s3:// prefix, manifest file or archive.")],
    output: Annotated[str, typer.Option(help="Folder or s3:// prefix for masks, tables and the report.")],
    model: Annotated[str, typer.Option(help="hf://org/name@revision, s3:// prefix or folder.")],
    prompt: Annotated[
        list[str] | None,
        typer.Option(help="SET: WHAT, one prompt of a set: a text or a JSON object; repeat for more."),
    ] = None,
    prompts_file: Annotated[
        list[str] | None, typer.Option(help="SET: FILE, a prompt file as a set; repeat for more.")
    ] = None,
    ground_truth: Annotated[
        str, typer.Option(help="COCO or PhraseCut file, or folder of masks or label maps; else masks/CLASS/.")
    ] = "",
    ground_truth_class: Annotated[
        list[str] | None, typer.Option(help="PROMPT=CLASS where names differ; repeat for more.")
    ] = None,
    options: Set = None,
    run_id: Annotated[str, typer.Option(help="Name of the run in the results; empty takes the time.")] = "",
    endpoint: Endpoint = "",
    log: Annotated[Path, typer.Option(help="File for the whole log.")] = Path("clipseg-kfp.log"),
    work: Annotated[
        Path | None, typer.Option(help="Folder for intermediate files; else the system's temporary folder.")
    ] = None,
) -> None:
    """Runs prompt-evaluation on this machine: which wording finds a thing best, and at which threshold.

    Images are encoded once for all sets. Name the prompts of a set after the class that they look for.

    Examples:
        clipseg-kfp local evaluate --source ./photos --ground-truth ./instances.json --output ./evaluation
        --model ./clipseg --prompt "plain: cat" --prompt 'article: {"name": "cat", "text": "a cat"}'

        clipseg-kfp local evaluate --source ./photos --output ./evaluation --model ./clipseg
        --prompts-file "short: short.yaml" --prompts-file "long: long.yaml"
    """
    from clipseg_kfp.local.runner import new_run_id, run_evaluation
    from clipseg_kfp.results.summary import read_run, show

    sets = _sets(prompt or [], prompts_file or [])
    groups = local_groups(options, "", ground_truth, ground_truth_class, run_id or new_run_id())
    console = Console()
    with interruptible():
        finished = run_evaluation(
            {
                "source_uri": source,
                "output_uri": output,
                "model_uri": model,
                "prompt_sets": sets,
                **groups,
                "endpoint": endpoint,
            },
            log,
            console,
            work,
        )
        run = read_run(finished.manifest, endpoint)
        show(run, console)
        _show_ranking(run.metrics["per_prompt"], console)
        console.print(
            f"best thresholds: {finished.manifest.rpartition('/')[0]}/thresholds.json",
            soft_wrap=True,
            highlight=False,
            markup=False,
            emoji=False,
        )


def _sets(prompts: list[str], files: list[str]) -> dict[str, Any]:
    sets: dict[str, Any] = {}
    for text in prompts:
        name, what = parted(text, ":", "--prompt", "plain: a cat")
        sets.setdefault(name, []).append(parsed_prompt(what))
    for text in files:
        name, uri = parted(text, ":", "--prompts-file", "plain: prompts.yaml")
        if name in sets:
            raise ParameterError(
                f"--prompts-file: the set '{name}' is given twice.",
                "Choose another name.",
                code="prompt_set_twice",
                where=name,
            )
        sets[name] = uri
    if not sets:
        raise ParameterError(
            "There are no prompts to compare.",
            'Give --prompt "SET: WHAT" or --prompts-file.',
            code="prompts_empty",
            where="prompt",
        )
    return sets


def _show_ranking(prompts: dict[str, Any], console: Console) -> None:
    table = Table()
    for name in ("prompt", "best threshold", "IoU", "95 % interval", "AP"):
        table.add_column(name, justify="left" if name == "prompt" else "right")
    known = {name: row for name, row in prompts.items() if row["best_iou"] is not None}
    for name, row in sorted(known.items(), key=lambda item: -item[1]["best_iou"]):
        spread = "–"
        if row["best_iou_low"] is not None:
            spread = f"{row['best_iou_low']:.3f} to {row['best_iou_high']:.3f}"
        figures = [f"{row['best_threshold']:.2f}", f"{row['best_iou']:.3f}", spread]
        table.add_row(plain(name), *figures, f"{row['average_precision']:.3f}")
    if known:
        console.print("Each prompt at its best threshold", style="italic", markup=False, emoji=False)
        console.print(table)
