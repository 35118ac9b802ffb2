"""Object stores and plain folders behind one small interface."""

from clipseg_kfp.storage.base import (
    ConditionUnsupportedError,
    Entry,
    Folder,
    ObjectTooLargeError,
    is_web,
    missing,
    open_folder,
    open_object,
    plain_path,
    split_object_uri,
    web_reference,
)

__all__ = [
    "ConditionUnsupportedError",
    "Entry",
    "Folder",
    "ObjectTooLargeError",
    "is_web",
    "missing",
    "open_folder",
    "open_object",
    "plain_path",
    "split_object_uri",
    "web_reference",
]
