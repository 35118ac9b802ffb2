"""A PUT that succeeds only where there is no object of that name, which minio-py's ``put_object`` cannot send.

It turns ``If-None-Match`` into metadata of the object. The method below it takes headers; a presigned URL
would, too, but is a secret of its own.
"""

from __future__ import annotations

from minio.error import MinioException, S3Error, ServerError

from clipseg_kfp.storage.base import ConditionUnsupportedError
from clipseg_kfp.storage.connecting import Client
from clipseg_kfp.storage.retrying import status


def put_if_absent(client: Client, bucket: str, key: str, data: bytes, content_type: str) -> bool:
    """Tries once; returns whether the object was written.

    Raises:
        ConditionUnsupportedError: the store says that it does not know the header.
        MinioException: the store's answer, as the client's own calls raise it.
        urllib3.exceptions.HTTPError: no answer.
    """
    headers = {"If-None-Match": "*", "Content-Type": content_type}
    try:
        client._put_object(bucket, key, data, headers)
    except MinioException as error:
        code = error.code if isinstance(error, S3Error) else ""
        if status(error) == 412 or code == "PreconditionFailed":
            return False
        if status(error) == 501 or code == "NotImplemented":
            raise ConditionUnsupportedError(
                f"The store takes no conditional PUT for {bucket}/{key}."
            ) from error
        if status(error) == 409:  # another conditional PUT is under way: worth another try
            raise ServerError("another conditional request is under way", 503) from error
        raise
    return True
