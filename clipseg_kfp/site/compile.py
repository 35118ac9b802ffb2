"""Compiles pipelines into the packages that the Kubeflow UI and the kfp SDK take."""

from __future__ import annotations

import ast
import hashlib
import json
import re
import tempfile
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from clipseg_kfp import __version__
from clipseg_kfp.errors import ParameterError
from clipseg_kfp.site.image import DEFAULT_IMAGE, VARIABLE, chosen_image
from clipseg_kfp.site.kubernetes import is_namespace
from clipseg_kfp.site.settings import INFERENCE, ClusterSettings, checked, overlaid, read_mapping

VARIANTS = ("cpu", "gpu")
_DEFAULT = re.compile(r"^(#    \w+: dict \[Default: )(\{.*\})\]$", re.M)


def pipeline_names() -> list[str]:
    """Names of all pipelines, with dashes as in the UI."""
    from clipseg_kfp.pipelines import ALL

    return [name.replace("_", "-") for name in ALL]


def variant_settings(variant: str) -> dict[str, Any]:
    """What a variant sets, as a settings file would say it.

    Raises:
        ParameterError: there is no such variant.
    """
    if variant == "cpu":
        return {}
    if variant != "gpu":
        raise ParameterError(
            f"There is no variant '{variant}'.",
            f"Choose from: {', '.join(VARIANTS)}.",
            code="no_such_variant",
            where="variant",
        )
    from clipseg_kfp import pipelines

    text = Path(str(pipelines.__file__)).with_name("gpu.settings.yaml").read_text("utf-8")
    content: dict[str, Any] = yaml.safe_load(text.replace("VERSION", __version__))
    return content


def settings_for(
    variant: str = "cpu", settings: dict[str, Any] | None = None, where: str = "settings"
) -> ClusterSettings:
    """Lays a site's settings over those of a variant.

    Args:
        variant: ``cpu`` or ``gpu``.
        settings: as a settings file has them.
        where: named in errors, such as the file.

    Raises:
        ParameterError: an unknown variant or setting, a bad value, or no image of the site's own for the GPU.
    """
    below, own = variant_settings(variant), settings or {}
    merged = checked(overlaid(below, own), where)
    left = merged.of(INFERENCE).image
    if own.get("image") and left and left == below.get("tasks", {}).get(INFERENCE, {}).get("image"):
        raise ParameterError(
            f"{where}: image is named, and {INFERENCE} would still run {left}, which nodes cannot pull.",
            f"Name the image for GPUs: --gpu-image, or tasks.{INFERENCE}.image in the settings.",
            code="gpu_image_missing",
            where=f"tasks.{INFERENCE}.image",
        )
    return merged


def site_settings(
    variant: str = "cpu",
    settings: Mapping[str, Any] | Path | str | None = None,
    options: Mapping[str, Any] | None = None,
    *,
    image: str = "",
    gpu_image: str = "",
) -> ClusterSettings:
    """Lays options over a site's settings, and these over a variant.

    An image that ``CLIPSEG_KFP_IMAGE`` names stands below all of them but the variant.

    Args:
        variant: ``cpu`` or ``gpu``; empty is ``cpu``.
        settings: a site's, or the file that has them.
        options: settings that win over those.
        image: the same, for all components.
        gpu_image: the same, for inference.

    Raises:
        ParameterError: as for ``settings_for``, or a file that cannot be read.
    """
    is_file = isinstance(settings, Path | str)
    content = read_mapping(Path(settings).expanduser()) if is_file else dict(settings or {})  # type: ignore[arg-type]
    above = dict(options or {})
    if image:
        above = overlaid(above, {"image": image})
    if gpu_image:
        above = overlaid(above, {"tasks": {INFERENCE: {"image": gpu_image}}})
    if "cache" in above:  # a claim takes the place of a size, and does not join it
        content = {**content, "cache": {}}
    where = "options" if settings is None else str(settings) if is_file else "settings"
    said = overlaid(content, above)
    if "image" not in said and (named := chosen_image()):
        where = where if said else VARIABLE
        said["image"] = named
    return settings_for(variant or "cpu", said, where)


def compile_pipeline(name: str, image: str = DEFAULT_IMAGE, settings: ClusterSettings | None = None) -> str:
    """Compiles one pipeline.

    Args:
        name: such as ``batch-segmentation``.
        image: container image of all components; a digest (``…@sha256:…``) pins it best. One that
            ``settings`` name wins.
        settings: a site's; none compiles the committed package.

    Returns:
        The package's YAML.

    Raises:
        ParameterError: an unknown pipeline, or no image reference.
    """
    from kfp import compiler

    pipeline, parameters = _traced(name, image, settings)
    return _written(lambda path: compiler.Compiler().compile(pipeline, path, pipeline_parameters=parameters))


def compile_manifests(
    name: str,
    image: str = DEFAULT_IMAGE,
    settings: ClusterSettings | None = None,
    namespace: str | None = None,
) -> str:
    """Compiles one pipeline into Kubernetes resources, for GitOps: a Pipeline and a PipelineVersion.

    A version is named after its content, so that another content never takes an old version's place.

    Args:
        name: such as ``batch-segmentation``.
        image: as for ``compile_pipeline``.
        settings: as for ``compile_pipeline``.
        namespace: of the resources; none leaves it to what applies them.

    Returns:
        The YAML of both.

    Raises:
        ParameterError: as for ``compile_pipeline``, or no name of a namespace.
    """
    from kfp import compiler
    from kfp.compiler.compiler_utils import KubernetesManifestOptions

    if namespace and not is_namespace(namespace):
        raise ParameterError(
            f"--namespace: '{namespace}' is not a name of a namespace.",
            "Use at most 63 lower-case letters, digits and '-'.",
            code="namespace",
            where="namespace",
        )
    digest = hashlib.sha256(compile_pipeline(name, image, settings).encode()).hexdigest()[:12]
    pipeline, parameters = _traced(name, image, settings)
    options = KubernetesManifestOptions(
        pipeline_name=name,
        pipeline_version_name=f"{name}-{digest}",
        pipeline_version_display_name=f"{name} {__version__} ({digest})",
        namespace=namespace,
        include_pipeline_manifest=True,
    )
    return _written(
        lambda path: compiler.Compiler().compile(
            pipeline,
            path,
            pipeline_parameters=parameters,
            kubernetes_manifest_options=options,
            kubernetes_manifest_format=True,
        )
    )


def _traced(name: str, image: str, settings: ClusterSettings | None) -> tuple[Any, dict[str, str]]:
    """The pipeline under these settings, and the defaults of its parameters that they replace."""
    from kfp import dsl

    from clipseg_kfp.pipelines import ALL
    from clipseg_kfp.pipelines.settings import inference_defaults, using

    known = ALL.get(name.replace("-", "_"))
    if known is None:
        raise ParameterError(
            f"There is no pipeline '{name}'.",
            f"Choose from: {', '.join(pipeline_names())}.",
            code="no_such_pipeline",
            where=name,
        )
    settings = settings or ClusterSettings()
    if settings.image is None and image != DEFAULT_IMAGE:
        settings = checked({**settings.model_dump(exclude_none=True), "image": image})
    trace = dsl.pipeline(
        name=known.name,
        description=known.description,
        pipeline_config=dsl.PipelineConfig(
            ttl_seconds_after_finished=settings.keep_seconds, active_deadline_seconds=settings.run_timeout
        ),
    )
    with using(settings), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # kfp says of settings what only its local runner ignores
        pipeline = trace(known.pipeline_func)
    replaced = {"endpoint": settings.endpoint, "storage_secret": settings.storage_secret}
    named = {key: value for key, value in replaced.items() if value is not None}
    return pipeline, {**named, **inference_defaults(settings)}


def _written(write: Callable[[str], None]) -> str:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "pipeline.yaml")
        write(str(path))
        return _DEFAULT.sub(_ordered, path.read_text("utf-8"))


def _ordered(line: re.Match[str]) -> str:
    """The comment with an object's keys in order; kfp writes them in any, so equal packages would differ."""
    return f"{line[1]}{json.dumps(ast.literal_eval(line[2]), sort_keys=True, ensure_ascii=False)}]"
