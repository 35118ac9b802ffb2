"""What a store's refusals and a network's faults mean to the person who has to mend them."""

from __future__ import annotations

import configparser
from xml.etree.ElementTree import ParseError

import urllib3
from minio.error import MinioException, S3Error

from clipseg_kfp.errors import ClipsegKfpError, ObjectChangedError, ObjectUnreadableError, StorageError
from clipseg_kfp.storage.retrying import BusyError, TransportError, is_garbled, passes, status


def explain(error: Exception, where: str, bucket: str, host: str, tries: int) -> ClipsegKfpError:
    """Makes the error that a user sees of the last cause.

    Args:
        error: what the last try ended with.
        where: the URI of the object or folder.
        bucket: its bucket.
        host: the endpoint's host and port.
        tries: how many tries were made.
    """
    attempts = f"{tries} attempts" if tries > 1 else "1 attempt"
    if isinstance(error, configparser.Error):
        return StorageError(
            "The AWS credentials file cannot be parsed.",
            "Check ~/.aws/credentials or AWS_SHARED_CREDENTIALS_FILE.",
        )
    if isinstance(error, S3Error):
        return _explain_refusal(error, where, bucket, host, attempts)
    if isinstance(error, BusyError):
        return StorageError(
            f"{host} answered {error} for {where} ({attempts}).",
            "Run again later, or raise CLIPSEG_KFP_S3_TRIES and CLIPSEG_KFP_S3_DEADLINE.",
        )
    if isinstance(error, TransportError):
        return StorageError(
            f"{where} did not come over whole from {host} ({attempts}; last: {error}).",
            "Check the network between here and the store.",
        )
    if isinstance(error, MinioException | ParseError) or is_garbled(error):
        answer = f"status {status(error)}" if status(error) else "text that is no S3 answer"
        return StorageError(
            f"{host} answered {answer} for {where} ({attempts}).",
            "Check that the endpoint is an S3 service and not a proxy or a web page.",
        )
    if isinstance(error, urllib3.exceptions.ProtocolError | urllib3.exceptions.ReadTimeoutError):
        return StorageError(
            f"The connection to {host} failed for {where} ({attempts}; last: {_root_cause(error)}).",
            "Check the network; for one that is slow, raise CLIPSEG_KFP_S3_TIMEOUT.",
        )
    if isinstance(error, urllib3.exceptions.HTTPError):
        return StorageError(
            f"{host} could not be reached for {where} ({attempts}; last: {_root_cause(error)}).",
            "Check the endpoint, its scheme (http or https) and the network.",
        )
    # What is left are minio-py's own checks, made before anything is sent.
    if "credentials" in str(error):
        return StorageError(
            f"No credentials for {host} were found, for {where}.",
            "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or mount the storage secret.",
        )
    if "bucket name" in str(error):
        return StorageError(f"'{bucket}' is not a valid bucket name.", "Check the URI.")
    return ObjectUnreadableError(f"{where} cannot be used: {error}.", "Rename the object.")


def _explain_refusal(error: S3Error, where: str, bucket: str, host: str, attempts: str) -> StorageError:
    code = error.code
    if code == "NoSuchBucket":
        return StorageError(
            f"The bucket '{bucket}' does not exist on {host}.",
            "Check its name and the endpoint; this suite never creates buckets.",
        )
    if code in ("NoSuchKey", "NoSuchObject", "PreconditionFailed"):
        return ObjectChangedError(f"{where} does not exist (any more).", "Check the key.")
    if code in ("InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken"):
        return StorageError(
            f"{host} rejects the credentials ({code}) at {where}.",
            "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or mount the storage secret.",
        )
    if code in ("AccessDenied", "AllAccessDisabled"):
        return ObjectUnreadableError(
            f"Access to {where} is denied.",
            "Check the credentials: the input needs read and list, the output read, list and write.",
        )
    if code in ("AuthorizationHeaderMalformed", "PermanentRedirect"):
        return StorageError(f"{where} is in another region.", "Set AWS_REGION to the bucket's region.")
    of_this_one = 400 <= status(error) < 500 and code != "RequestTimeTooSkewed" and not passes(error)
    kind = ObjectUnreadableError if of_this_one else StorageError  # such as InvalidObjectState
    return kind(f"{where}: {host} answered {code} ({attempts}): {error.message}")


def _root_cause(error: Exception) -> str:
    """What lies below urllib3's wrapping, such as "Connection refused" or "12 bytes took 61.0 s"."""
    if isinstance(error, urllib3.exceptions.ProtocolError) and isinstance(error.args[-1], Exception):
        error = error.args[-1]
    elif isinstance(error, urllib3.exceptions.ReadTimeoutError) and isinstance(error.__cause__, OSError):
        error = error.__cause__
    text = str(error).rsplit("): ", maxsplit=1)[-1].rsplit(">: ", maxsplit=1)[-1]
    return text.strip().rstrip(".") or type(error).__name__
