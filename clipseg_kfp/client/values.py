"""What the first steps of this project's pipelines would refuse, said before a run is sent to a cluster.

Nothing is read: neither the bucket nor the Hub need to be reachable from where the client is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from clipseg_kfp.client.packages import spec_of
from clipseg_kfp.client.parameters import check, declared
from clipseg_kfp.errors import ParameterError
from clipseg_kfp.site.kubernetes import is_resource, is_size, size

#: Parameters that name a place in a bucket, and whether they may be empty.
PLACES = {
    "source_uri": False,
    "output_uri": False,
    "model_uri": False,
    "support_uri": True,
    "prompts_uri": True,
    "ground_truth_uri": True,
}


def checked_values(version: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """Checks the parameters of a run against what a version declares and, where it is ours, what its steps take.

    Args:
        version: ``V2beta1PipelineVersion``.
        given: values by name.

    Raises:
        ParameterError: names the parameter, and what would do.
    """
    from clipseg_kfp.site.compile import pipeline_names

    spec = spec_of(version)
    parameters = declared(spec)
    values = check(parameters, given)
    if spec.get("pipelineInfo", {}).get("name") in pipeline_names():
        defaults = {name: one.default for name, one in parameters.items() if not one.required}
        whole = {**defaults, **values}
        _check(values, whole)
        _check_memory(whole.get("inference_memory", ""), spec)
    return values


def _check(given: Mapping[str, Any], whole: Mapping[str, Any]) -> None:
    """``given`` is what the user says, ``whole`` with the defaults of the rest."""
    from clipseg_kfp.local.parameters import check_values
    from clipseg_kfp.prompts import parse_prompts

    check_values(dict(given))
    for name, may_be_empty in PLACES.items():
        if name in whole:
            _check_place(name, str(whole[name] or ""), may_be_empty)
    for name, one in (whole.get("prompt_sets") or {}).items():
        if isinstance(one, str):
            _check_place(f"prompt_sets: {name}", one, may_be_empty=False)
        else:
            parse_prompts(one, f"prompt_sets: {name}")
    if "prompt_sets" in whole and not whole["prompt_sets"]:
        raise ParameterError("prompt_sets is empty.", 'Give at least one set, as {"plain": ["a cat"]}.')
    if (
        "prompts" in whole
        and not whole.get("prompts_uri")
        and (whole["prompts"] or not whole.get("support_uri"))
    ):
        parse_prompts(whole["prompts"])
    if not is_size(whole.get("inference_memory", "4G")):
        raise ParameterError(
            f"inference_memory is '{whole['inference_memory']}'.", "Give a size such as 4G or 12Gi."
        )
    device = whole.get("accelerator_type", "")
    if device and not is_resource(device):
        raise ParameterError(
            f"accelerator_type is '{device}'.",
            "Give a resource of the nodes, such as nvidia.com/gpu, or none.",
        )
    if not re.fullmatch(r"[1-9]\d{0,3}", whole.get("accelerator_count", "1")):
        raise ParameterError(
            f"accelerator_count is '{whole['accelerator_count']}'.", "Give a whole number, 1 or more."
        )


def _check_memory(limit: str, spec: Mapping[str, Any]) -> None:
    """A limit below what the task asks for makes a pod that Kubernetes refuses."""
    for executor in spec.get("deploymentSpec", {}).get("executors", {}).values():
        resources = executor.get("container", {}).get("resources", {})
        request = str(resources.get("resourceMemoryRequest", ""))
        if "inference_memory" not in str(resources.get("resourceMemoryLimit", "")) or not is_size(request):
            continue
        if size(limit) < size(request):
            raise ParameterError(
                f"inference_memory is '{limit}', and inference asks for {request}.",
                f"Give {request} or more, or lower memory_request in the settings.",
            )


def _check_place(name: str, uri: str, may_be_empty: bool) -> None:
    if not uri and may_be_empty:
        return
    # A model may lie in the image, or on a volume that the settings mount.
    forms = (r"s3://[^/]", r"hf://[^/]", "file:///") if name == "model_uri" else (r"s3://[^/]",)
    if not any(re.match(form, uri) for form in forms):
        known = "s3://bucket/prefix" + (
            ", hf://org/name@revision or file:///path-in-the-pod" * (len(forms) > 1)
        )
        raise ParameterError(f"{name} is '{uri}', which pods do not see.", f"Give {known}.")
