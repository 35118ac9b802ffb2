"""The parameters that all pipelines share, declared once."""

import inspect
from collections.abc import Callable
from typing import Any

from docstring_parser import parse

from clipseg_kfp.options import GroundTruth, Inference, Limits, Outputs, Views
from clipseg_kfp.pipelines.settings import CLUSTER_ENDPOINT, DEFAULT_MODEL, INFERENCE_MEMORY, STORAGE_SECRET


def _shared(
    source_uri: str,
    output_uri: str,
    model_uri: str = DEFAULT_MODEL,
    views: dict = Views.defaults(),  # noqa: B008 - KFP copies defaults
    inference: dict = Inference.defaults(),  # noqa: B008
    outputs: dict = Outputs.defaults(),  # noqa: B008
    limits: dict = Limits.defaults(),  # noqa: B008
    ground_truth: dict = GroundTruth.defaults(),  # noqa: B008
    endpoint: str = CLUSTER_ENDPOINT,
    storage_secret: str = STORAGE_SECRET,
    inference_memory: str = INFERENCE_MEMORY,
) -> None:
    """Declares them; never runs.

    Args:
        source_uri: Images: s3://bucket/prefix, a manifest (CSV, JSONL, Parquet with a column uri), or a zip
            or tar archive. Pictures in masks/<prompt>/ beside images/ are taken as ground truth.
        output_uri: Where masks, tables and reports go: s3://bucket/prefix.
        model_uri: Checkpoint, safetensors only: hf://org/name@revision (pin it), or s3://bucket/prefix.
        views: How the model looks at images: tiles, mirror images.
        inference: How the model is computed: backend, device, precision, batches.
        outputs: What is written besides masks and tables: label maps, overlays, probabilities, formats.
        limits: What a run takes and refuses: images per shard, the most images, sizes.
        ground_truth: Where things really are, to measure masks with.
        endpoint: URL of the S3 endpoint. Empty takes S3_ENDPOINT from the pods' environment, else AWS.
        storage_secret: Kubernetes secret with the keys accesskey and secretkey for the store.
        inference_memory: Memory limit of segment_images, such as 4G or 12Gi; 2G or more.
    """


def with_shared(function: Callable[..., Any]) -> Callable[..., Any]:
    """Gives a pipeline function the shared parameters besides its own, descriptions included.

    What it declares itself takes the place of a shared parameter of that name.

    Args:
        function: takes its own parameters, and the shared ones as ``**shared``.
    """
    own = inspect.signature(function)
    mine = [one for one in own.parameters.values() if one.kind is not inspect.Parameter.VAR_KEYWORD]
    names = {one.name for one in mine}
    shared = inspect.signature(_shared, eval_str=True).parameters.values()
    common = [one for one in shared if one.name not in names]
    required = [one for one in (*common, *mine) if one.default is inspect.Parameter.empty]
    optional = [one for one in (*mine, *common) if one.default is not inspect.Parameter.empty]
    signature = own.replace(parameters=[*required, *optional])

    def pipeline(*arguments: Any, **named: Any) -> Any:
        return function(**signature.bind(*arguments, **named).arguments)

    pipeline.__name__, pipeline.__qualname__ = function.__name__, function.__qualname__
    pipeline.__module__ = function.__module__
    pipeline.__signature__ = signature  # type: ignore[attr-defined]
    pipeline.__doc__ = _described(function, list(signature.parameters))
    return pipeline


def _described(function: Callable[..., Any], names: list[str]) -> str:
    """The function's docstring with the descriptions of all its parameters."""
    doc, shared = (parse(inspect.getdoc(one) or "") for one in (function, _shared))
    said = {one.arg_name: one.description for one in (*shared.params, *doc.params)}
    lines = [doc.short_description or "", ""]
    if doc.long_description:
        lines += [doc.long_description, ""]
    lines += ["Args:", *(f"    {name}: {' '.join((said[name] or '').split())}" for name in names)]
    if doc.returns:
        lines += ["", "Returns:", f"    {doc.returns.description}"]
    return "\n".join(lines)
