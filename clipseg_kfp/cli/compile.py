"""``clipseg-kfp compile``."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from clipseg_kfp.errors import ParameterError
from clipseg_kfp.site.image import image_warning

Words = list[str] | None


class Variant(StrEnum):
    """What inference runs on."""

    CPU = "cpu"
    GPU = "gpu"


class Format(StrEnum):
    """What is written."""

    KFP = "kfp"
    KUBERNETES = "kubernetes"


GpuImage = Annotated[str, typer.Option(help="Container image of inference alone, with CUDA (--variant gpu).")]
SettingsOption = Annotated[
    Path | None, typer.Option("--settings", help="YAML file of a site's settings for its cluster.")
]


def warn_of_images(images: Iterable[str]) -> None:
    """Says on standard error which images a cluster may not find, or find changed."""
    for warning in filter(None, map(image_warning, images)):
        print(f"warning: {warning}", file=sys.stderr)


def compile_package(
    pipeline: Annotated[str, typer.Argument(help="Name of the pipeline.")] = "batch-segmentation",
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="File to write; else the pipeline's name, with .gpu.yaml for that variant."
        ),
    ] = None,
    image: Annotated[
        str, typer.Option(help="Container image of all components; with --variant gpu, of all but inference.")
    ] = "",
    gpu_image: GpuImage = "",
    variant: Annotated[Variant, typer.Option(help="cpu, or gpu: inference on one NVIDIA GPU.")] = Variant.CPU,
    settings: SettingsOption = None,
    accelerator: Annotated[
        str, typer.Option(help="Resource of a node that inference asks for, such as nvidia.com/gpu.")
    ] = "",
    accelerator_count: Annotated[
        int, typer.Option(help="How many of them; 1 where this is not given.", show_default=False)
    ] = 0,
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
    namespace: Annotated[str, typer.Option(help="Of the Kubernetes resources; needs their format.")] = "",
) -> None:
    """Writes the pipeline package that the Kubeflow UI and the kfp SDK take, with a site's settings in it.

    Options win over the settings file, which wins over the variant (the page docs/cluster/install.md of the project).

    Examples:
        clipseg-kfp compile

        clipseg-kfp compile one-shot-segmentation --image registry.example/clipseg-kfp@sha256:… -o pipeline.yaml

        clipseg-kfp compile --variant gpu --settings cluster.yaml --node-selector segment_images:pool=gpu

        clipseg-kfp compile --variant gpu --image registry.example/cpu:0.1.0 --gpu-image registry.example/gpu:0.1.0

        clipseg-kfp compile --settings cluster.yaml --format kubernetes --namespace team
    """
    from clipseg_kfp.site.compile import compile_manifests, compile_pipeline, site_settings
    from clipseg_kfp.site.settings import overlaid

    if namespace and format is Format.KFP:
        raise ParameterError(
            "A package to upload has no namespace.",
            "Leave out --namespace, or add --format kubernetes; 'clipseg-kfp upload' takes a namespace.",
            code="namespace_unused",
            where="namespace",
        )
    said: dict[str, Any] = {
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
    wanted = site_settings(variant, settings, said, image=image, gpu_image=gpu_image)
    if format is Format.KUBERNETES:
        text = compile_manifests(pipeline, settings=wanted, namespace=namespace or None)
        then = "Commit it, or apply it with kubectl."
    else:
        text = compile_pipeline(pipeline, settings=wanted)
        then = "Upload it in the Kubeflow UI under Pipelines."
    path = output or Path(f"{pipeline}.gpu.yaml" if variant is Variant.GPU else f"{pipeline}.yaml")
    path.write_text(text, "utf-8")
    warn_of_images(wanted.images())
    print(f"Wrote {path}. {then}")


def _for_task(word: str, name: str, parse: Any) -> dict[str, Any]:
    """A setting of all tasks, or of the one that is named before a colon."""
    from clipseg_kfp.site.settings import TASKS

    task, colon, rest = word.partition(":")
    if colon and task in TASKS:
        return {"tasks": {task: {name: parse(rest)}}}
    return {name: parse(word)}


def _label(word: str) -> dict[str, str]:
    key, equals, value = word.partition("=")
    if not key or not equals:
        raise ParameterError(
            f"--node-selector '{word}' is not of the form label=value.",
            "Write --node-selector pool=gpu, for example.",
            code="node_selector_form",
            where=word,
        )
    return {key: value}


def _toleration(word: str) -> list[dict[str, str]]:
    taint, _, effect = word.partition(":")
    key, equals, value = taint.partition("=")
    if not key:
        raise ParameterError(
            f"--toleration '{word}' is not of the form key[=value][:effect].",
            "Write --toleration nvidia.com/gpu:NoSchedule, for example.",
            code="toleration_form",
            where=word,
        )
    made = {"key": key, "operator": "Equal" if equals else "Exists"}
    return [{**made, **({"value": value} if value else {}), **({"effect": effect} if effect else {})}]
