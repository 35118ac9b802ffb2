"""Credentials that are easy to find again, and the search for them in whatever form."""

from __future__ import annotations

import base64
import io
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq

ACCESS_KEY = "MARKEDACCESSKEY0123"
SECRET_KEY = "MARKED/SECRET+KEY=0123456789"
SESSION_TOKEN = "MARKED/SESSION+TOKEN==0123"
HUB_TOKEN = "hf_MARKEDHUBTOKEN0123456789"
FILE_ACCESS_KEY = "MARKEDFILEACCESS0123"
FILE_SECRET_KEY = "MARKED/FILE+SECRET=0123"
USER, PASSWORD = "marked-user-0123", "marked/password+0123"
ALL = (
    ACCESS_KEY, SECRET_KEY, SESSION_TOKEN, HUB_TOKEN, FILE_ACCESS_KEY, FILE_SECRET_KEY, USER, PASSWORD,
)  # fmt: skip
#: What a signed request or URL holds, which would let others repeat it.
SIGNED = (b"X-Amz-Signature", b"X-Amz-Credential", b"AWS4-HMAC-SHA256")


def forms(mark: str) -> set[bytes]:
    """A text as it is, in a URL, in JSON, in hex, and in base64 at each offset of what surrounds it."""
    raw = mark.encode()
    found = {raw, quote(mark, safe="").encode(), quote(mark).encode(), raw.hex().encode()}
    found.add(json.dumps(mark)[1:-1].replace("/", "\\/").encode())
    for offset in range(3):
        whole = base64.b64encode(bytes(offset) + raw)
        inner = whole[-(-offset * 8 // 6) : len(whole) - (len(whole) - len(whole.rstrip(b"="))) - 1]
        found |= {inner, inner.replace(b"+", b"-").replace(b"/", b"_")}
    return {form.lower() for form in found}


_FORMS = {form: mark for mark in ALL for form in forms(mark)} | {s.lower(): s.decode() for s in SIGNED}


def found_in(data: bytes | str) -> set[str]:
    """The marks that some bytes hold, also inside of Parquet, Arrow and zip files."""
    if isinstance(data, str):
        data = data.encode("utf-8", "backslashreplace")
    return {mark for part in _unpacked(data) for form, mark in _FORMS.items() if form in part.lower()}


def _unpacked(data: bytes) -> Iterator[bytes]:
    yield data
    if data[:4] == b"PAR1":
        file = pq.ParquetFile(io.BytesIO(data))
        yield str(file.schema_arrow.metadata).encode()
        for row in file.read().to_pylist():
            yield repr(row).encode()
    elif data[:6] == b"ARROW1":
        with pa.ipc.open_file(io.BytesIO(data)) as stream:
            for row in stream.read_all().to_pylist():
                yield repr(row).encode()
    elif data[:2] == b"PK":
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for name in archive.namelist():
                yield name.encode()
                yield from _unpacked(archive.read(name))


def files_with_marks(*roots: Path) -> dict[str, set[str]]:
    """Searches every file below the folders, and its name."""
    found: dict[str, set[str]] = {}
    for root in roots:
        for path in root.rglob("*"):
            marks = found_in(str(path.relative_to(root)))
            if path.is_file():
                marks |= found_in(path.read_bytes())
            if marks:
                found[str(path)] = marks
    return found
