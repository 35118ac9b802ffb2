"""Tells earlier results of this suite from images: by the mark that every output has, not by names alone."""

from __future__ import annotations

import re

from clipseg_kfp.errors import ObjectChangedError, ObjectUnreadableError
from clipseg_kfp.records.untrusted import MAX_DOCUMENT_BYTES, UnreadableError, parse_document
from clipseg_kfp.results.layout import CONFIGURATION, FOLDERS, LATEST, STAGING, is_configuration
from clipseg_kfp.storage import Folder, ObjectTooLargeError
from clipseg_kfp.storage.files import FileFolder

_INDEX = "index.json"  # of the members of an archive
_DIGEST = "[0-9a-f]{16}"
_INSIDE = re.compile(f"(?:^|/)(?={'|'.join(FOLDERS)})")  # ends where a configuration's folder would
_STAGED = re.compile(rf"(?:^|.*/){STAGING}/{_DIGEST}/(?=files/)")
_REMEMBERED = 10_000


class EarlierResults:
    """Recognizes results that lie below a source.

    A folder is a configuration's where its ``configuration.json`` is ours. Only what the suite writes there counts as
    results: other names in such a folder, and folders of the same names elsewhere, are a user's.

    Args:
        folder: the source.
        staging: key of this run's own staging folder below the source, with a slash; empty where it is not below.
    """

    def __init__(self, folder: Folder, staging: str = "") -> None:
        self._folder, self._staging = folder, staging
        self._known: dict[str, bool] = {}

    def has(self, key: str) -> bool:
        """Whether an object is a result, or a member of an archive that was unpacked for a run."""
        staged = _STAGED.match(key)  # without its index, an attempt of this run was interrupted
        if staged and (staged[0].startswith(self._staging or "/") or self._is_marked(staged[0], _INDEX)):
            return True
        parent, slash, name = key.rpartition("/")
        if name in (CONFIGURATION, LATEST) and self._is_marked(parent + slash, CONFIGURATION):
            return True
        return any(self._is_marked(key[: match.end()], CONFIGURATION) for match in _INSIDE.finditer(key))

    def _is_marked(self, place: str, mark: str) -> bool:
        key = place + mark
        if key not in self._known:
            if len(self._known) >= _REMEMBERED:  # a listing comes folder by folder: the oldest are done with
                del self._known[next(iter(self._known))]
            self._known[key] = self._read(key, mark)
        return self._known[key]

    def _read(self, key: str, mark: str) -> bool:
        try:
            if mark == _INDEX:
                return self._folder.stat(key) is not None
            value = parse_document(self._folder.read(key, limit=MAX_DOCUMENT_BYTES))
        except (ObjectChangedError, ObjectUnreadableError, ObjectTooLargeError, UnreadableError):
            return False
        config = value.get("configuration") if isinstance(value, dict) else None
        return isinstance(config, str) and is_configuration(config) and {"model", "prompts"} <= set(value)


def below(source: Folder, place: Folder) -> str:
    """The key of a folder below another one, with a slash; empty where it is not below.

    In a file system ``..`` and links are followed; keys of a store are data.
    """
    if isinstance(source, FileFolder) and isinstance(place, FileFolder):
        root, inside = source.root.resolve(), place.root.resolve()
        return f"{inside.relative_to(root).as_posix()}/" if inside.is_relative_to(root) else ""
    prefix, key = source.locate(""), f"{place.locate('').rstrip('/')}/"
    return key.removeprefix(prefix) if key.startswith(prefix) else ""
