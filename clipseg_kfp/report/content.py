"""What a report says, as plain data."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from clipseg_kfp.errors import ParameterError

BINS = 20  # of the distributions

_COLOR = re.compile(r"#[0-9a-fA-F]{6}")


@dataclass(frozen=True)
class Tile:
    """What one prompt found in one image.

    Attributes:
        prompt: name of the prompt.
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
        """Says whether the ground truth has something here and the mask nothing."""
        return self.coverage <= 0 and self.iou == 0


@dataclass(frozen=True)
class Heat:
    """The probabilities of one prompt in one image.

    Attributes:
        prompt: name of the prompt.
        jpeg: small and colored, to lay over the preview.
    """

    prompt: str
    jpeg: bytes


@dataclass(frozen=True)
class GalleryItem:
    """One image of the gallery.

    Attributes:
        key: name below the data set's root.
        source: what people see of the place, for example the URI.
        width: of the source image, in pixels.
        height: of the source image, in pixels.
        preview: a small JPEG of the image.
        overlay: a JPEG or PNG of the same size with the masks drawn in.
        tiles: one a prompt, in the order of the prompt set.
        reason: why it was chosen, a few words; empty where it was not.
        heats: probabilities of some prompts; the first is shown until another is asked for.
        truth: a small PNG of the ground truth, transparent elsewhere; empty where there is none.
        nothing: whether that ground truth says that no prompt has anything here.
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


@dataclass(frozen=True)
class Agreement:
    """Figures of one prompt against the ground truth; see ``records.EVALUATION``.

    Attributes:
        images: with ground truth of it.
        figures: values by the names of ``metrics.json``; None where there is none.
        curve: points over the thresholds, of ``curves.json``; None where they are not at hand.
    """

    images: int
    figures: dict[str, float | None]
    curve: dict[str, Any] | None = None


@dataclass(frozen=True)
class PromptRow:
    """One prompt over the whole run.

    Attributes:
        name: of the prompt.
        texts: the words it stands for; none for image and embedding prompts.
        color: ``#rrggbb``, as used in the overlays.
        threshold: probability from which a pixel counts; ``None`` where Otsu's method chooses it.
        images: number of images with a non-empty mask.
        mean_coverage: mean share of the image, 0 to 1.
        mean_score: mean probability inside the masks, 0 to 1.
        coverages: how many masks have a share of the image in each of ``BINS`` equal bins from 0 to 1; empty
            masks are left out.
        scores: the same of the mean probability inside.
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
            raise ParameterError(
                f"The color {self.color!r} of the prompt {self.name!r} is not of the form #rrggbb."
            )


@dataclass(frozen=True)
class QuarantineRow:
    """One image that was set aside.

    Attributes:
        key: name below the data set's root.
        reason: short code.
        detail: the same for people.
    """

    key: str
    reason: str
    detail: str


@dataclass(frozen=True)
class Report:
    """All that the page shows.

    Attributes:
        title: headline, for example the data set's name.
        run: identifier of the run.
        created: time in ISO 8601, UTC.
        facts: what the run was made with (model, digest, parameters), as names and values.
        counts: images ``listed``, ``done``, ``skipped``, ``quarantined`` and ``left``, and ``masks`` written.
        mean_iou: over prompts; None without ground truth.
        prompts: the prompt set.
        quarantine: images set aside, or the first of them.
        quarantine_total: number of all images set aside.
        gallery: a choice of images, the most telling first.
        notes: remarks for the reader, one a paragraph.
        reasons: how many images were set aside for each reason.
        deleted: images of earlier runs that are no longer listed.
        thresholds: that the curves are over.
        mean_interval: 95 % interval of ``mean_iou``.
        pooled: the curve of all prompts together.
        sweep: all prompts at each of the paper's thresholds, of ``metrics.json``.
        dice: of all masks as they were written.
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
