"""How long each step took, on its way to the report.

A step leaves its seconds, and those of the steps before it, in its own artifact: so publish_results gets them from
wherever a step ran, and of a cached shard it gets those of the time when the shard was computed. fetch_model leaves
none, for a model's digest covers all files of its folder, and publish_results writes its report before it ends.
"""

from __future__ import annotations

import functools
import json
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import ParamSpec, TypeVar, cast

from clipseg_kfp.results import json_bytes

FILE = "seconds.json"

P = ParamSpec("P")
T = TypeVar("T")


def timed(step: str, output: str, *upstream: str) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Makes a step note its seconds in its output folder.

    Under ``SOURCE_DATE_EPOCH`` it does not: such runs are to be the same byte for byte.

    Args:
        step: its name.
        output: the parameter that names its output folder.
        upstream: the parameters that name folders of earlier steps whose seconds go along.
    """

    def around(run: Callable[P, T]) -> Callable[P, T]:
        @functools.wraps(run)
        def running(*args: P.args, **kwargs: P.kwargs) -> T:
            start = time.monotonic()
            found = run(*args, **kwargs)
            if not os.environ.get("SOURCE_DATE_EPOCH"):
                seconds = summed(cast("Path", kwargs[name]) for name in upstream)
                seconds[step] = round(time.monotonic() - start, 2)
                (cast("Path", kwargs[output]) / FILE).write_bytes(json_bytes(seconds))
            return found

        return running

    return around


def summed(folders: Iterable[Path]) -> dict[str, float]:
    """Adds up the seconds that steps left in these folders, by step."""
    total: dict[str, float] = {}
    for folder in folders:
        if (folder / FILE).exists():
            for step, seconds in json.loads((folder / FILE).read_text("utf-8")).items():
                total[step] = round(total.get(step, 0.0) + seconds, 2)
    return total
