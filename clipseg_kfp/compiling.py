"""Compiles pipelines into the packages that the Kubeflow UI and the kfp SDK take."""

from __future__ import annotations

import tempfile
from pathlib import Path

import yaml

from clipseg_kfp.container import DEFAULT_IMAGE
from clipseg_kfp.errors import ParameterError


def pipeline_names() -> list[str]:
    """Names of all pipelines, with dashes as in the UI."""
    from clipseg_kfp.pipelines import ALL

    return [name.replace("_", "-") for name in ALL]


def compile_pipeline(name: str, image: str = DEFAULT_IMAGE) -> str:
    """Compiles one pipeline.

    Args:
        name: such as ``batch-segmentation``.
        image: container image of all components; a digest (``…@sha256:…``) pins it best.

    Returns:
        The package's YAML.

    Raises:
        ParameterError: an unknown pipeline, or an empty image.
    """
    from kfp import compiler

    from clipseg_kfp.pipelines import ALL

    pipeline = ALL.get(name.replace("-", "_"))
    if pipeline is None:
        raise ParameterError(
            f"There is no pipeline '{name}'.", f"Choose from: {', '.join(pipeline_names())}."
        )
    if not image.strip() or any(c.isspace() for c in image):
        raise ParameterError(f"'{image}' is no image reference.", "Write registry/name:tag or …@sha256:….")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "pipeline.yaml")
        compiler.Compiler().compile(pipeline, str(path))
        text = path.read_text("utf-8")
    return text if image == DEFAULT_IMAGE else _with_image(text, image)


def _with_image(text: str, image: str) -> str:
    """Sets the image of every executor; kfp fixes it when a component is defined, long before the compile."""
    comments = "".join(line + "\n" for line in text.splitlines() if line.startswith("#"))
    documents = list(yaml.safe_load_all(text))
    for executor in documents[0]["deploymentSpec"]["executors"].values():
        if "container" in executor:
            executor["container"]["image"] = image
    return comments + yaml.safe_dump_all(documents, sort_keys=True)
