"""Takes the fixtures of this folder, and the chain of steps, into its tests."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "steps"))  # steps_chain

from security_store import guarded, least, marked_run, recorder, tiny_checkpoint

__all__ = ["guarded", "least", "marked_run", "recorder", "tiny_checkpoint"]
