"""Starts runs one after the other until nothing of a bucket is left."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Any

from clipseg_kfp.client.outputs import results
from clipseg_kfp.client.packages import spec_of
from clipseg_kfp.client.parameters import declared
from clipseg_kfp.client.stores import open_place
from clipseg_kfp.errors import ParameterError, StorageError
from clipseg_kfp.results.commit import configurations
from clipseg_kfp.results.repeating import Rest

if TYPE_CHECKING:
    from clipseg_kfp.client.client import Client
    from clipseg_kfp.client.runs import Run


@dataclass(frozen=True)
class Round:
    """A run that succeeded, among several over one source.

    Attributes:
        run: the run.
        counts: of its images, from its manifest.
        left: images that are left for other runs; 0 after the last.
    """

    run: Run
    counts: dict[str, int]
    left: int


def until_done(
    client: Client,
    version: Any,
    parameters: Mapping[str, Any],
    wait: Callable[[Run], Any],
    *,
    endpoint: str = "",
    name: str = "",
    **options: str,
) -> Iterator[Round]:
    """Starts runs until nothing is left; each is waited for before the next one begins.

    Args:
        client: of the backend.
        version: of the pipeline, as ``Client.version`` returned it.
        parameters: by name; the others keep their defaults.
        wait: returns when a run has succeeded, and raises where it has not.
        endpoint: URL of the S3 endpoint as seen from here; empty takes ``S3_ENDPOINT``.
        name: of the runs; those behind the first get a number.
        options: as for ``Client.run_version``.

    Yields:
        Every run that succeeded.

    Raises:
        ParameterError: ``run_id`` is set; or as for the next.
        StorageError: the results cannot be read from here, and only they tell what is left. Where that shows at once,
            nothing was started.
        NotFoundError: a run that succeeded has committed nothing.
        NoProgressError: images are left, and the last run did none.
    """
    whole = {known: one.default for known, one in declared(spec_of(version)).items()} | dict(parameters)
    _check(whole, endpoint)
    rest = Rest(bool(whole.get("full")))
    for number in count(1):
        title = f"{name} {number}" if name and number > 1 else name
        run = client.run_version(version, parameters, name=title, **options)
        run.endpoint = endpoint
        wait(run)
        counts = dict(results(run, endpoint).manifest["counts"])
        left = rest.after(counts)
        yield Round(run, counts, left)
        if not left:
            return


def _check(parameters: Mapping[str, Any], endpoint: str) -> None:
    if parameters.get("run_id"):
        raise ParameterError(
            f"run_id is '{parameters['run_id']}', and runs until nothing is left need a name each.",
            "Leave run_id empty: every run is named by its ID.",
        )
    output = str(parameters.get("output_uri") or "")
    if not output:
        raise ParameterError("The pipeline has no parameter output_uri: it is none of this project.")
    try:
        configurations(open_place(parameters, output, endpoint))
    except (StorageError, ParameterError) as error:
        raise type(error)(
            f"How many images a run leaves is told by its results, which cannot be read from here: {error.message}",
            f"{error.remedy} Nothing was started; without --until-done, start a run and then the next.".strip(),
        ) from error
