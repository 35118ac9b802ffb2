"""Reads what workers answer without running anything that they choose: pickles could."""

from __future__ import annotations

import io
import pickle
import sys
from typing import Any

#: What answers may hold besides plain values and exceptions. NumPy's arrays are not safe to unpickle.
_ALLOWED = ("clipseg_kfp.views.prepare", "Prepared")


class BadAnswerError(Exception):
    """An answer that no decoder gives."""


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        found = getattr(sys.modules.get(module), name, None)  # nothing is imported because an answer says so
        if (module, name) == _ALLOWED or (isinstance(found, type) and issubclass(found, Exception)):
            return found
        raise BadAnswerError(f"it wants {module}.{name}")


def parse_answer(data: bytes) -> tuple[bool, Any]:
    """Reads whether a task ended well, and its value or exception: plain values or ``views.prepare.Prepared``.

    Raises:
        BadAnswerError: it is something else, or no pickle.
    """
    answer = parse_word(data)
    if isinstance(answer, tuple) and len(answer) == 2:
        done, value = answer
        if done is True or (done is False and isinstance(value, Exception)):
            return done, value
    raise BadAnswerError("it tells neither a value nor an error")


def parse_word(data: bytes) -> Any:
    """Reads what is no answer yet; raises as ``parse_answer`` does."""
    try:
        return _Reader(io.BytesIO(data)).load()
    except BadAnswerError:
        raise
    except Exception as error:  # pickle raises whatever its input makes it stumble over
        raise BadAnswerError(f"it cannot be read: {error}") from error
