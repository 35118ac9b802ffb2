"""Ground truth by convention: ``masks/<prompt>/<name>`` beside ``images/<name>``."""

from __future__ import annotations

import posixpath
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice

from clipseg_kfp.dataset.ground_truth import GroundTruth
from clipseg_kfp.dataset.ignored import kind_of
from clipseg_kfp.naming import spell_out
from clipseg_kfp.runtime.progress import say
from clipseg_kfp.storage import Folder

STEP = "fetch_dataset"  # whose log tells what was found
MASK_LAYOUT = "masks/<prompt>/<same name>"
IMAGES, MASKS = "images", "masks"
#: What a mask's name may have after that of its image, in the order in which it is looked for.
ENDINGS = (
    "",
    "_mask",
    "-mask",
    ".mask",
    " mask",
    "_masks",
    "_seg",
    "_segmentation",
    "_gt",
    "_label",
    "_labels",
)
DEPTH = 3  # folders that data sets are wrapped in, most of all in archives
PEEKED = 1000  # keys that are looked at for such a folder
NAMED = 10  # masks that the log names
_PACKERS = ("__MACOSX",)  # folders that packing adds beside the content


class MasksBeside:
    """The masks that lie beside a data set's images.

    A data set has them where it has both ``images/`` and ``masks/<prompt>/``, at its top or in a single folder that
    holds everything else. A mask belongs to the image with the same relative path; neither suffixes, nor one of
    ``ENDINGS`` after the mask's name, nor the spelling of accents count. Pictures below ``masks/`` are then ground
    truth and no images, whether or not an image has their name.

    Args:
        folder: the data set.
        name: of an unpacked archive: turns a key of the folder into the member's name.

    Attributes:
        images: prefix of the images; empty where there is no such layout.
        masks: prefix of the masks.

    Raises:
        StorageError: the folder cannot be listed.
    """

    def __init__(self, folder: Folder, name: Callable[[str], str] | None = None) -> None:
        self._folder, self._name = folder, name
        self._truths: dict[str, list[GroundTruth]] = {}
        self._loose: list[str] = []
        self._matched: set[str] = set()
        self._with_mask = self._seen = self._apart = 0
        self.images, self.masks = self._find()
        if self.masks:
            self._read()
        if not self._truths and not self._loose_fit():
            self.images = self.masks = ""

    def is_image(self, key: str) -> bool:
        """Whether a picture is an image to segment."""
        self._apart += not self.masks and key.startswith(f"{MASKS}/")
        return key.startswith(self.images)

    def is_mask(self, key: str) -> bool:
        """Whether a picture is ground truth."""
        return bool(self.masks) and key.startswith(self.masks)

    def of(self, key: str) -> tuple[GroundTruth, ...]:
        """The ground truth of an image; each key is to be asked for once."""
        if not self._truths:
            return ()
        found: dict[str, GroundTruth] = {}
        for stem in stems(key.removeprefix(self.images)):
            for truth in self._truths.get(stem, ()):
                if found.setdefault(truth.prompt, truth) is truth:
                    self._matched.add(truth.uri)
        self._seen += 1
        self._with_mask += bool(found)
        return tuple(found.values())

    def tell(self) -> None:
        """Logs what was looked for, how much of it fits, and which masks fit no image."""
        if self._loose:
            fate = "left out" if self.masks else "taken for images"
            where = self.masks or f"{MASKS}/"
            say(
                STEP,
                f"{len(self._loose):,} pictures right below {where} are {fate}; ground truth is read from "
                f"{MASK_LAYOUT}: {some(self._loose)}",
            )
        elif self._apart:
            say(
                STEP,
                f"{self._apart:,} pictures below {MASKS}/ are taken for images: there is no {IMAGES}/ beside it",
            )
        if not self._truths:
            return
        uris = [truth.uri for truths in self._truths.values() for truth in truths]
        say(
            STEP,
            f"ground truth: looked for {self.masks}<prompt>/<name of an image below {self.images}>: "
            f"{len(self._matched):,} of {len(uris):,} masks fit, {self._with_mask:,} of {self._seen:,} images have one",
        )
        if without := [uri for uri in uris if uri not in self._matched]:
            places = [uri.removeprefix(self._folder.locate("")) for uri in without]
            say(STEP, f"ground truth left out: {len(without):,} masks fit no image: {some(places)}")

    def _find(self) -> tuple[str, str]:
        """The prefixes of images and masks; empty where there are none."""
        around: list[str] = []
        for _ in range(DEPTH + 1):
            prefix = "".join(around)
            for images, masks in (
                (IMAGES, MASKS),
                (IMAGES.title(), MASKS.title()),
                (IMAGES.upper(), MASKS.upper()),
            ):
                if self._has(f"{prefix}{images}/"):
                    alone = all(self._alone(around, depth) for depth in range(len(around)))
                    return (f"{prefix}{images}/", f"{prefix}{masks}/") if alone else ("", "")
            # The first keys tell most data sets that are in no folder: listing all would take as long as the run's.
            above = _visible(key.removeprefix(prefix) for key, _ in islice(self._under(prefix), PEEKED))
            if len(above) != 1:
                break
            around.append(f"{above.pop()}/")
        return "", ""

    def _alone(self, around: list[str], depth: int) -> bool:
        """Whether a folder is the only one in its place."""
        prefix = "".join(around[:depth])
        if self._name is None:
            place = self._folder.child(prefix) if prefix else self._folder
            found = _visible(f"{name}/" for name in place.folders())
        else:
            found = _visible(key.removeprefix(prefix) for key, _ in self._under(prefix))
        return found == {around[depth].removesuffix("/")}

    def _read(self) -> None:
        for key, uri in self._under(self.masks):
            prompt, slash, rest = key.removeprefix(self.masks).partition("/")
            if kind_of(key):
                continue
            if slash:
                stem = _plain(posixpath.splitext(rest)[0])
                self._truths.setdefault(stem, []).append(GroundTruth(spell_out(prompt), uri))
            else:
                self._loose.append(key)

    def _loose_fit(self) -> bool:
        """Whether an image has the name of a picture right below the masks' folder: these are masks, too."""
        if not self._loose:
            return False
        loose = {_plain(posixpath.splitext(posixpath.basename(key))[0]) for key in self._loose}
        images = (key.removeprefix(self.images) for key, _ in self._under(self.images) if not kind_of(key))
        return any(not loose.isdisjoint(stems(key)) for key in images)

    def _under(self, prefix: str) -> Iterator[tuple[str, str]]:
        """Names below a prefix with their URIs."""
        # Members may be stored under other names than their own, which no prefix finds.
        for entry in self._folder.names(prefix) if self._name is None else self._folder.names():
            key = entry.key if self._name is None else self._name(entry.key)
            if key.startswith(prefix):
                yield key, self._folder.locate(entry.key)

    def _has(self, prefix: str) -> bool:
        return next(self._under(prefix), None) is not None


def _visible(keys: Iterable[str]) -> set[str]:
    """The first folders of keys, without what packing and systems add."""
    found = {name for name, slash, _ in (key.partition("/") for key in keys) if slash}
    return {name for name in found if not name.startswith(".") and name not in _PACKERS}


def stems(key: str) -> Iterator[str]:
    """What a mask of an image may be called, without its suffix: the best first.

    >>> [*stems("images/a.jpg")][:2]
    ['images/a', 'images/a_mask']
    """
    stem, suffix = posixpath.splitext(_plain(key))
    for ending in ENDINGS:
        yield stem + ending
    if suffix:
        yield stem + suffix  # a.jpg.png


def _plain(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def some(names: Sequence[str]) -> str:
    """The first names of a list, in one line."""
    more = f", and {len(names) - NAMED:,} more" if len(names) > NAMED else ""
    return ", ".join(spell_out(name) for name in names[:NAMED]) + more
