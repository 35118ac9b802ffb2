"""Object stores and plain folders behind one small interface."""

from clipseg_kfp.storage.base import (
    ConditionUnsupportedError,
    Entry,
    Folder,
    ObjectTooLargeError,
    missing,
    open_folder,
    open_object,
    split_object_uri,
)

__all__ = [
    "ConditionUnsupportedError",
    "Entry",
    "Folder",
    "ObjectTooLargeError",
    "missing",
    "open_folder",
    "open_object",
    "split_object_uri",
]
