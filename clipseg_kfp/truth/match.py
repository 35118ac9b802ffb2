"""Which ground truth belongs to which image, and which class to which prompts."""

from __future__ import annotations

import posixpath
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any, Generic, TypeVar

from clipseg_kfp.dataset.convention import stems
from clipseg_kfp.dataset.ground_truth import UNMATCHED, GroundTruth
from clipseg_kfp.errors import ParameterError

T = TypeVar("T")


class ByImage(Generic[T]):
    """Finds the entry of an image by the image's name.

    Names in annotation files and keys in buckets often start at different folders. So the longest common end of
    both counts: ``val/0001.jpg`` finds ``0001.jpg``, and ``0001.jpg`` finds ``val/0001.jpg`` if no other
    folder has a file of that name. Letters with accents are equal in both Unicode spellings (macOS takes them apart).

    Args:
        items: by the name that the file gives.
        suffixes: whether endings (``.jpg``) must be equal; without, they are left out on both sides, and names may
            have an ending of masks (``a_mask.png``; see ``convention``).
        uri: the file or folder, for messages.
    """

    def __init__(self, items: Mapping[str, T], suffixes: bool, uri: str) -> None:
        self._suffixes, self._uri = suffixes, uri
        self._items = {self._plain(name): (name, item) for name, item in items.items()}
        names: dict[str, list[str]] = {}
        for name in self._items:
            names.setdefault(posixpath.basename(name), []).append(name)
        self._unique = {base: full[0] for base, full in names.items() if len(full) == 1}
        self._taken: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self._items)

    @property
    def found(self) -> int:
        """How many entries an image has been found for."""
        return len(self._taken)

    def find(self, key: str) -> T | None:
        """The entry of the image with this key; ``None`` where there is none.

        Raises:
            ParameterError: another image has the same entry: one of them would be measured with the wrong one.
        """
        parts = _whole(key).split("/")
        ends = ["/".join(parts[i:]) for i in range(len(parts))]
        if not self._suffixes:
            ends = [stem for end in ends for stem in stems(end)]
        bases = (self._unique[end] for end in ends if end in self._unique)
        name = next((end for end in ends if end in self._items), next(bases, None))
        if name is None:
            return None
        written, item = self._items[name]
        first = self._taken.setdefault(name, key)
        if first != key:
            raise ParameterError(
                f"{self._uri}: the ground truth '{written}' fits both {first} and {key}.",
                "Name the folder of one of them as source_uri.",
                code="truth_ambiguous",
                where=written,
            )
        return item

    def without_image(self, most: int) -> list[str]:
        """Names of the first entries that no image has been found for."""
        return list(
            islice((written for name, (written, _) in self._items.items() if name not in self._taken), most)
        )

    def _plain(self, name: str) -> str:
        return _whole(name) if self._suffixes else posixpath.splitext(_whole(name))[0]


def _whole(name: str) -> str:
    return unicodedata.normalize("NFC", posixpath.normpath(name.replace("\\", "/")).lstrip("/"))


class TruthIndex(ABC):
    """Ground truth of a data set, by image.

    Attributes:
        images: entries by image name.
        classes: names of all classes.
        place: URI of the folder whose pictures are ground truth and no images to segment; empty for a file that
            holds everything.
        left_out: remarks on what is there and cannot be used.
    """

    images: ByImage[Any]
    classes: list[str]
    place: str = ""
    left_out: Sequence[str] = ()

    @abstractmethod
    def of(self, key: str, classes: Sequence[str]) -> Iterator[GroundTruth]:
        """Yields the ground truth of an image; each names its class in place of a prompt.

        Args:
            key: of the image.
            classes: that prompts look for; only of these is it reported that an image does not show them.

        Raises:
            ParameterError: the same ground truth fits two images.
        """


class Classes:
    """Which prompts look for which class.

    A prompt looks for the class that is assigned to it, else for that of its own name; where there is none,
    case, spaces and punctuation do not count (``dining table`` and ``diningtable``).

    Args:
        prompts: names of the prompts that get masks.
        assigned: class by prompt.

    Raises:
        ParameterError: a class is assigned to a prompt that does not exist.
    """

    def __init__(self, prompts: Iterable[str], assigned: Mapping[str, str] | None = None) -> None:
        prompts, assigned = list(prompts), assigned or {}
        for name in assigned:
            if name not in prompts:
                raise ParameterError(
                    f"ground_truth.classes: there is no prompt '{name}'.",
                    'Write {"<prompt>": "<class>"}.',
                    code="truth_class_without_prompt",
                    where=name,
                )
        self._exact: dict[str, list[str]] = {}
        self._folded: dict[str, list[str]] = {}
        for prompt in prompts:
            name = assigned.get(prompt, prompt)
            self._exact.setdefault(name, []).append(prompt)
            self._folded.setdefault(fold(name), []).append(prompt)

    def prompts_of(self, name: str) -> list[str]:
        """The prompts that look for a class."""
        return self._exact.get(name) or self._folded.get(fold(name), [])

    def assign(self, truths: Iterable[GroundTruth]) -> Iterator[GroundTruth]:
        """Replaces classes by prompts; of a class that no prompt looks for, only the name stays.

        Several classes of one prompt (``Cat`` and ``cat``) are united.
        """
        found: dict[str, GroundTruth] = {}
        for truth in truths:
            prompts = self.prompts_of(truth.prompt)
            if not prompts:
                yield GroundTruth(truth.prompt, "", UNMATCHED)
            for prompt in prompts:
                own = replace(truth, prompt=prompt)
                found[prompt] = found[prompt].united(own) if prompt in found else own
        yield from found.values()


def fold(name: str) -> str:
    """What of a name counts where no other is equal: no case, no spaces, no punctuation."""
    name = unicodedata.normalize("NFC", name)
    return "".join(c for c in name.casefold() if c.isalnum()) or name
