"""Compares what was read with the MD5 that an ETag is, where it is one."""

from __future__ import annotations

import re
from collections.abc import Mapping

from clipseg_kfp.errors import ObjectUnreadableError
from clipseg_kfp.runtime.progress import say
from clipseg_kfp.storage.retrying import TransportError

STEP = "storage"
_MD5 = re.compile("[0-9a-f]{32}")
_OTHERS = 4  # objects that are read twice before ETags are taken for something else than an MD5
_SO = "what is read is compared with ETags no more, until one of them is an MD5"


def acknowledged(etag: str | None) -> str:
    """The ETag that tells that an object is there: a failed upload may come with status 200.

    Raises:
        TransportError: there is none.
    """
    if not etag:
        raise TransportError("an answer without an ETag")
    return etag


def etag_of(headers: Mapping[str, str]) -> str:
    """The ETag without quotes and without the mark of a weak one.

    Raises:
        TransportError: there is none, so the answer is no store's (a proxy's page, say).
    """
    return acknowledged((headers.get("ETag") or "").strip().removeprefix("W/").strip('"'))


class Checksums:
    """What is known about the ETags of one endpoint.

    An ETag of 32 hexadecimal digits is the MD5 of the object's bytes on AWS, SeaweedFS, MinIO and most
    others, but no standard says so. Where one was, of an object that was read or of one that this process
    wrote, the next that is not tells of damage. Before that nobody knows: the object is read again, for the
    damage may have happened on the way, and the same bytes are then taken as what the store has. After a few
    of these, or one of this process's own objects, none is read again; a match still changes everything.

    Args:
        enabled: whether to compare at all.
    """

    def __init__(self, enabled: bool = True) -> None:
        self._enabled = enabled
        self._proven = False
        self._others = 0  # ETags that were no MD5

    def learn(self, etag: str, digest: str) -> None:
        """Takes the ETag of an object that this process wrote, of whose MD5 the store was told."""
        if self._enabled and not self._proven and _MD5.fullmatch(etag):
            self._proven = etag == digest
            if not self._proven and self._others < _OTHERS:
                self._others = _OTHERS
                say(STEP, f"the ETags of this store are no MD5 (it gave {etag} to bytes of {digest}): {_SO}")

    def check(self, where: str, headers: Mapping[str, str], digest: str, before: list[str]) -> None:
        """Compares one object's bytes with its ETag.

        Args:
            where: the URI of the object.
            headers: of the answer.
            digest: MD5 of the bytes, in hexadecimal digits.
            before: the digests of the tries before, to which this one is added on a mismatch.

        Raises:
            TransportError: they differ, and reading again may help.
            ObjectUnreadableError: they differ, and the store really has those bytes.
        """
        etag = etag_of(headers)
        if not self._enabled or not _MD5.fullmatch(etag) or _is_encrypted(headers):
            return
        if digest == etag:
            self._proven = True
            return
        if self._others >= _OTHERS and not self._proven:
            return
        if digest not in before:
            before.append(digest)
            raise TransportError(f"its bytes have the MD5 {digest}, and its ETag says {etag}")
        if self._proven:
            raise ObjectUnreadableError(
                f"{where} is damaged: its bytes have the MD5 {digest} time and again, and its ETag says {etag}.",
                "Write the object anew, or set CLIPSEG_KFP_S3_CHECKSUMS=0 to read it all the same.",
            )
        self._others += 1
        end = f": {_SO}" if self._others == _OTHERS else ""
        say(STEP, f"{where} is taken as it is: its bytes have the MD5 {digest}, and its ETag is {etag}{end}")


def _is_encrypted(headers: Mapping[str, str]) -> bool:
    """Whether the ETag is of the encrypted bytes: SSE-KMS and SSE-C, but not SSE-S3 (``AES256``)."""
    kind = headers.get("x-amz-server-side-encryption") or "AES256"
    return kind != "AES256" or "x-amz-server-side-encryption-customer-algorithm" in headers
