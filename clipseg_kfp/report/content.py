"""The content of a report, as plain data."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

BINS = 20  # of the distributions

_COLOR = re.compile(r"#[0-9a-fA-F]{6}")


@dataclass(frozen=True)
class Tile:
    """The mask of one prompt in one image, in figures.

    Attributes:
        prompt: its name.
        coverage: share of the image inside the mask, 0 to 1.
        score: mean probability inside the mask, 0 to 1.
        iou: intersection over union with the ground truth; None where there is none.
    """

    prompt: str
    coverage: float
    score: float
    iou: float | None

    @property
    def missed(self) -> bool:
        """Whether the ground truth has foreground here and the mask is empty."""
        return self.coverage <= 0 and self.iou == 0


@dataclass(frozen=True)
class Heat:
    """The probabilities of one prompt in one image.

    Attributes:
        prompt: name of the prompt.
        jpeg: a small colored map to lay over the preview.
    """

    prompt: str
    jpeg: bytes


@dataclass(frozen=True)
class GalleryItem:
    """One image of the gallery.

    Attributes:
        key: name below the data set's root.
        source: where it lies, as people see it.
        width: of the source image, in pixels.
        height: of the source image, in pixels.
        preview: a small JPEG of the image; empty where only the overlay is left.
        overlay: a JPEG or PNG of the same size with the masks drawn in.
        tiles: one per prompt, in the order of the prompt set.
        reason: why it was chosen, in a few words; may be empty.
        heats: probabilities of some prompts; the first is shown first.
        truth: a small PNG of the ground truth, transparent elsewhere; empty where there is none.
        nothing: whether the ground truth has no foreground of any prompt here.
    """

    key: str
    source: str
    width: int
    height: int
    preview: bytes
    overlay: bytes
    tiles: tuple[Tile, ...]
    reason: str = ""
    heats: tuple[Heat, ...] = ()
    truth: bytes = b""
    nothing: bool = False

    @property
    def lines(self) -> list[Tile]:
        """The tiles with a mask, and the missed ones."""
        return [tile for tile in self.tiles if tile.coverage > 0 or tile.missed]

    @property
    def absent(self) -> list[str]:
        """The prompts of the other tiles."""
        return [tile.prompt for tile in self.tiles if tile.coverage <= 0 and not tile.missed]

    @property
    def encoded_bytes(self) -> int:
        """What the pictures take in the page, in base64."""
        pictures = (self.preview, self.overlay, self.truth, *(heat.jpeg for heat in self.heats))
        return 4 * sum(map(len, pictures)) // 3


@dataclass(frozen=True)
class Agreement:
    """Figures of one prompt against the ground truth; see ``records.EVALUATION``.

    Attributes:
        images: number of images with ground truth of it.
        figures: values by their names in ``metrics.json``; ``None`` where there is none.
        curve: points over the thresholds, of ``curves.json``; ``None`` without them.
    """

    images: int
    figures: dict[str, float | None]
    curve: dict[str, Any] | None = None


@dataclass(frozen=True)
class PromptRow:
    """One prompt over the whole run.

    Attributes:
        name: of the prompt.
        texts: its words; none for image and embedding prompts.
        color: ``#rrggbb``, as used in the overlays.
        threshold: probability from which a pixel counts; ``None`` where Otsu's method chooses it.
        images: number of images with a non-empty mask.
        mean_coverage: mean share of the image, 0 to 1.
        mean_score: mean probability inside the masks, 0 to 1.
        coverages: number of masks by share of the image, in ``BINS`` equal bins from 0 to 1; without empty masks.
        scores: the same by mean probability inside.
        agreement: figures against the ground truth; None where there is none.
    """

    name: str
    texts: tuple[str, ...]
    color: str
    threshold: float | None
    images: int
    mean_coverage: float
    mean_score: float
    coverages: tuple[int, ...] = ()
    scores: tuple[int, ...] = ()
    agreement: Agreement | None = None

    def __post_init__(self) -> None:
        if not _COLOR.fullmatch(self.color):
            raise ValueError(f"the color {self.color!r} of the prompt {self.name!r} is not #rrggbb")


@dataclass(frozen=True)
class QuarantineRow:
    """One quarantined image.

    Attributes:
        key: name below the data set's root.
        reason: short code.
        detail: a sentence for people.
    """

    key: str
    reason: str
    detail: str


@dataclass(frozen=True)
class Report:
    """Everything that the page shows.

    Attributes:
        title: headline, for example the data set's name.
        run: identifier of the run.
        created: time in ISO 8601, UTC.
        facts: names and values of what the run was made with: model, digest, parameters.
        counts: images ``listed``, ``done``, ``skipped``, ``quarantined`` and ``left``, and ``masks`` written.
        mean_iou: over prompts; None without ground truth.
        prompts: the prompt set.
        quarantine: the first of the quarantined images.
        quarantine_total: number of all quarantined images.
        gallery: selected images, the most telling first.
        notes: remarks for the reader, one per paragraph.
        reasons: number of quarantined images by reason.
        deleted: number of images of earlier runs that are no longer listed.
        thresholds: of the curves.
        mean_interval: 95 % interval of ``mean_iou``.
        pooled: the curve of all prompts together.
        sweep: all prompts at each of the paper's thresholds, of ``metrics.json``.
        dice: of all masks as they were written.
        runs: of how many runs this is the current state, ``run`` being the latest; 0 for the page of one run.
        ignored: files under the source that are no images, by kind; ``None`` where that is not known.
    """

    title: str
    run: str
    created: str
    facts: tuple[tuple[str, str], ...]
    counts: dict[str, int]
    mean_iou: float | None
    prompts: tuple[PromptRow, ...]
    quarantine: tuple[QuarantineRow, ...]
    quarantine_total: int
    gallery: tuple[GalleryItem, ...]
    notes: tuple[str, ...]
    reasons: tuple[tuple[str, int], ...] = ()
    deleted: int = 0
    thresholds: tuple[float, ...] = ()
    mean_interval: tuple[float, float] | None = None
    pooled: dict[str, Any] | None = None
    sweep: dict[str, Any] | None = None
    dice: float | None = None
    runs: int = 0
    ignored: dict[str, int] | None = None
