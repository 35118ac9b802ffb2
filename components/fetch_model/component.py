"""KFP interface of fetch_model."""

from kfp import dsl

from clipseg_kfp.components.decorator import component


@component
def fetch_model(model_uri: str, model: dsl.Output[dsl.Model], endpoint: str = ""):
    """Fetches a CLIPSeg checkpoint: safetensors only, with its digest recorded.

    Args:
        model_uri: hf://org/name@revision, s3://bucket/prefix, or a folder.
        endpoint: URL of the S3 endpoint; empty takes S3_ENDPOINT from the environment.
        model: The checkpoint folder. Its metadata hold uri, revision and digest.
    """
    from clipseg_kfp.steps.running import run_step

    return run_step("fetch_model", locals())
