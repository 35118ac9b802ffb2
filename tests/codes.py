"""Expecting errors by their code, never by their wording."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from clipseg_kfp.errors import ClipsegKfpError


@contextmanager
def fails(code: str, *, where: str | None = None) -> Iterator[pytest.ExceptionInfo[ClipsegKfpError]]:
    """Passes if the block raises our error with this code (and place), and a remedy.

    Yields:
        what pytest caught, to look at further.
    """
    with pytest.raises(ClipsegKfpError) as caught:
        yield caught
    assert caught.value.code == code, f"{caught.value.code}: {caught.value}"
    assert caught.value.remedy, f"no remedy: {caught.value}"
    if where is not None:
        assert caught.value.where == where
