"""Values as Kubernetes takes them, checked before a package is made: a pod that is refused shows much later."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, StringConstraints

_DNS = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*"
_WORD = r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
_PART = r"[a-z0-9]+((\.|_{1,2}|-+)[a-z0-9]+)*"
_UNITS = ("", "K", "M", "G", "T", "P", "E")


def _matching(pattern: str, words: str) -> AfterValidator:
    """Checks a text against a pattern; ``words`` say what it fails to be."""
    wanted = re.compile(pattern)

    def check(text: str) -> str:
        if not wanted.fullmatch(text):
            raise ValueError(f"{text!r} is {words}")
        return text

    return AfterValidator(check)


Image = Annotated[
    str,
    _matching(
        rf"(([A-Za-z0-9.-]+|\[[0-9a-fA-F:]+\])(:\d+)?/)?{_PART}(/{_PART})*"
        r"(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(@sha256:[0-9a-f]{64})?",
        "no image reference such as registry/name:tag or registry/name@sha256:…, in lower case",
    ),
]
Name = Annotated[
    str,
    StringConstraints(max_length=253),
    _matching(_DNS, "no name of a Kubernetes object: lower-case letters, digits, '-' and '.'"),
]
Cpu = Annotated[
    str, _matching(r"(?=.*[1-9])(\d+(\.\d+)?|\d+m)", "no number of CPUs such as 2 or 500m, above 0")
]
#: Without decimals and ``K``: kfp refuses the ones, Kubernetes the other.
_SIZE = r"[1-9]\d*([EPTGM]i?|Ki)?"
Bytes = Annotated[str, _matching(_SIZE, "no size such as 4Gi or 1536Mi, in whole units")]
LabelKey = Annotated[
    str,
    _matching(
        rf"({_DNS}/)?{_WORD}", "no label key: [domain/]name of at most 63 letters, digits, '-', '_' and '.'"
    ),
]
LabelValue = Annotated[
    str,
    _matching(rf"({_WORD})?", "no label value: at most 63 letters, digits, '-', '_' and '.'"),
]
_RESOURCE = rf"{_DNS}/{_WORD}"
Resource = Annotated[str, _matching(_RESOURCE, "no resource of a node, such as nvidia.com/gpu")]
SecretKey = Annotated[str, _matching(r"[-._a-zA-Z0-9]{1,253}", "no key of a secret")]
Variable = Annotated[str, _matching(r"[A-Za-z_][A-Za-z0-9_]*", "no name of an environment variable")]


def is_namespace(text: str) -> bool:
    """Whether a namespace can have this name."""
    return bool(re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", text))


def is_size(text: str) -> bool:
    """Whether this is a size of memory."""
    return bool(re.fullmatch(_SIZE, text))


def cores(quantity: str) -> float:
    """CPUs of a quantity, such as ``2``, ``0.5`` or ``250m``."""
    return float(quantity[:-1]) / 1000 if quantity.endswith("m") else float(quantity)


def size(quantity: str) -> int:
    """Bytes of a quantity, such as ``4Gi`` or ``2G``."""
    unit = quantity.lstrip("0123456789")
    base = 1024 if unit.endswith("i") else 1000
    factor: int = base ** _UNITS.index(unit.removesuffix("i"))
    return int(quantity.removesuffix(unit)) * factor
