"""When a call to a store is worth another try, and how often, how soon and for how long."""

from __future__ import annotations

import configparser
import os
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, fields
from itertools import count
from typing import TypeVar
from xml.etree.ElementTree import ParseError

import urllib3
from minio.error import InvalidResponseError, MinioException, S3Error, ServerError

from clipseg_kfp.errors import ParameterError

PREFIX = "CLIPSEG_KFP_S3_"
_PASSING_CODES = {
    "InternalError", "RequestTimeout", "ServiceUnavailable", "SlowDown", "TooManyRequests",
    # What was sent was right, and was damaged on its way:
    "BadDigest", "IncompleteBody", "InvalidPart", "InvalidPartOrder", "MalformedXML", "XAmzContentSHA256Mismatch",
    # SeaweedFS's answer to a list of parts whose first bracket was hit; an upload begins anew.
    "NoSuchUpload",
}  # fmt: skip
_OUR_NAMES = ("credentials", "bucket name", "object name")  # in minio-py's checks before anything is sent

T = TypeVar("T")


@dataclass(frozen=True)
class Policy:
    """How long a store may take, and how often a call is tried.

    Every field can be set from outside, for networks that are slow or break often: ``tries`` through
    ``CLIPSEG_KFP_S3_TRIES``, and so on.

    Attributes:
        tries: how often a call is made at the most.
        timeout: seconds without any byte after which a try has failed; also the grace of ``min_rate``.
        connect_timeout: seconds for making a connection.
        min_rate: bytes a second. An answer, or an upload, that has taken longer than ``timeout`` and falls
            below this rate on average has failed: bytes that trickle would otherwise never end it.
        backoff: seconds of the longest first wait; doubled for each further one. The wait is drawn evenly
            from zero up to it (full jitter), so that many pods do not come back at the same moment.
        max_backoff: seconds that no wait exceeds, unless the store asks for more with ``Retry-After``.
        deadline: seconds from a call's beginning after which no further try begins.
        checksums: whether what was read is compared with the MD5 that most ETags are (1 or 0).
    """

    tries: int = 5
    timeout: float = 60.0
    connect_timeout: float = 5.0
    min_rate: float = 1024.0
    backoff: float = 0.5
    max_backoff: float = 8.0
    deadline: float = 300.0
    checksums: int = 1

    @classmethod
    def from_environment(cls) -> Policy:
        """Takes the defaults, and what the environment says in their place.

        Raises:
            ParameterError: a value that is no number, or too small.
        """
        values: dict[str, float] = {}
        for field in fields(cls):
            name = PREFIX + field.name.upper()
            text = os.environ.get(name)
            if not text:
                continue
            whole = isinstance(field.default, int)
            try:
                value = int(text) if whole else float(text)
            except ValueError:
                value = float("nan")
            may_be_zero = field.name in ("backoff", "max_backoff", "deadline", "checksums")
            if not (0 <= value < float("inf")) or (value == 0 and not may_be_zero):
                kind = "whole number" if whole else "number"
                raise ParameterError(f"{name} is '{text}'.", f"Give a {kind} above zero, or unset it.")
            values[field.name] = value
        return cls(**values)  # type: ignore[arg-type]  # whole numbers where the field wants them


class TransportError(Exception):
    """An answer that came, but not as the store sent it."""


class BusyError(TransportError):
    """The store asks to come again later.

    Args:
        status: of the answer.
        wait: seconds that it asks for.
    """

    def __init__(self, status: int, wait: float) -> None:
        self.wait = wait
        super().__init__(f"status {status} (Retry-After: {wait:g} s)")


# minio-py takes answers apart with ValueErrors (numbers, dates, missing elements, text that is no UTF-8).
FAULTS = (
    MinioException, urllib3.exceptions.HTTPError, ParseError, ValueError, TransportError, configparser.Error
)  # fmt: skip


def retried(call: Callable[[], T], policy: Policy, explain: Callable[[Exception, int], Exception]) -> T:
    """Makes a call; repeats it on faults that pass.

    Args:
        call: makes one try; must end in the same state however often it runs.
        policy: how often, how soon, how long.
        explain: makes the error to raise from the last cause and the number of tries.
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
            time.sleep(wait)
    raise AssertionError("unreachable")


def passes(error: Exception) -> bool:
    """Whether trying again may help: overload, broken connections, damaged data; but no refusal."""
    if isinstance(error, MinioException):
        code = status(error)
        return code in (408, 429) or (code >= 500 and code != 501) or is_passing_code(error)
    if isinstance(error, urllib3.exceptions.SSLError):
        return "EOF" in str(error)  # cut in the handshake; a bad certificate stays bad
    if isinstance(error, urllib3.exceptions.HTTPError):
        return not isinstance(error, ValueError)  # such as a URL that cannot be parsed
    return isinstance(error, TransportError) or is_garbled(error)


def is_passing_code(error: Exception) -> bool:
    """Whether a store's error code means that the request may well succeed when it comes again."""
    return isinstance(error, S3Error) and error.code in _PASSING_CODES


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
    if isinstance(error, InvalidResponseError):  # an answer that is no XML, such as a proxy's page
        return error._code
    return error.status_code if isinstance(error, ServerError) else 0
