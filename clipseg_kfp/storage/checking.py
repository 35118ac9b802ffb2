"""Compares what was read with the MD5 that an ETag is, where it is one."""

from __future__ import annotations

import re
from collections.abc import Mapping

from clipseg_kfp.errors import ObjectUnreadableError
from clipseg_kfp.storage.retrying import TransportError

_MD5 = re.compile("[0-9a-f]{32}")


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
    others, but no standard says so. A first mismatch therefore counts as damage on the way, and the object is
    read again. The same bytes twice are what the store has: where no ETag of the endpoint was an MD5 before,
    they are accepted, and its ETags are trusted no more. Where some were, the object itself is damaged.

    Args:
        enabled: whether to compare at all.
    """

    def __init__(self, enabled: bool = True) -> None:
        self._trusted = enabled
        self._proven = False

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
        if not self._trusted or not _MD5.fullmatch(etag) or _is_encrypted(headers):
            return
        if digest == etag:
            self._proven = True
            return
        if digest not in before:
            before.append(digest)
            raise TransportError(f"its bytes have the MD5 {digest}, and its ETag says {etag}")
        if self._proven:
            raise ObjectUnreadableError(
                f"{where} is damaged: its bytes have the MD5 {digest} time and again, and its ETag says {etag}.",
                "Write the object anew, or set CLIPSEG_KFP_S3_CHECKSUMS=0 to read it all the same.",
            )
        self._trusted = False


def _is_encrypted(headers: Mapping[str, str]) -> bool:
    """Whether the ETag is of the encrypted bytes: SSE-KMS and SSE-C, but not SSE-S3 (``AES256``)."""
    kind = headers.get("x-amz-server-side-encryption") or "AES256"
    return kind != "AES256" or "x-amz-server-side-encryption-customer-algorithm" in headers
