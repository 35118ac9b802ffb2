"""Errors that are a user's to mend: shown as one message, without a traceback."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Self

from clipseg_kfp.naming import printable, shown


class ClipsegKfpError(Exception):
    """Base of all errors with a known remedy.

    Message, remedy and place are bounded, and logins and signatures of URIs in them are redacted.

    Args:
        message: what is wrong, naming the file, key, field or parameter.
        remedy: what to do about it.
        code: what kind of error it is: stable, for programs and tests; empty takes the class's.
        where: the file, key, field or parameter, where that is one thing.
    """

    code = "error"

    def __init__(self, message: str, remedy: str = "", *, code: str = "", where: str = "") -> None:
        self.message = shown(message)
        self.remedy = shown(remedy)
        self.code = code or type(self).code
        self.where = shown(where)
        super().__init__(f"{self.message} {self.remedy}".strip())

    def within(self, context: str, where: str = "") -> Self:
        """The same error, with what it is about before its message.

        Args:
            context: such as ``prompt 2 ('bolt')``.
            where: taken where the error names no place of its own.
        """
        error = type(self).__new__(type(self))
        error.__dict__.update(self.__dict__)
        error.message, error.where = shown(f"{context}: {self.message}"), self.where or shown(where)
        Exception.__init__(error, f"{error.message} {error.remedy}".strip())
        return error

    def record(self) -> dict[str, str]:
        """What crosses a process in place of the exception."""
        return {"code": self.code, "what": self.message, "where": self.where, "remedy": self.remedy}


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


class ParameterError(ClipsegKfpError):
    """A parameter, prompt or configuration value that cannot be used.

    Attributes:
        problems: each thing that is wrong, where there can be several.
    """

    code = "parameter"
    problems: tuple[Problem, ...] = ()


class OptionsError(ParameterError):
    """Options or parameters that cannot be used; tells all that is wrong at once.

    Args:
        problems: at least one.
    """

    code = "options"

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        remedies = dict.fromkeys(one.remedy for one in problems if one.remedy)
        super().__init__(
            "; ".join(map(str, problems)),
            " ".join(remedies) or "'clipseg-kfp options' lists all.",
            where=", ".join(one.where for one in problems),
        )


class StorageError(ClipsegKfpError):
    """The store refused, failed or could not be reached."""

    code = "storage"


class ObjectChangedError(StorageError):
    """An object was replaced or removed between listing and reading."""

    code = "object_changed"


class ObjectUnreadableError(StorageError):
    """The store refuses one object; others may well be read."""

    code = "object_unreadable"


class ModelError(ClipsegKfpError):
    """A checkpoint that is missing, unsafe or unsupported."""

    code = "model"


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
