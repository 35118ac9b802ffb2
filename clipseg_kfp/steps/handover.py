"""What a step hands to Kubeflow; all of it is checked here.

The launcher reads metadata after a step's work: one value that it cannot store fails the task, and the work is lost.
kfp's local runner takes anything. So the values are checked where they are put together.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from clipseg_kfp.errors import ClipsegKfpError

Value = str | bool | int | float | list["Value"] | dict[str, "Value"]

#: Bytes as JSON. Metadata of an artifact are repeated in every task that reads it, and in several nodes of each,
#: of which one Kubernetes object holds all; metrics are read by no task. An output is a path at most.
MAX_METADATA, MAX_METRICS, MAX_OUTPUT = 2_000, 32_000, 8_000
MAX_NAME = 300
MAX_INTEGER = 2**53  # the launcher reads numbers as float64


class HandoverError(ClipsegKfpError):
    """A value that Kubeflow would refuse: a bug of the step."""


@dataclass(frozen=True)
class Handover:
    """What goes to Kubeflow; checked when it is made.

    A step that commits something makes it before the commit.

    Attributes:
        metadata: of artifacts that other tasks read, by the output's name: a few short values.
        metrics: of artifacts that only the UI shows, by the output's name.
        output: the component's return value.

    Raises:
        HandoverError: a value that is no string, boolean, finite number, or list or map of such, or too much of it;
            names where it is.
    """

    metadata: Mapping[str, Mapping[str, Value]] = field(default_factory=dict)
    metrics: Mapping[str, Mapping[str, Value]] = field(default_factory=dict)
    output: Value | None = None

    def __post_init__(self) -> None:
        for name, limit in (("metadata", MAX_METADATA), ("metrics", MAX_METRICS)):
            checked = {
                artifact: _bounded(value, f"{name} of '{artifact}'", limit)
                for artifact, value in getattr(self, name).items()
            }
            object.__setattr__(self, name, checked)
        if self.output is not None:
            object.__setattr__(self, "output", _bounded(self.output, "the output", MAX_OUTPUT))


def classification(
    roc: tuple[Sequence[float], Sequence[float], Sequence[float]],
    labels: Sequence[str],
    confusion: Sequence[Sequence[int]],
) -> dict[str, Value]:
    """What an artifact of ``ClassificationMetrics`` holds.

    Args:
        roc: false positive rates, true positive rates and thresholds.
        labels: of the classes.
        confusion: rows are the truth, columns the prediction.
    """
    from kfp import dsl

    made = dsl.ClassificationMetrics()
    made.log_roc_curve(*map(list, roc))
    made.log_confusion_matrix(list(labels), [list(row) for row in confusion])
    return dict(made.metadata)


def _bounded(value: Any, where: str, limit: int) -> Value:
    plain = _plain(value, where)
    size = len(json.dumps(plain).encode())
    if size > limit:
        raise _refused(where, f"takes {size:,} bytes as JSON; {limit:,} are the most")
    return plain


def _plain(value: Any, where: str) -> Value:
    """The same value in plain types; numpy's scalars lose nothing by that, so they are let in."""
    if isinstance(value, np.generic):
        value = value.item()
    match value:
        case str():
            return _text(value, where)
        case bool():
            return value
        case int():
            if abs(value) > MAX_INTEGER:
                raise _refused(where, f"is {value}, of which Kubeflow would lose digits")
            return value
        case float():
            if not math.isfinite(value):
                raise _refused(where, f"is {value}")
            return value
        case list() | tuple():
            return [_plain(item, f"{where}[{i}]") for i, item in enumerate(value)]
        case Mapping():
            return {_name(key, where): _plain(item, f"{where}, '{key}',") for key, item in value.items()}
    raise _refused(where, f"is of type {type(value).__name__}")


def _name(key: Any, where: str) -> str:
    if not isinstance(key, str) or not key or len(key) > MAX_NAME:
        raise _refused(
            where, f"has the name {str(key)[:MAX_NAME]!r}, which must be a text of 1 to {MAX_NAME} characters"
        )
    return _text(key, where)


def _text(value: str, where: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise _refused(where, f"is {value!r}, which is not valid Unicode") from None
    return value


def _refused(where: str, problem: str) -> HandoverError:
    return HandoverError(
        f"{where} {problem}: Kubeflow would refuse it.",
        "This is a bug of the step: report it. Its developer leaves the value out, or hands over a text, a finite "
        "number, true or false, or a short list or map of these.",
        code="handover",
        where=where,
    )
