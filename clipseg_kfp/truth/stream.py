"""Large JSON files of annotations, read element by element: memory does not grow with the file."""

from __future__ import annotations

import codecs
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from json import JSONDecodeError, JSONDecoder
from pathlib import Path
from typing import Any, BinaryIO

from clipseg_kfp.errors import ParameterError
from clipseg_kfp.storage import Folder, missing
from clipseg_kfp.storage.base import too_large

MAX_FILE_BYTES = 4 << 30  # copied to the disk
MAX_ELEMENT_BYTES = 8 << 20  # an annotation; Python's objects take up to twenty times as much
_CHUNK = 1 << 20
_SPACE = re.compile(r"[ \t\n\r]*")


def _integer(text: str) -> int | float:
    """Whole numbers of thousands of digits, which Python refuses, become infinite."""
    return int(text) if len(text) < 40 else float(text)


_DECODERS = JSONDecoder(), JSONDecoder(parse_int=_integer)


@dataclass(frozen=True)
class Element:
    """A part of a file: an element of its top level, or of a list in a member of its top level.

    Attributes:
        member: name of the member; empty where the top level is a list.
        number: of the element, from 0; -1 for a member that is no list.
        start: where its bytes begin.
        end: where they end.
        value: its content.
    """

    member: str
    number: int
    start: int
    end: int
    value: Any


class JsonFile:
    """A JSON file on the local disk.

    ``NaN`` and ``Infinity`` are read as Python does: what they mean in their place is for the reader to judge.

    Args:
        stream: the file's bytes, UTF-8; belongs to this object from then on.
        uri: where they come from, for messages.
    """

    def __init__(self, stream: BinaryIO, uri: str) -> None:
        self._stream, self.uri = stream, uri

    @classmethod
    def of(cls, folder: Folder, name: str) -> JsonFile:
        """Copies an object to a temporary file, which goes with this object.

        Raises:
            StorageError: it is missing, cannot be read, or has more than ``MAX_FILE_BYTES`` bytes.
        """
        uri = folder.locate(name)
        entry = folder.stat(name)
        if entry is None:
            raise missing(uri)
        if entry.size > MAX_FILE_BYTES:
            raise too_large(uri, MAX_FILE_BYTES)
        with tempfile.TemporaryDirectory(prefix="clipseg-kfp-") as place:
            path = Path(place, "json")
            folder.download(name, path)
            stream = path.open("rb")  # outlives its name
            encoding = json.detect_encoding(stream.read(4))
            stream.seek(0)
            if encoding in ("utf-8", "utf-8-sig"):
                return cls(stream, uri)
            with stream, _reported(uri):
                plain = tempfile.TemporaryFile()  # noqa: SIM115 (belongs to the object)
                shutil.copyfileobj(codecs.getreader(encoding)(stream), codecs.getwriter("utf-8")(plain))
                return cls(plain, uri)

    def elements(self) -> Iterator[Element]:
        """Reads the file once.

        Raises:
            ParameterError: it is not JSON, or has an element of more than ``MAX_ELEMENT_BYTES`` bytes.
        """
        with _reported(self.uri):
            cursor = _Cursor(self._stream)
            opened = cursor.peek()
            if opened == "[":
                yield from cursor.items("")
            elif opened == "{":
                yield from cursor.members()
            else:
                start = cursor.place
                value = cursor.value()
                yield Element("", -1, start, cursor.place, value)
            if cursor.peek():
                raise JSONDecodeError(f"there is more after the end, at byte {cursor.place:,}", "", 0)

    @property
    def begins(self) -> str:
        """The first character that is no space."""
        return _Cursor(self._stream).peek()

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self._stream.seek(0, os.SEEK_END)

    def read(self, start: int, end: int) -> Any:
        """The content of an element that ``elements`` has named."""
        self._stream.seek(start)
        with _reported(self.uri):
            text = self._stream.read(end - start).decode("latin-1")
            return _checked(_decode(text, 0)[0], text)


class _Cursor:
    """A place in a file that is read as Latin-1: a character a byte, so that places can be kept."""

    def __init__(self, stream: BinaryIO) -> None:
        stream.seek(0)
        marked = stream.read(len(codecs.BOM_UTF8)) == codecs.BOM_UTF8
        self._base, self._at = stream.seek(len(codecs.BOM_UTF8) if marked else 0), 0
        self._stream, self._ended, self._text = stream, False, ""

    @property
    def place(self) -> int:
        return self._base + self._at

    def peek(self) -> str:
        """The next character that is no space; empty at the end."""
        while True:
            match = _SPACE.match(self._text, self._at)
            self._at = match.end() if match else self._at
            if self._at < len(self._text):
                return self._text[self._at]
            if self._ended:
                return ""
            self._fill()

    def value(self) -> Any:
        """The value at this place."""
        self.peek()
        while True:
            try:
                value, end = _decode(self._text, self._at)
            except JSONDecodeError as error:
                if self._ended:
                    raise JSONDecodeError(f"{error.msg} after byte {self.place:,}", "", 0) from error
            else:
                if end < len(self._text) or self._ended:  # a number may go on
                    text, self._at = self._text[self._at : end], end
                    return _checked(value, text)
            if len(self._text) - self._at > MAX_ELEMENT_BYTES:
                raise JSONDecodeError(
                    f"the element at byte {self.place:,} is damaged, or has more than {MAX_ELEMENT_BYTES:,} bytes",
                    "",
                    0,
                )
            self._fill()

    def items(self, member: str) -> Iterator[Element]:
        """The elements of the list at this place."""
        self._take("[")
        if self.peek() == "]":
            self._at += 1
            return
        number = 0
        while True:
            self.peek()
            start = self.place
            value = self.value()
            yield Element(member, number, start, self.place, value)
            number += 1
            if self._take(",]") == "]":
                return

    def members(self) -> Iterator[Element]:
        """The members of the object at this place; lists by their elements."""
        self._take("{")
        if self.peek() == "}":
            self._at += 1
            return
        while True:
            if self.peek() != '"':
                raise JSONDecodeError(f"there is no name at byte {self.place:,}", "", 0)
            member = self.value()
            self._take(":")
            if self.peek() == "[":
                yield Element(member, -1, self.place, self.place, [])
                yield from self.items(member)
            else:
                start = self.place
                value = self.value()
                yield Element(member, -1, start, self.place, value)
            if self._take(",}") == "}":
                return

    def _take(self, characters: str) -> str:
        found = self.peek()
        if not found or found not in characters:
            raise JSONDecodeError(f"'{characters[0]}' is missing at byte {self.place:,}", "", 0)
        self._at += 1
        return found

    def _fill(self) -> None:
        """Reads on. An element that is cut is decoded anew each time, so more is read of a large one."""
        chunk = self._stream.read(max(_CHUNK, len(self._text) - self._at))
        self._ended = not chunk
        if chunk:
            self._text = self._text[self._at :] + chunk.decode("latin-1")
            self._base, self._at = self._base + self._at, 0


def _decode(text: str, start: int) -> tuple[Any, int]:
    try:
        return _DECODERS[0].raw_decode(text, start)
    except JSONDecodeError:
        raise
    except ValueError:
        return _DECODERS[1].raw_decode(text, start)


def _checked(value: Any, text: str) -> Any:
    """The value of Latin-1 text that is in truth UTF-8."""
    return value if text.isascii() else _decode(text.encode("latin-1").decode("utf-8"), 0)[0]


@contextmanager
def _reported(uri: str) -> Iterator[None]:
    try:
        yield
    except (ValueError, RecursionError) as error:
        reason = error.msg if isinstance(error, JSONDecodeError) else str(error)
        raise ParameterError(
            f"{uri} is not JSON that can be read: {reason[:200]}.",
            "Check that the file was written completely.",
            code="truth_not_json",
            where=uri,
        ) from error
