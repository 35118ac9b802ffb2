"""What a run left behind: the committed results in its bucket, and the artifacts that the API names.

The v2beta1 API has a place for the artifacts of tasks but gives IDs at most, and most backends leave it empty
(kubeflow/pipelines issue 9858). The project's own manifest in the bucket says more: every file, its size and its
digest.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from clipseg_kfp.client.errors import NotFoundError
from clipseg_kfp.client.nodes import details_of
from clipseg_kfp.client.stores import open_from_here, place_of
from clipseg_kfp.results import MANIFEST
from clipseg_kfp.results.commit import configurations
from clipseg_kfp.results.layout import run_key
from clipseg_kfp.results.summary import RunSummary, read_run

if TYPE_CHECKING:
    from clipseg_kfp.client.runs import Run


@dataclass(frozen=True)
class Artifact:
    """Something that a run made.

    Attributes:
        task: which task of the pipeline made it; empty for files of the committed results.
        name: of the output or file.
        uri: where it lies, or ``artifact ID`` where the API gives no more.
        bytes: its size, where it is known.
        sha256: its digest, where it is known.
    """

    task: str
    name: str
    uri: str
    bytes: int | None = None
    sha256: str = ""


def artifacts(run: Run, endpoint: str = "") -> list[Artifact]:
    """Lists what a run made; see :meth:`clipseg_kfp.client.runs.Run.artifacts`.

    Raises:
        StorageError: the bucket cannot be read, and the API names nothing either.
        NotFoundError: likewise, where the run has committed nothing.
    """
    from clipseg_kfp.errors import ClipsegKfpError

    named = list(_named(run))
    try:
        found = results(run, endpoint)
    except ClipsegKfpError:
        if named:
            return named
        raise
    folder = found.uri.rpartition("/")[0]
    files = [
        Artifact("", file["name"], f"{folder}/{file['name']}", file.get("bytes"), file.get("sha256", ""))
        for file in found.manifest["files"]
    ]
    place = found.uri.rpartition("/runs/")[0]
    return [*named, Artifact("", "masks", f"{place}/masks/"), *files, Artifact("", MANIFEST, found.uri)]


def metrics(run: Run, endpoint: str = "") -> dict[str, Any]:
    """The content of ``metrics.json``; see :meth:`clipseg_kfp.client.runs.Run.metrics`."""
    return results(run, endpoint).metrics


def results(run: Run, endpoint: str = "") -> RunSummary:
    """Finds the committed results of a run below its ``output_uri``.

    Args:
        run: the run; its parameters say where its output is.
        endpoint: URL of the S3 endpoint as seen from here. The run's own parameter names the store as pods see it.

    Raises:
        NotFoundError: there are none.
        StorageError: the bucket cannot be read.
    """
    output, own_name = place_of(run)
    if not output:
        raise NotFoundError(
            f"The run '{run.name}' has no parameter output_uri: it is not a run of this project.",
            "Look at it in the UI.",
            code="run_foreign",
            where=run.id,
        )
    folder = open_from_here(run, output, endpoint)
    for config in configurations(folder):
        key = f"{config}/{run_key(own_name, MANIFEST)}"
        if folder.stat(key) is not None:
            return read_run(folder.locate(key), endpoint)
    raise NotFoundError(
        f"No committed results of the run '{own_name}' are below {output}.",
        f"It is {run.state}; results are committed by its last task.",
        code="results_not_found",
        where=output,
    )


def _named(run: Run) -> Iterator[Artifact]:
    for task in details_of(run.data):
        for name, listed in (task.outputs or {}).items():
            for number in listed.artifact_ids or []:
                yield Artifact(task.display_name or "", name, f"artifact {number}")
