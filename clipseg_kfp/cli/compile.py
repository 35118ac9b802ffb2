"""``clipseg-kfp compile``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clipseg_kfp.container import DEFAULT_IMAGE


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
