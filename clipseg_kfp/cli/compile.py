"""``clipseg-kfp compile``."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from clipseg_kfp.errors import ParameterError

Words = list[str] | None


class Variant(StrEnum):
    """What inference runs on."""

    CPU = "cpu"
    GPU = "gpu"


class Format(StrEnum):
    """What is written."""

    KFP = "kfp"
    KUBERNETES = "kubernetes"


def compile_package(
    pipeline: Annotated[str, typer.Argument(help="Name of the pipeline.")] = "batch-segmentation",
    output: Annotated[Path | None, typer.Option("--output", "-o", help="File to write.")] = None,
    image: Annotated[str, typer.Option(help="Container image of all components.")] = "",
    variant: Annotated[Variant, typer.Option(help="cpu, or gpu: inference on one NVIDIA GPU.")] = Variant.CPU,
    settings: Annotated[Path | None, typer.Option(help="YAML file of a site's settings.")] = None,
    accelerator: Annotated[str, typer.Option(help="Resource of the inference pod, as nvidia.com/gpu.")] = "",
    accelerator_count: Annotated[int, typer.Option(help="How many of it.")] = 0,
    node_selector: Annotated[Words, typer.Option(help="[task:]label=value; may be repeated.")] = None,
    toleration: Annotated[Words, typer.Option(help="[task:]key[=value][:effect]; may be repeated.")] = None,
    pull_secret: Annotated[Words, typer.Option(help="Secret for the registry; may be repeated.")] = None,
    pull_policy: Annotated[str, typer.Option(help="Always, IfNotPresent or Never.")] = "",
    cache_pvc: Annotated[str, typer.Option(help="Volume claim that keeps models between pods.")] = "",
    storage_secret: Annotated[str, typer.Option(help="Default of the parameter storage_secret.")] = "",
    endpoint: Annotated[str, typer.Option(help="Default of the parameter endpoint.")] = "",
    format: Annotated[
        Format, typer.Option(help="kfp: a package to upload; kubernetes: resources for GitOps.")
    ] = Format.KFP,
    namespace: Annotated[str, typer.Option(help="Of the Kubernetes resources.")] = "",
) -> None:
    """Writes the pipeline package that the Kubeflow UI and the kfp SDK take, with a site's settings in it.

    Options win over the settings file, which wins over the variant (docs/cluster/install.md).

    Examples:
        clipseg-kfp compile

        clipseg-kfp compile one-shot-segmentation --image registry.example/clipseg-kfp@sha256:… -o pipeline.yaml

        clipseg-kfp compile --variant gpu --settings cluster.yaml --node-selector segment_images:pool=gpu

        clipseg-kfp compile --settings cluster.yaml --format kubernetes --namespace team
    """
    from clipseg_kfp.cluster_settings import overlaid, read_mapping
    from clipseg_kfp.compiling import compile_manifests, compile_pipeline, settings_for

    said: dict[str, Any] = {
        "image": image,
        "endpoint": endpoint,
        "storage_secret": storage_secret,
        "pull_secrets": pull_secret,
        "pull_policy": pull_policy,
        "accelerator": {
            name: value for name, value in (("type", accelerator), ("count", accelerator_count)) if value
        },
        "cache": {"claim": cache_pvc} if cache_pvc else {},
    }
    said = {name: value for name, value in said.items() if value}
    for word in node_selector or ():
        said = overlaid(said, _for_task(word, "node_selector", _label))
    for word in toleration or ():
        said = overlaid(said, _for_task(word, "tolerations", _toleration))
    content = read_mapping(settings) if settings else {}
    wanted = settings_for(variant, overlaid(content, said), str(settings) if settings else "options")
    if format is Format.KUBERNETES:
        text = compile_manifests(pipeline, settings=wanted, namespace=namespace or None)
        then = "Commit it, or apply it with kubectl."
    else:
        text = compile_pipeline(pipeline, settings=wanted)
        then = "Upload it in the Kubeflow UI under Pipelines."
    path = output or Path(f"{pipeline}.yaml")
    path.write_text(text, "utf-8")
    for name in wanted.unpinned():
        print(
            f"warning: {name} has no digest: what runs may change with its tag. Name it as …@sha256:….",
            file=sys.stderr,
        )
    print(f"Wrote {path}. {then}")


def _for_task(word: str, name: str, parse: Any) -> dict[str, Any]:
    """A setting of all tasks, or of the one that is named before a colon."""
    from clipseg_kfp.cluster_settings import TASKS

    task, colon, rest = word.partition(":")
    if colon and task in TASKS:
        return {"tasks": {task: {name: parse(rest)}}}
    return {name: parse(word)}


def _label(word: str) -> dict[str, str]:
    key, equals, value = word.partition("=")
    if not key or not equals:
        raise ParameterError(f"--node-selector '{word}' is not of the form label=value.")
    return {key: value}


def _toleration(word: str) -> list[dict[str, str]]:
    taint, _, effect = word.partition(":")
    key, equals, value = taint.partition("=")
    if not key:
        raise ParameterError(f"--toleration '{word}' is not of the form key[=value][:effect].")
    made = {"key": key, "operator": "Equal" if equals else "Exists"}
    return [{**made, **({"value": value} if value else {}), **({"effect": effect} if effect else {})}]
