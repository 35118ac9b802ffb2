"""Pipeline packages: what a YAML file declares, and a digest of its content."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from clipseg_kfp import __version__
from clipseg_kfp.errors import ParameterError
from clipseg_kfp.naming import digest

#: The safe loader; libyaml's reads a package in a tenth of the time, where PyYAML was built with it.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True)
class Parameter:
    """A parameter that a pipeline declares.

    Attributes:
        name: of the parameter.
        kind: ``parameterType`` of the pipeline specification, such as NUMBER_INTEGER.
        default: its default value.
        required: there is no default.
        literals: the only values that it takes; empty takes any of its kind.
    """

    name: str
    kind: str
    default: Any
    required: bool
    literals: tuple[Any, ...] = ()


def declared(spec: Mapping[str, Any]) -> dict[str, Parameter]:
    """The parameters of a pipeline specification, by name."""
    found = spec.get("root", {}).get("inputDefinitions", {}).get("parameters", {})
    return {
        name: Parameter(
            name=name,
            kind=item.get("parameterType", "STRING"),
            default=item.get("defaultValue"),
            required="defaultValue" not in item and not item.get("isOptional", False),
            literals=tuple(item.get("literals", ())),
        )
        for name, item in found.items()
    }


@dataclass(frozen=True)
class Package:
    """A compiled pipeline.

    Attributes:
        name: of the pipeline, from the package.
        description: from the package.
        text: the YAML itself.
        digest: 64 hex digits of the content; comments, order and layout do not count.
        parameters: what the pipeline takes, by name.
        images: container images of its components.
    """

    name: str
    description: str
    text: str
    digest: str
    parameters: dict[str, Parameter]
    images: tuple[str, ...]

    @property
    def version_name(self) -> str:
        """The name of the version on the cluster: the same content has the same name."""
        return f"{__version__}-{self.digest[:12]}"


@dataclass(frozen=True)
class Recipe:
    """What a package is compiled with; a name alone takes what a cluster has.

    Attributes:
        image: container image of all components.
        settings: a site's settings, or the file that has them.
        variant: ``cpu`` or ``gpu``; empty says nothing.
        gpu_image: container image of inference.
    """

    image: str = ""
    settings: Mapping[str, Any] | Path | str | None = None
    variant: str = ""
    gpu_image: str = ""

    def __bool__(self) -> bool:
        return bool(self.image or self.gpu_image or self.variant or self.settings is not None)


def open_package(source: str, recipe: Recipe = Recipe()) -> Package:
    """Reads a package file, or compiles one of this project's pipelines.

    Args:
        source: path of a YAML file, or a name such as ``batch-segmentation``.
        recipe: what a name is compiled with.

    Raises:
        ParameterError: no such file or pipeline, no pipeline package, or a bad setting.
    """
    if is_file(source):
        if recipe:
            raise ParameterError(
                f"'{source}' is compiled already: its image, variant and settings cannot be set here.",
                "Compile it again with them, or name a pipeline instead of a file.",
                code="recipe_for_file",
                where=source,
            )
        try:
            return read_package(Path(source).expanduser().read_text("utf-8"), source)
        except FileNotFoundError:
            raise ParameterError(
                f"{source}: there is no such file.",
                "Check its path, or write one with 'clipseg-kfp compile'.",
                code="package_missing",
                where=source,
            ) from None
        except UnicodeDecodeError:
            raise ParameterError(
                f"{source} is not a YAML file.",
                "Give a compiled pipeline package.",
                code="package_invalid",
                where=source,
            ) from None
    from clipseg_kfp.site.compile import compile_pipeline, site_settings

    wanted = site_settings(recipe.variant, recipe.settings, image=recipe.image, gpu_image=recipe.gpu_image)
    return read_package(compile_pipeline(source, settings=wanted), source)


def is_file(source: str) -> bool:
    """Whether a pipeline is named by a file."""
    return source.endswith((".yaml", ".yml")) or "/" in source


def read_package(text: str, where: str) -> Package:
    """Reads a package and checks it against the pipeline specification.

    Args:
        text: YAML of one or two documents.
        where: its name in messages.

    Raises:
        ParameterError: no pipeline package.
    """
    from google.protobuf import json_format
    from kfp.pipeline_spec import pipeline_spec_pb2

    try:
        documents = [document for document in yaml.load_all(text, _LOADER) if document is not None]
        if not documents or not all(isinstance(document, dict) for document in documents):
            raise ValueError("no pipeline specification")
        if "pipelineInfo" not in documents[0]:
            raise ValueError("its first document has no pipelineInfo")
        json_format.ParseDict(documents[0], pipeline_spec_pb2.PipelineSpec())
        for document in documents[1:]:
            json_format.ParseDict(document, pipeline_spec_pb2.PlatformSpec())
    except (yaml.YAMLError, json_format.Error, ValueError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise ParameterError(
            f"{where} is not a pipeline package: {reason[:300]}.",
            "Make one with 'clipseg-kfp compile'.",
            code="package_invalid",
            where=where,
        ) from None
    spec = documents[0]
    return Package(
        name=spec["pipelineInfo"]["name"],
        description=spec["pipelineInfo"].get("description", ""),
        text=text,
        digest=digest(documents, 64),
        parameters=declared(spec),
        images=tuple(images_of(spec)),
    )


def spec_of(version: Any) -> dict[str, Any]:
    """The pipeline specification of a version or run as the API gives it: with or without platform settings."""
    spec: dict[str, Any] = version.pipeline_spec or {}
    inner = spec.get("pipeline_spec")
    return inner if isinstance(inner, dict) else spec


def images_of(spec: Mapping[str, Any]) -> list[str]:
    """The container images of a pipeline specification, each once."""
    executors = spec.get("deploymentSpec", {}).get("executors", {}).values()
    return sorted({one["container"]["image"] for one in executors if "container" in one})


def storage_keys_of(version: Any) -> dict[str, str]:
    """The keys that a version takes from its storage secret, by the variable that each becomes."""
    spec: dict[str, Any] = version.pipeline_spec or {}
    platforms = (spec.get("platform_spec") or {}).get("platforms", {})
    executors = platforms.get("kubernetes", {}).get("deploymentSpec", {}).get("executors", {})
    for executor in executors.values():
        # of all tasks the first; another may have the Hub's token
        for secret in executor.get("secretAsEnv", ())[:1]:
            pairs = secret.get("keyToEnv", ())
            return {str(one["envVar"]): str(one["secretKey"]) for one in pairs}
    return {}
