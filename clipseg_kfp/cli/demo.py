"""``clipseg-kfp demo``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clipseg_kfp.cli.shared import DEMO_FOLDER, interruptible


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

    with interruptible():
        run_demo(folder, model=model, prompts=prompts)
