"""Compares what was read with the ETag, where that is an MD5."""

from __future__ import annotations

import re
from collections.abc import Mapping

from clipseg_kfp.errors import ObjectUnreadableError
from clipseg_kfp.runtime.progress import say
from clipseg_kfp.storage.retries import TransportError

STEP = "storage"
_MD5 = re.compile("[0-9a-f]{32}")
_TRUSTED_AFTER = 4  # objects that are read twice before ETags are taken for something else than an MD5
_CONSEQUENCE = "downloads are not compared with ETags until one of them is an MD5"


def acknowledged(etag: str | None) -> str:
    """The ETag that shows that an object is there: a failed upload may come with status 200.

    Raises:
        TransportError: there is none.
    """
    if not etag:
        raise TransportError("an answer without an ETag")
    return etag


def etag_of(headers: Mapping[str, str]) -> str:
    """The ETag without quotes and without the mark of a weak one.

    Raises:
        TransportError: there is none, so the answer is not the store's (a proxy's page, say).
    """
    return acknowledged((headers.get("ETag") or "").strip().removeprefix("W/").strip('"'))


class Checksums:
    """What is known about the ETags of one endpoint.

    On AWS, SeaweedFS, MinIO and most others an ETag of 32 hexadecimal digits is the MD5 of the object's bytes,
    but no standard says so. Once an ETag was one (of an object that was read, or that this process wrote), the
    next that is not shows damage. Before that nobody knows: the object is read again, because the damage may
    have happened on the way; if the bytes are the same, they are taken as what the store has. After a few such
    objects, or one that this process wrote, nothing is read again, until an ETag is an MD5 after all.

    Args:
        enabled: whether to compare at all.
    """

    def __init__(self, enabled: bool = True) -> None:
        self._enabled = enabled
        self._are_md5 = False  # one ETag was
        self._others = 0  # ETags that were not

    def learn(self, etag: str, digest: str) -> None:
        """Takes the ETag of an object that this process wrote together with its MD5."""
        if self._enabled and not self._are_md5 and _MD5.fullmatch(etag):
            self._are_md5 = etag == digest
            if not self._are_md5 and self._others < _TRUSTED_AFTER:
                self._others = _TRUSTED_AFTER
                say(STEP, f"ETags of this store are not MD5s ({etag} for bytes of {digest}): {_CONSEQUENCE}")

    def check(self, where: str, headers: Mapping[str, str], digest: str, before: list[str]) -> None:
        """Compares one object's bytes with its ETag.

        Args:
            where: the URI of the object.
            headers: of the answer.
            digest: MD5 of the bytes, in hexadecimal digits.
            before: the digests of earlier tries; this one is added on a mismatch.

        Raises:
            TransportError: they differ, and reading again may help.
            ObjectUnreadableError: they differ, and the store really has those bytes.
        """
        etag = etag_of(headers)
        if not self._enabled or not _MD5.fullmatch(etag) or _is_encrypted(headers):
            return
        if digest == etag:
            self._are_md5 = True
            return
        if self._others >= _TRUSTED_AFTER and not self._are_md5:
            return
        if digest not in before:
            before.append(digest)
            raise TransportError(f"its bytes have the MD5 {digest}, and its ETag says {etag}")
        if self._are_md5:
            raise ObjectUnreadableError(
                f"{where} is damaged: the MD5 of its bytes is {digest} each time, and its ETag says {etag}.",
                "Write the object again, or set CLIPSEG_KFP_S3_CHECKSUMS=0 to read it as it is.",
                code="object_damaged",
                where=where,
            )
        self._others += 1
        end = f": {_CONSEQUENCE}" if self._others == _TRUSTED_AFTER else ""
        say(STEP, f"{where} is taken as it is: the MD5 of its bytes is {digest}, its ETag is {etag}{end}")


def _is_encrypted(headers: Mapping[str, str]) -> bool:
    """Whether the ETag is of the encrypted bytes: SSE-KMS and SSE-C, but not SSE-S3 (``AES256``)."""
    kind = headers.get("x-amz-server-side-encryption") or "AES256"
    return kind != "AES256" or "x-amz-server-side-encryption-customer-algorithm" in headers
