"""Errors that are a user's to mend: shown as one message, without a traceback."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from clipseg_kfp.naming import printable


class ClipsegKfpError(Exception):
    """Base of all errors with a known remedy.

    Args:
        message: what is wrong, naming the file, key, field or parameter.
        remedy: what to do about it.
    """

    def __init__(self, message: str, remedy: str = "") -> None:
        self.message = message
        self.remedy = remedy
        super().__init__(f"{message} {remedy}".strip())


class ParameterError(ClipsegKfpError):
    """A parameter, prompt or configuration value that cannot be used."""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with what a person gave.

    Attributes:
        where: the dotted name of the option, such as ``views.tile_size``.
        code: what kind of problem it is; stable, for programs.
        what: what would be right, or what is wrong.
        remedy: what helps; may be empty.
    """

    where: str
    code: str
    what: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


class OptionsError(ParameterError):
    """Options or parameters that cannot be used; tells all that is wrong at once.

    Args:
        problems: at least one.
    """

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        remedies = dict.fromkeys(one.remedy for one in problems if one.remedy)
        super().__init__(
            "; ".join(map(str, problems)), " ".join(remedies) or "'clipseg-kfp options' lists all."
        )


class StorageError(ClipsegKfpError):
    """The store refused, failed or could not be reached."""


class ObjectChangedError(StorageError):
    """An object was replaced or removed between listing and reading."""


class ObjectUnreadableError(StorageError):
    """The store refuses one object; others may well be read."""


class ModelError(ClipsegKfpError):
    """A checkpoint that is missing, unsafe or unsupported."""


@contextmanager
def exit_on_user_error(context: str) -> Iterator[None]:
    """Turns a ``ClipsegKfpError`` into one clear line on standard error and exit status 1.

    Args:
        context: what was running, for example the component's name.

    Raises:
        SystemExit: with status 1, in place of the error.
    """
    try:
        yield
    except ClipsegKfpError as error:
        print(f"error: {context}: {printable(error.message)}", file=sys.stderr)
        if error.remedy:
            print(f"  remedy: {printable(error.remedy)}", file=sys.stderr)
        sys.stderr.flush()
        raise SystemExit(1) from None
