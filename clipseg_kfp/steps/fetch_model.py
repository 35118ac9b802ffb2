"""Brings a checkpoint into an artifact."""

from __future__ import annotations

from pathlib import Path

from clipseg_kfp.engine.checkpoint import FetchedModel, fetch, read_facts
from clipseg_kfp.naming import redacted
from clipseg_kfp.runtime.progress import say
from clipseg_kfp.steps.handover import Handover
from clipseg_kfp.steps.timing import timed

STEP = "fetch_model"


@timed(STEP)
def run(*, model_uri: str, model: Path, endpoint: str = "") -> FetchedModel:
    """Fetches and checks a checkpoint.

    Args:
        model_uri: ``hf://org/name@revision``, ``s3://bucket/prefix`` or a folder.
        model: folder to fill.
        endpoint: S3 endpoint URL.

    Returns:
        Where it came from and its digest.

    Raises:
        ModelError: it is missing, unsafe or not a CLIPSeg.
    """
    fetched = fetch(model_uri, model, endpoint)
    facts = read_facts(model)
    for name in fetched.left_out:
        say(STEP, f"left out {name}: loading it could run code")
    if model_uri.startswith("hf://") and "@" not in model_uri:
        say(STEP, f"{model_uri} is not pinned; {model_uri}@{fetched.revision} always gives this model")
    say(STEP, f"{model_uri}: {facts.image_size} px, digest {fetched.digest}, revision {fetched.revision}")
    return fetched


def handover(model: FetchedModel) -> Handover:
    """Where the model came from, for the UI."""
    about = {"source": redacted(model.uri), "revision": model.revision, "digest": model.digest}
    return Handover(metadata={"model": about})
