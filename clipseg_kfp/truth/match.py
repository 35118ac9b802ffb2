"""Which ground truth belongs to which image, and which class to which prompts."""

from __future__ import annotations

import posixpath
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from typing import Generic, TypeVar

from clipseg_kfp.dataset.ground_truth import UNMATCHED, GroundTruth
from clipseg_kfp.errors import ParameterError

T = TypeVar("T")


class ByImage(Generic[T]):
    """Finds what a file says of an image by the image's name.

    Names in annotation files are seldom written from the same folder as keys are. So the longest common end of
    both is taken: ``val/0001.jpg`` finds ``0001.jpg``, and ``0001.jpg`` finds ``val/0001.jpg`` if no other
    folder has one of that name. Letters with accents are alike however they are spelled (macOS takes them apart).

    Args:
        items: by the name that the file gives.
        suffixes: whether endings (``.jpg``) must be equal; without, they are left out on both sides.
        where: the file, for messages.
    """

    def __init__(self, items: Mapping[str, T], suffixes: bool, where: str) -> None:
        self._suffixes, self._where = suffixes, where
        self._items = {self._plain(name): (name, item) for name, item in items.items()}
        names: dict[str, list[str]] = {}
        for name in self._items:
            names.setdefault(posixpath.basename(name), []).append(name)
        self._unique = {base: found[0] for base, found in names.items() if len(found) == 1}
        self._taken: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self._items)

    @property
    def found(self) -> int:
        """How many were found."""
        return len(self._taken)

    def find(self, key: str) -> T | None:
        """What belongs to the image of that key.

        Raises:
            ParameterError: another image took it before: one of both would be measured with the wrong one.
        """
        parts = self._plain(key).split("/")
        ends = ("/".join(parts[i:]) for i in range(len(parts)))
        name = next((end for end in ends if end in self._items), self._unique.get(parts[-1]))
        if name is None:
            return None
        first = self._taken.setdefault(name, key)
        said, item = self._items[name]
        if first != key:
            raise ParameterError(
                f"{self._where}: the ground truth of '{said}' fits both {first} and {key}.",
                "Name the folder of one of them as source_uri.",
            )
        return item

    def _plain(self, name: str) -> str:
        name = unicodedata.normalize("NFC", posixpath.normpath(name.replace("\\", "/")).lstrip("/"))
        return name if self._suffixes else posixpath.splitext(name)[0]


class Classes:
    """Which prompts look for which class.

    A prompt looks for the class that is named for it, else for that of its own name; where there is none,
    letters' case, spaces and signs do not count (``dining table`` and ``diningtable``).

    Args:
        prompts: names of the prompts that get masks.
        named: class by prompt.

    Raises:
        ParameterError: a class is named for something that is no prompt.
    """

    def __init__(self, prompts: Iterable[str], named: Mapping[str, str] | None = None) -> None:
        prompts, named = list(prompts), named or {}
        for name in named:
            if name not in prompts:
                raise ParameterError(
                    f"ground_truth_classes names a class for '{name}', which is no prompt.",
                    'Write {"<prompt>": "<class>"}.',
                )
        self._exact: dict[str, list[str]] = {}
        self._folded: dict[str, list[str]] = {}
        for prompt in prompts:
            wanted = named.get(prompt, prompt)
            self._exact.setdefault(wanted, []).append(prompt)
            self._folded.setdefault(_fold(wanted), []).append(prompt)

    def prompts_of(self, name: str) -> list[str]:
        """The prompts that look for a class."""
        return self._exact.get(name) or self._folded.get(_fold(name), [])

    def assign(self, truths: Iterable[GroundTruth]) -> Iterator[GroundTruth]:
        """Replaces classes by prompts; what nobody looks for stays as a name only."""
        taken: set[str] = set()
        for truth in truths:
            prompts = self.prompts_of(truth.prompt)
            if not prompts:
                yield GroundTruth(truth.prompt, "", UNMATCHED)
            for prompt in prompts:
                if prompt not in taken:  # "Cat" and "cat" in one file: the first
                    taken.add(prompt)
                    yield GroundTruth(prompt, truth.uri, truth.kind, truth.data)


def _fold(name: str) -> str:
    name = unicodedata.normalize("NFC", name)
    return "".join(c for c in name.casefold() if c.isalnum()) or name
