"""Looks at the storage secret through Kubernetes, where the caller may, and lends its keys to the bucket's checks."""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from clipseg_kfp.client.kubernetes_access import core_api

Line = tuple[str, str, str]  # what, mark, detail

WHAT = "storage secret"
#: Keys of the secret by variable, where no uploaded version says which.
FIELDS = {"AWS_ACCESS_KEY_ID": "accesskey", "AWS_SECRET_ACCESS_KEY": "secretkey"}
#: What the storage layer reads; a session token of somebody else would spoil the keys.
_VARIABLES = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")


@dataclass(frozen=True)
class Keys:
    """Credentials of a store; no ``repr`` shows them."""

    access: str = field(repr=False)
    secret: str = field(repr=False)


def storage_secret(namespace: str, name: str, fields: Mapping[str, str] = FIELDS) -> tuple[Line, Keys | None]:
    """Whether the storage secret is there with its keys.

    Args:
        namespace: where the pods run.
        name: of the secret.
        fields: keys that pods take from it, by the variable that each becomes.

    Returns:
        What was found, which never has a key in it; and the keys, where they could be read.
    """
    from kubernetes.client.exceptions import ApiException
    from urllib3.exceptions import HTTPError

    command = f"kubectl get secret {name} -n {namespace}"
    api = core_api()
    if api is None:
        return (WHAT, "warn", f"Not checked: no access to Kubernetes from here. See: {command}"), None
    try:
        found = api.read_namespaced_secret(name, namespace, _request_timeout=10)
    except ApiException as error:
        if error.status == 404:
            return (
                WHAT,
                "fail",
                f"'{name}' is not in namespace '{namespace}'. Make it with the keys "
                f"{' and '.join(fields.values())}, or name another with the parameter storage_secret.",
            ), None
        return (WHAT, "warn", f"Not checked: Kubernetes answered {error.status}. See: {command}"), None
    except (HTTPError, OSError):
        return (WHAT, "warn", f"Not checked: Kubernetes cannot be reached. See: {command}"), None
    data = found.data or {}
    missing = [key for key in fields.values() if not data.get(key)]
    if missing:
        return (WHAT, "fail", f"'{name}' lacks the key {' and '.join(missing)}."), None
    try:
        values = {variable: base64.b64decode(data[key]).decode() for variable, key in fields.items()}
    except (binascii.Error, UnicodeDecodeError):
        return (
            WHAT,
            "fail",
            f"'{name}' holds no text. Make it again with kubectl create secret generic.",
        ), None
    if any(value != value.strip() for value in values.values()):
        return (
            WHAT,
            "fail",
            f"A key of '{name}' begins or ends with a space or a newline, and the store will not know it. Make "
            "the secret again, from files that printf wrote, not echo.",
        ), None
    pair = [values.get(variable, "") for variable in FIELDS]
    return (WHAT, "ok", f"'{name}' in '{namespace}' has its keys"), Keys(*pair) if all(pair) else None


@contextmanager
def lent(keys: Keys | None) -> Iterator[None]:
    """Lets the storage layer of this process use these keys for a while; ``None`` changes nothing."""
    if keys is None:
        yield
        return
    from clipseg_kfp.storage.s3 import connect

    before = {name: os.environ.get(name) for name in _VARIABLES}
    connect.cache_clear()  # clients keep the credentials that they found
    try:
        os.environ.update(AWS_ACCESS_KEY_ID=keys.access, AWS_SECRET_ACCESS_KEY=keys.secret)
        os.environ.pop("AWS_SESSION_TOKEN", None)
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        connect.cache_clear()
