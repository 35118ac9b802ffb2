"""Kills a local run, all of its processes, at the end of a step: Python imports this where it is on its path.

The step does it itself, so nobody has to watch its log and be there in time.
"""

import builtins
import os
import signal
from typing import Any

STEP = os.environ.get("CLIPSEG_KFP_TEST_END_AFTER", "")
_print = builtins.print


def _print_and_end(*values: Any, **options: Any) -> None:
    _print(*values, **options)
    if str(values[0] if values else "").startswith(f"[{STEP}] took "):
        os.killpg(os.getpgid(0), signal.SIGKILL)


if STEP:
    builtins.print = _print_and_end
