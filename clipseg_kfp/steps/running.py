"""What a component calls: its step, with paths in place of artifacts, and the gate for what goes back to Kubeflow."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from kfp import dsl

from clipseg_kfp.errors import ClipsegKfpError, StorageError, exit_on_user_error
from clipseg_kfp.naming import shown
from clipseg_kfp.options import GROUPS, read_groups
from clipseg_kfp.runtime.events import tell
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
        plain = {key: _local(value) for key, value in given.items() if not _is_metrics(value)}
        groups = [key for key, value in plain.items() if key in GROUPS and isinstance(value, Mapping)]
        result = step.run(**{**plain, **read_groups(plain, groups)})
        handed: Handover = step.handover(result)
        for artifact, metadata in {**handed.metadata, **handed.metrics}.items():
            given[artifact].metadata.update(metadata)
    return handed.output


def _local(value: Any) -> Any:
    """The path of an artifact, those of a list of them, and any other value as it is."""
    if isinstance(value, dsl.Artifact):
        return Path(value.path)
    if isinstance(value, list):
        return [_local(item) for item in value]
    return value


def _is_metrics(value: Any) -> bool:
    return isinstance(value, dsl.Metrics | dsl.ClassificationMetrics)


@contextmanager
def running(step: str) -> Iterator[None]:
    """Tells the parent of a step's error; one that a user can mend ends the step without a traceback.

    Args:
        step: its name.

    Raises:
        SystemExit: with status 1, in place of an error that a user can mend, a full disk or a missing permission.
    """
    with exit_on_user_error(step):
        try:
            with _own_files():
                yield
        except ClipsegKfpError as error:
            tell("error", step=step, **error.record())
            raise
        except Exception as error:
            tell(
                "error",
                step=step,
                code="unexpected",
                what=shown(f"{type(error).__name__}: {error}"),
                where="",
                remedy="The log has the traceback. If the cause is not on your side, report it with the log.",
            )
            raise


@contextmanager
def _own_files() -> Iterator[None]:
    """Names the file and what helps where a step's own files fail: stores report theirs as ``StorageError``."""
    try:
        yield
    except OSError as error:
        if error.strerror is None or (error.filename is None and error.errno != errno.ENOSPC):
            raise
        path = "" if error.filename is None else os.fsdecode(error.filename)
        raise StorageError(
            f"{path or 'A file of this step'}: {error.strerror}.",
            "Check the permissions and the free space of the folder for intermediate files.",
            code="step_file",
            where=path,
        ) from error
