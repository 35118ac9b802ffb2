"""What a component calls: its step, with paths in place of artifacts, and the gate for what goes back to Kubeflow."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from kfp import dsl

from clipseg_kfp.errors import StorageError, exit_on_user_error
from clipseg_kfp.runtime.progress import say
from clipseg_kfp.steps.handover import Handover


def run_step(name: str, arguments: Mapping[str, Any]) -> Any:
    """Runs a component's step and hands over what came out.

    Args:
        name: of the component, and of its module in ``clipseg_kfp.steps``.
        arguments: the component's ``locals()``: parameters, artifacts, lists of artifacts, and this function.
            Artifacts of metrics have no content, only metadata: a step is not handed their path.

    Returns:
        The component's return value; ``None`` where it has none.

    Raises:
        SystemExit: with status 1, after an error that a user can mend.
    """
    given = {key: value for key, value in arguments.items() if value is not run_step}
    with running(name):
        step = import_module(f"clipseg_kfp.steps.{name}")
        found = step.run(**{key: _local(value) for key, value in given.items() if not _is_metrics(value)})
        handed: Handover = step.handover(found)
        for artifact, metadata in {**handed.metadata, **handed.metrics}.items():
            given[artifact].metadata.update(metadata)
    return handed.output


def _local(value: Any) -> Any:
    """The path of an artifact, those of a list of them, and any other value as it is."""
    if isinstance(value, dsl.Artifact):
        return Path(value.path)
    if isinstance(value, list):
        return [_local(one) for one in value]
    return value


def _is_metrics(value: Any) -> bool:
    return isinstance(value, dsl.Metrics | dsl.ClassificationMetrics)


@contextmanager
def running(step: str) -> Iterator[None]:
    """Says how long a step took; a user's mistake, a full disk or a missing permission ends it without a traceback.

    Args:
        step: its name.

    Raises:
        SystemExit: with status 1, in place of such an error.
    """
    start = time.monotonic()
    with exit_on_user_error(step):
        try:
            yield
        except OSError as error:  # of a step's own files: stores report theirs as StorageError
            if error.strerror is None or (error.filename is None and error.errno != errno.ENOSPC):
                raise
            named = "A file of this step" if error.filename is None else os.fsdecode(error.filename)
            raise StorageError(
                f"{named}: {error.strerror}.",
                "Check the permissions and the free space of the folder for intermediate files.",
            ) from error
    say(step, f"took {time.monotonic() - start:.1f} s")
