"""What a Kubeflow backend accepts of an executor's output file, seen on version 2.17 and kept apart from our own gate.

The launcher reads the file after the task's work. kfp's local runner takes anything, so tests let it look here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

MOST_BYTES = 4_000_000  # of a message to the metadata store


def refusals(text: str) -> list[str]:
    """Where the launcher, or the store behind it, would refuse an executor's output; empty where it takes all.

    Args:
        text: of the file.
    """
    try:
        value = json.loads(text, parse_constant=_no_number)
        text.encode()
    except ValueError as error:  # NaN and infinity are no JSON, and the launcher is strict
        return [str(error)]
    if len(text.encode()) > MOST_BYTES:
        return [f"{len(text):,} bytes"]
    found = list(_refused(value.get("parameterValues", {}), "parameterValues"))
    for name, listed in value.get("artifacts", {}).items():
        for artifact in listed["artifacts"]:
            found += _refused(artifact.get("metadata") or {}, name)
    return found


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _refused(value: Any, where: str) -> Iterator[str]:
    if value is None:
        yield where  # unknown/unsupported value type *structpb.Value_NullValue
    elif isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            yield where
    elif isinstance(value, Mapping):
        for key, one in value.items():
            yield from _refused(one, f"{where}.{key}")
    elif isinstance(value, list):
        for i, one in enumerate(value):
            yield from _refused(one, f"{where}[{i}]")


class HandedOver:
    """The executors' output files of local runs, each checked as it is read.

    Attributes:
        tasks: what each task handed over, by the name of its component, in order.
    """

    def __init__(self) -> None:
        self.tasks: list[tuple[str, dict[str, Any]]] = []

    def look_at(self, path: str) -> None:
        """Checks one file; called in place of the backend's launcher.

        Raises:
            RuntimeError: what a failed task ends with.
        """
        if not Path(path).is_file():
            return
        text = Path(path).read_text("utf-8")
        refused = refusals(text)
        component = Path(path).parent.name
        if refused:
            raise RuntimeError(f"a Kubeflow backend refuses what {component} hands over: {refused}")
        self.tasks.append((component, json.loads(text)))
