"""How long each step took: measured here, once, for the log, the report and the local run's summary.

A step leaves its seconds, and those of the steps before it, in its own artifact. So publish_results gets them from
wherever a step ran; for a cached shard it gets the seconds of the run that computed it. fetch_model leaves none,
because a model's digest covers all files of its folder, and neither does publish_results, because it writes its
report before it ends.
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
from clipseg_kfp.runtime.events import tell

FILE = "seconds.json"

P = ParamSpec("P")
T = TypeVar("T")


def timed(step: str, output: str = "", *upstream: str) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Makes a step record its seconds: in its log, for the parent of a local run, and in its output folder.

    Under ``SOURCE_DATE_EPOCH`` the folder gets none: such runs are to be the same byte for byte.

    Args:
        step: its name.
        output: the parameter that names its output folder; empty leaves none there.
        upstream: the parameters that name folders of earlier steps whose seconds go along.
    """

    def decorate(run: Callable[P, T]) -> Callable[P, T]:
        @functools.wraps(run)
        def measure(*args: P.args, **kwargs: P.kwargs) -> T:
            start = time.monotonic()
            result = run(*args, **kwargs)
            seconds = round(time.monotonic() - start, 2)
            print(f"[{step}] took {seconds:.1f} s", flush=True)
            tell("time", step=step, seconds=seconds)
            if output and not os.environ.get("SOURCE_DATE_EPOCH"):
                total = {**summed(cast("Path", kwargs[name]) for name in upstream), step: seconds}
                (cast("Path", kwargs[output]) / FILE).write_bytes(json_bytes(total))
            return result

        return measure

    return decorate


def summed(folders: Iterable[Path]) -> dict[str, float]:
    """Adds up the seconds that steps left in these folders, by step."""
    total: dict[str, float] = {}
    for folder in folders:
        if (folder / FILE).exists():
            for step, seconds in json.loads((folder / FILE).read_text("utf-8")).items():
                total[step] = round(total.get(step, 0.0) + seconds, 2)
    return total
