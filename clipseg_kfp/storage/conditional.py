"""A PUT that succeeds only where there is no object of that name, which minio-py cannot send.

Its ``put_object`` turns ``If-None-Match`` into metadata of the object. A presigned URL leaves headers free:
it signs the host alone, and the client makes it with whatever credentials it has.
"""

from __future__ import annotations

import os
from datetime import timedelta
from functools import lru_cache

import urllib3
from minio import Minio
from minio.error import S3Error, ServerError

from clipseg_kfp.storage.base import ConditionUnsupportedError

_TIMEOUT = urllib3.Timeout(connect=5.0, read=60.0)
_VALID = timedelta(minutes=15)


@lru_cache(maxsize=1)
def _pool() -> urllib3.PoolManager:
    authorities = os.environ.get("SSL_CERT_FILE") or None
    return urllib3.PoolManager(
        timeout=_TIMEOUT, cert_reqs="CERT_REQUIRED", ca_certs=authorities, retries=False
    )


def put_if_absent(client: Minio, bucket: str, key: str, data: bytes, content_type: str) -> bool:
    """Tries once; returns whether the object was written.

    Raises:
        ConditionUnsupportedError: the store says that it does not know the header.
        MinioException: the store's answer, as the client's own calls raise it.
        urllib3.exceptions.HTTPError: no answer.
    """
    url = client.get_presigned_url("PUT", bucket, key, expires=_VALID)
    headers = {"If-None-Match": "*", "Content-Type": content_type}
    response = _pool().request("PUT", url, body=data, headers=headers)
    if response.status < 300:
        return True
    if response.status == 412:
        return False
    if response.status == 501:
        raise ConditionUnsupportedError(f"The store takes no conditional PUT for {bucket}/{key}.")
    if response.status == 409:  # another conditional PUT is under way: worth another try
        raise ServerError("another conditional request is under way", 503)
    if not response.data.lstrip().startswith(b"<"):
        raise ServerError("an answer that is no XML", response.status)
    raise S3Error.fromxml(response)
