"""What refusals of a store and faults of a network mean to the person who has to fix them."""

from __future__ import annotations

import configparser
from xml.etree.ElementTree import ParseError

import urllib3
from minio.error import MinioException, S3Error

from clipseg_kfp.errors import ClipsegKfpError, ObjectUnreadableError, StorageError
from clipseg_kfp.storage.base import missing
from clipseg_kfp.storage.retries import BusyError, TransportError, is_garbled, passes, status

_SET_KEYS = "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or mount the storage secret."


def explain(error: Exception, where: str, bucket: str, host: str, tries: int) -> ClipsegKfpError:
    """Turns the last cause into the error that a user sees.

    Args:
        error: what the last try ended with.
        where: the URI of the object or folder.
        bucket: its bucket.
        host: the endpoint's host and port.
        tries: how many tries were made.
    """
    attempts = f"{tries} attempts" if tries > 1 else "1 attempt"
    if isinstance(error, S3Error):
        return _explain_refusal(error, where, bucket, host, attempts)
    code, message, remedy = _describe(error, where, bucket, host, attempts)
    kind = ObjectUnreadableError if code == "object_name_unusable" else StorageError
    return kind(message, remedy, code=code, where=where)


def explain_web(error: Exception, where: str, host: str, tries: int) -> StorageError:
    """What ``explain`` is, for a web server."""
    attempts = f"{tries} attempts" if tries > 1 else "1 attempt"
    if isinstance(error, urllib3.exceptions.LocationValueError | UnicodeError):
        message, remedy = f"{where} is not a URL that can be read.", "Write it as https://host/path."
        return ObjectUnreadableError(message, remedy, code="url_invalid", where=where)
    code, message, remedy = _describe(error, where, "", host, attempts)
    if code == "not_an_s3_answer":
        code, remedy = "answer_garbled", "Open the URL in a browser."
    return StorageError(message, remedy, code=code, where=where)


def _describe(error: Exception, where: str, bucket: str, host: str, attempts: str) -> tuple[str, str, str]:
    """Code, message and remedy of everything but a refusal by the store."""
    if isinstance(error, configparser.Error):
        return (
            "credentials_file_broken",
            "The AWS credentials file cannot be parsed.",
            "Check ~/.aws/credentials or AWS_SHARED_CREDENTIALS_FILE.",
        )
    if isinstance(error, BusyError):
        return (
            "store_busy",
            f"{host} answered {error} for {where} ({attempts}).",
            "Run again later, or raise CLIPSEG_KFP_S3_TRIES and CLIPSEG_KFP_S3_DEADLINE.",
        )
    if isinstance(error, TransportError):
        return (
            "transfer_damaged",
            f"{where} did not arrive whole from {host} ({attempts}; last: {error}).",
            "Check the network between here and the store.",
        )
    if isinstance(error, MinioException | ParseError) or is_garbled(error):
        answer = f"status {status(error)}" if status(error) else "text that is not an S3 answer"
        return (
            "not_an_s3_answer",
            f"{host} answered {answer} for {where} ({attempts}).",
            "Check that the endpoint is an S3 service and not a proxy or a web page.",
        )
    if isinstance(error, urllib3.exceptions.ProtocolError | urllib3.exceptions.ReadTimeoutError):
        return (
            "connection_failed",
            f"The connection to {host} failed for {where} ({attempts}; last: {_root_cause(error)}).",
            "Check the network; if it is slow, raise CLIPSEG_KFP_S3_TIMEOUT.",
        )
    if isinstance(error, urllib3.exceptions.SSLError) and "CERTIFICATE_VERIFY_FAILED" in str(error):
        return (
            "certificate_untrusted",
            f"The certificate of {host} is not trusted ({_root_cause(error)}).",
            "Set AWS_CA_BUNDLE or SSL_CERT_FILE to a PEM file with the certificate of its authority; on a cluster, "
            "see the setting certificate_authority.",
        )
    if isinstance(error, urllib3.exceptions.HTTPError):
        return (
            "store_unreachable",
            f"{host} could not be reached for {where} ({attempts}; last: {_root_cause(error)}).",
            "Check the endpoint, its scheme (http or https) and the network.",
        )
    # What is left are minio-py's own checks, made before anything is sent.
    if "credentials" in str(error):
        return "credentials_missing", f"There are no credentials for {host}, for {where}.", _SET_KEYS
    if "bucket name" in str(error):
        return "bucket_name_invalid", f"'{bucket}' is not a valid bucket name.", "Check the URI."
    return "object_name_unusable", f"{where} cannot be used: {error}.", "Rename the object."


def _explain_refusal(error: S3Error, where: str, bucket: str, host: str, attempts: str) -> StorageError:
    reason = error.code
    if reason == "NoSuchBucket":
        return StorageError(
            f"The bucket '{bucket}' does not exist on {host}.",
            "Check its name and the endpoint; this suite never creates buckets.",
            code="bucket_missing",
            where=f"s3://{bucket}",
        )
    if reason in ("NoSuchKey", "NoSuchObject", "PreconditionFailed"):
        return missing(where)
    if reason in ("InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken"):
        message = f"{host} rejects the credentials ({reason}) at {where}."
        return StorageError(message, _SET_KEYS, code="credentials_rejected", where=where)
    if reason in ("AccessDenied", "AllAccessDisabled"):
        return ObjectUnreadableError(
            f"Access to {where} is denied.",
            "Check the credentials: the input needs read and list, the output read, list and write.",
            code="access_denied",
            where=where,
        )
    if reason in ("AuthorizationHeaderMalformed", "PermanentRedirect"):
        message, remedy = f"{where} is in another region.", "Set AWS_REGION to the bucket's region."
        return StorageError(message, remedy, code="region_wrong", where=where)
    of_this_one = 400 <= status(error) < 500 and reason != "RequestTimeTooSkewed" and not passes(error)
    kind = ObjectUnreadableError if of_this_one else StorageError  # such as InvalidObjectState
    return kind(
        f"{where}: {host} answered {reason} ({attempts}): {error.message}",
        f"Look up {reason} in the documentation of the store.",
        code="request_refused",
        where=where,
    )


def _root_cause(error: Exception) -> str:
    """What lies below urllib3's wrapping, such as "Connection refused" or "12 bytes took 61.0 s"."""
    if isinstance(error, urllib3.exceptions.ProtocolError) and isinstance(error.args[-1], Exception):
        error = error.args[-1]
    elif isinstance(error, urllib3.exceptions.ReadTimeoutError) and isinstance(error.__cause__, OSError):
        error = error.__cause__
    text = str(error).rsplit("): ", maxsplit=1)[-1].rsplit(">: ", maxsplit=1)[-1]
    return text.strip().rstrip(".") or type(error).__name__
