"""Which calls to a store are tried again, how often, how soon and for how long."""

from __future__ import annotations

import configparser
import os
import random
import time
from collections.abc import Callable
from itertools import count
from typing import TypeVar
from xml.etree.ElementTree import ParseError

import urllib3
from minio.error import InvalidResponseError, MinioException, S3Error, ServerError
from pydantic import BaseModel, Field, ValidationError

from clipseg_kfp.errors import ParameterError

_PASSING_CODES = {
    "InternalError", "RequestTimeout", "ServiceUnavailable", "SlowDown", "TooManyRequests",
    # What was sent was right, and was damaged on its way:
    "BadDigest", "IncompleteBody", "InvalidPart", "InvalidPartOrder", "MalformedXML", "XAmzContentSHA256Mismatch",
    # SeaweedFS's answer to a list of parts whose first bracket was hit; an upload begins anew.
    "NoSuchUpload",
}  # fmt: skip
_OUR_NAMES = ("credentials", "bucket name", "object name")  # in minio-py's checks before anything is sent

T = TypeVar("T")


class Policy(BaseModel, frozen=True, allow_inf_nan=False):
    """How long a store may take, and how often a call is tried.

    An environment variable sets each field, for slow or unreliable networks: ``CLIPSEG_KFP_S3_TRIES`` for
    ``tries``, and so on.

    Attributes:
        tries: the most times that a call is made.
        timeout: seconds without any byte after which a try has failed; also the grace period of ``min_rate``.
        connect_timeout: seconds for making a connection.
        min_rate: bytes per second. A transfer that has taken longer than ``timeout`` and is slower than this
            on average has failed; without it, a trickle of bytes would never end.
        backoff: seconds of the longest first wait; doubled for each further one. The wait is drawn evenly
            from zero up to it (full jitter), so that many pods do not come back at the same moment.
        max_backoff: seconds of the longest wait, unless the store asks for more with ``Retry-After``.
        deadline: seconds from a call's beginning after which no further try begins.
        checksums: whether downloads are compared with their ETags where these are MD5s (1 or 0).
    """

    tries: int = Field(5, gt=0)
    timeout: float = Field(60.0, gt=0)
    connect_timeout: float = Field(5.0, gt=0)
    min_rate: float = Field(1024.0, gt=0)
    backoff: float = Field(0.5, ge=0)
    max_backoff: float = Field(8.0, ge=0)
    deadline: float = Field(300.0, ge=0)
    checksums: int = Field(1, ge=0)

    @classmethod
    def from_environment(cls) -> Policy:
        """The defaults, with what the environment sets.

        Raises:
            ParameterError: a value is not a number, or too small.
        """
        variables = {field: f"CLIPSEG_KFP_S3_{field.upper()}" for field in cls.model_fields}
        values = {field: os.environ[name] for field, name in variables.items() if os.environ.get(name)}
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            problem = error.errors()[0]
            name = variables[str(problem["loc"][0])]
            remedy = f"{problem['msg']}. Unset it for the default."
            message = f"{name} is '{problem['input']}'."
            raise ParameterError(message, remedy, code="setting_invalid", where=name) from None


class TransportError(Exception):
    """An answer was damaged on its way."""


class BusyError(TransportError):
    """The store asks to come again later.

    Args:
        status: of the answer.
        wait: seconds that it asks for.
    """

    def __init__(self, status: int, wait: float) -> None:
        self.wait = wait
        super().__init__(f"status {status} (Retry-After: {wait:g} s)")


# minio-py takes answers apart with ValueErrors (numbers, dates, missing elements, text that is not UTF-8).
FAULTS = (
    MinioException, urllib3.exceptions.HTTPError, ParseError, ValueError, TransportError, configparser.Error
)  # fmt: skip


def retried(
    call: Callable[[], T],
    policy: Policy,
    explain: Callable[[Exception, int], Exception],
    again: Callable[[Exception], None] = lambda _: None,
) -> T:
    """Makes a call; repeats it on temporary faults.

    Args:
        call: makes one try; must be safe to repeat.
        policy: how often, how soon, how long.
        explain: turns the last cause and the number of tries into the error to raise.
        again: told of each fault after which the call is repeated.
    """
    began = time.monotonic()
    for tries in count(1):
        try:
            return call()
        except FAULTS as error:
            wait = random.uniform(0, min(policy.max_backoff, policy.backoff * 2.0 ** (tries - 1)))
            wait = max(wait, error.wait if isinstance(error, BusyError) else 0)
            late = time.monotonic() - began + wait > policy.deadline
            if late or tries >= policy.tries or not passes(error):
                # The parser's message quotes the line of the credentials file.
                cause = None if isinstance(error, configparser.Error) else error
                raise explain(error, tries) from cause
            again(error)
            time.sleep(wait)
    raise AssertionError("unreachable")


def passes(error: Exception) -> bool:
    """Whether the fault is temporary: overload, broken connections, damaged data, but not a refusal."""
    if isinstance(error, MinioException):
        code = status(error)
        temporary = isinstance(error, S3Error) and error.code in _PASSING_CODES
        return code in (408, 429) or (code >= 500 and code != 501) or temporary
    if isinstance(error, urllib3.exceptions.SSLError):
        return "EOF" in str(error)  # cut in the handshake; a bad certificate stays bad
    if isinstance(error, urllib3.exceptions.HTTPError):
        return not isinstance(error, ValueError)  # such as a URL that cannot be parsed
    return isinstance(error, TransportError) or is_garbled(error)


def is_garbled(error: Exception) -> bool:
    """Whether an answer could not be taken apart."""
    if isinstance(error, ValueError) and not isinstance(error, MinioException | urllib3.exceptions.HTTPError):
        ours = isinstance(error, UnicodeEncodeError) or any(name in str(error) for name in _OUR_NAMES)
        return not ours or isinstance(error, UnicodeDecodeError)
    return isinstance(error, ParseError)


def status(error: Exception) -> int:
    """The HTTP status of an error answer; 0 where there was none."""
    if isinstance(error, S3Error):
        return int(getattr(error.response, "status", 0))
    if isinstance(error, InvalidResponseError):  # not XML, such as a proxy's page
        return error._code
    return error.status_code if isinstance(error, ServerError) else 0
