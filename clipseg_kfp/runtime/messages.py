"""Reads the messages of workers as data: an ordinary pickle could run code."""

from __future__ import annotations

import io
import pickle
import sys
from typing import Any

#: What messages may hold besides plain values and exceptions. NumPy's arrays are not safe to unpickle.
_ALLOWED = ("clipseg_kfp.views.prepare", "Prepared")


class BadMessageError(Exception):
    """A message that no sound worker sends."""


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        known = getattr(sys.modules.get(module), name, None)  # nothing is imported because a message says so
        if (module, name) == _ALLOWED or (isinstance(known, type) and issubclass(known, Exception)):
            return known
        raise BadMessageError(f"it wants {module}.{name}")


def parse_result(data: bytes) -> tuple[bool, Any]:
    """Reads whether a task succeeded, and its value or exception: plain values or ``views.prepare.Prepared``.

    Raises:
        BadMessageError: it is something else, or not a pickle.
    """
    result = parse_message(data)
    if isinstance(result, tuple) and len(result) == 2:
        done, value = result
        if done is True or (done is False and isinstance(value, Exception)):
            return done, value
    raise BadMessageError("it has neither a value nor an error")


def parse_message(data: bytes) -> Any:
    """Reads any message; raises as ``parse_result`` does."""
    try:
        return _Reader(io.BytesIO(data)).load()
    except BadMessageError:
        raise
    except Exception as error:  # damaged pickles raise all kinds of errors
        raise BadMessageError(f"it cannot be read: {error}") from error
