"""KFP interface of fetch_model."""

from kfp import dsl

from clipseg_kfp.container import DEFAULT_IMAGE


@dsl.component(base_image=DEFAULT_IMAGE, install_kfp_package=False)
def fetch_model(model_uri: str, model: dsl.Output[dsl.Model], endpoint: str = ""):
    """Fetches a CLIPSeg checkpoint: safetensors only, with its digest recorded.

    Args:
        model_uri: hf://org/name@revision, s3://bucket/prefix, or a folder.
        endpoint: URL of the S3 endpoint; empty takes S3_ENDPOINT from the environment.
        model: The checkpoint folder. Its metadata hold uri, revision and digest.
    """
    from pathlib import Path

    from clipseg_kfp.steps import fetch_model as step
    from clipseg_kfp.steps import running

    with running(step.STEP):
        fetched = step.run(model_uri=model_uri, target=Path(model.path), endpoint=endpoint)
        model.metadata.update({"source": fetched.uri, "revision": fetched.revision, "digest": fetched.digest})
