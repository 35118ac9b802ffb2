"""Expecting errors by their code, never by their wording."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from clipseg_kfp.errors import ClipsegKfpError, OptionsError


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


@contextmanager
def refuses(*problems: tuple[str, str]) -> Iterator[pytest.ExceptionInfo[ClipsegKfpError]]:
    """Passes if the block raises ``OptionsError`` with exactly these problems.

    Args:
        problems: dotted name and code of each, in any order.

    Yields:
        what pytest caught, to look at further.
    """
    with fails(OptionsError.code) as caught:
        yield caught
    assert isinstance(caught.value, OptionsError)
    assert sorted((one.where, one.code) for one in caught.value.problems) == sorted(problems)
