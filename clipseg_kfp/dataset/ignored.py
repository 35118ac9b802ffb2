"""What lies under a source and is no image to segment: told by its name, and counted by kind."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import PurePosixPath

from clipseg_kfp.images.formats import IMAGE_SUFFIXES

#: Kinds that are no suffix.
HIDDEN = (
    "hidden"  # files and folders that file managers, notebooks and storage appliances keep for themselves
)
MARKER = "marker"  # names without a suffix that are known to be no pictures
GROUND_TRUTH = "ground_truth"  # pictures of where things are
RESULTS = "results"  # of this suite's earlier runs
BESIDE_IMAGES = "beside_images"  # pictures outside images/, where ground truth lies in masks/
OTHER = "other"  # odd suffixes, and all others once there are ``MOST_SUFFIXES``

MOST_SUFFIXES = 50
SHOWN = 10  # kinds that a message names

_HIDDEN_FOLDERS = frozenset(
    ("@eadir", "@recycle", "#recycle", "#snapshot", "__macosx", "$recycle.bin", "lost+found")
) | {"system volume information"}
_SUFFIX = re.compile(r"\.[a-z0-9][a-z0-9_+-]{0,11}")
# What Spark, Hadoop, Hive, Databricks and packers leave beside data, and files that repositories begin with.
_MARKERS = re.compile(
    r"_(success|failure|temporary|metadata|common_metadata|(committed|started)_.*)|.*_\$folder\$"
    r"|readme|licen[cs]e|copying|copyright|notice|authors|contributors|changelog|changes|history|install|news|todo"
    r"|version|manifest|makefile|dockerfile|checksums?|(md5|sha1|sha256|sha512)sums?|codeowners",
    re.IGNORECASE,
)


def kind_of(key: str, size: int = -1) -> str:
    """Says by its name why an object is no image.

    A name without a suffix may well be an image's: stores that name objects after their content do so. Only known
    markers and empty objects are told apart.

    Args:
        key: below the source, with slashes.
        size: bytes; -1 where not known.

    Returns:
        Empty where it may be an image, else ``HIDDEN``, ``MARKER``, ``OTHER`` or its suffix in lower case.

    >>> kind_of("a/b.JPG"), kind_of("a/0f3c2e"), kind_of("a/LICENSE"), kind_of("a/b.svg"), kind_of(".x/b.jpg")
    ('', '', 'marker', '.svg', 'hidden')
    """
    parts = key.split("/")
    if any(_is_hidden(part) for part in parts):
        return HIDDEN
    name = parts[-1]
    suffix = PurePosixPath(name).suffix.lower()
    if suffix in IMAGE_SUFFIXES:
        return ""
    if _MARKERS.fullmatch(name):
        return MARKER
    if not suffix:
        return "" if size else MARKER
    return suffix if _SUFFIX.fullmatch(suffix) else OTHER


def _is_hidden(part: str) -> bool:
    return re.match(r"\.[^.]", part) is not None or part.lower() in _HIDDEN_FOLDERS  # "...jpg" is just odd


class Ignored:
    """Counts what is ignored, by kind; memory is bounded, whatever names there are."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._suffixes = 0

    def add(self, kind: str) -> None:
        """Counts an object of a kind."""
        if kind.startswith(".") and kind not in self._counts:
            if self._suffixes == MOST_SUFFIXES:
                kind = OTHER
            else:
                self._suffixes += 1
        self._counts[kind] += 1

    def counts(self) -> dict[str, int]:
        """The number of each kind, the most frequent first; equal ones by name."""
        return dict(sorted(self._counts.items(), key=lambda item: (-item[1], item[0])))


def ignored_text(counts: Mapping[str, int] | None) -> str:
    """A few words about what was ignored, such as ``123 files ignored: 120 .svg, 3 .txt``.

    Args:
        counts: by kind; ``None`` for results of a version that did not count them.

    Returns:
        Empty where nothing was ignored, or that is not known.
    """
    if not counts:
        return ""
    total = sum(counts.values())
    first = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:SHOWN]
    words = [f"{count:,} {kind.replace('_', ' ')}" for kind, count in first]
    if len(counts) > SHOWN:
        words.append(f"{total - sum(count for _, count in first):,} of other kinds")
    return f"{total:,} file{'' if total == 1 else 's'} ignored: {', '.join(words)}"
