"""The folders that pass between steps: their files, and how these are written and read.

No step knows the files of another one: they share this module only. The tables' schemas are in ``records``.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipseg_kfp import records
from clipseg_kfp.engine.checkpoint import ModelFacts
from clipseg_kfp.options import Inference, Views
from clipseg_kfp.prompts import PromptTable, Row, read_rows, read_table, write_table
from clipseg_kfp.report.build import Tables
from clipseg_kfp.results import json_bytes
from clipseg_kfp.results.layout import DELETED

LEFT = "images are left for the next run: start it again, or let 'clipseg-kfp run --until-done' do so"


@dataclass(frozen=True)
class _Folder:
    """A folder that one step writes and later ones read."""

    folder: Path

    def _json(self, name: str) -> dict[str, Any]:
        return dict(json.loads((self.folder / name).read_text("utf-8")))

    def _write_json(self, name: str, value: Any) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        with records.naming_file(self.folder / name):
            (self.folder / name).write_bytes(json_bytes(value))


class _File:
    """The path of a file in a ``_Folder``, as an attribute of that folder."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, artifact: _Folder, kind: type[_Folder]) -> Path:
        return artifact.folder / self.name


@dataclass(frozen=True)
class EncodedPrompts(_Folder):
    """From encode_prompts: the prompts with their embeddings, and all other inputs that decide pixels."""

    table_path = _File("prompts.parquet")  # the prompt table with its embeddings

    def write(
        self,
        rows: Sequence[Any],
        embeddings: NDArray[np.float32],
        *,
        facts: ModelFacts,
        classes: dict[str, str],
        views: Views,
        inference: Inference,
        configuration: str,
    ) -> None:
        """Writes all files.

        Args:
            rows: definitions of the prompts.
            embeddings: float32 (P, projection_dim), of the prompts that are not logic.
            facts: of the model that encoded them.
            classes: see ``classes``.
            views: how images are looked at.
            inference: its precision is kept.
            configuration: the digest of model, prompts and options.
        """
        write_table(self.table_path, rows, embeddings)
        self._write_json("model.json", facts.to_json())
        self._write_json("classes.json", classes)
        self._write_json("options.json", {"views": views.given(), "precision": inference.precision})
        (self.folder / "configuration.txt").write_text(configuration, "ascii")

    def table(self) -> PromptTable:
        """The prompts with their embeddings."""
        return read_table(self.table_path)

    def rows(self) -> tuple[Row, ...]:
        """The prompts without their embeddings."""
        return read_rows(self.table_path)

    def shown(self) -> list[Row]:
        """The prompts that get masks."""
        return [row for row in self.rows() if not row.hidden]

    def facts(self) -> ModelFacts:
        """What the model is."""
        return ModelFacts.from_json(self._json("model.json"))

    def classes(self) -> dict[str, str]:
        """The name of each prompt of several sets in its own set, by its full name."""
        return self._json("classes.json")

    def views(self) -> Views:
        """How images are looked at."""
        return Views.read(self._json("options.json")["views"])

    def precision(self) -> str:
        """The precision of inference."""
        return str(self._json("options.json")["precision"])

    def options(self) -> dict[str, Any]:
        """The options that change pixels and differ from their defaults, for people and for the digest."""
        return pixel_options(self.views(), Inference.read({"precision": self.precision()}))

    def configuration(self) -> str:
        """The digest of model, prompts and options.

        It is in the artifact and not a parameter, since inside a loop kfp's local runner (2.17) hands the loop item to
        every task in place of any upstream output parameter.
        """
        return (self.folder / "configuration.txt").read_text("ascii")


def pixel_options(*groups: Views | Inference) -> dict[str, Any]:
    """The options of these groups that change pixels and differ from their defaults, by group."""
    return {group.name: changed for group in groups if (changed := group.pixels())}


@dataclass(frozen=True)
class Summary:
    """What fetch_dataset listed.

    Attributes:
        source_uri: what was listed.
        listed: images of this run: to do, taken over, skipped, and quarantined before.
        skipped: of those, images that an earlier committed run with the same configuration has done, or has
            quarantined where there is no room to try them again.
        digest: sha256 (32 hex digits) of keys and versions of the images to do and to take over.
        shards: their names; never empty, since Kubeflow fails on an empty loop.
        deleted: images that earlier runs over this source have done and that are no longer listed.
        left: further images, which no run has seen; the next run takes them.
        taken_over: images that an uncommitted run has done; this run's manifest will name them.
        max_quarantined: as in ``Limits``.
        compact: whether publish_results must write a snapshot of the ledger.
        listed_at: when the listing began, in seconds since 1970.
        quarantined_before: images that an earlier run has quarantined and that are not tried again; listed, too.
        reader: ``version`` of what reads the images, and the sizes that it takes.
        sequence: the highest number in the order of commits when the listing began.
        ignored: objects under the source that are no images to segment, by kind (``dataset.ignored``). Together with
            ``listed`` and ``left`` these are all objects. ``None`` in listings of versions that did not count them.
    """

    source_uri: str
    listed: int
    skipped: int
    digest: str
    shards: list[str]
    deleted: int = 0
    left: int = 0
    taken_over: int = 0
    max_quarantined: str = ""
    compact: bool = False
    listed_at: float = 0.0
    quarantined_before: int = 0
    reader: dict[str, Any] = field(default_factory=dict)
    sequence: int = 0
    ignored: dict[str, int] | None = None


@dataclass(frozen=True)
class Listing(_Folder):
    """From fetch_dataset: the images of each shard, and the others by outcome."""

    SUMMARY = "summary.json"

    taken_path = _File("taken.parquet")  # images that an uncommitted run has done (``records.TAKEN``)
    known_path = _File("known.parquet")  # images quarantined before, not tried again (``records.QUARANTINE``)
    deleted_path = _File(DELETED)  # images that are no longer listed (``records.DELETED``)

    def shard_path(self, shard: str) -> Path:
        """Images of a shard (``records.SOURCES``)."""
        return self.folder / "shards" / f"{shard}.parquet"

    def write_summary(self, summary: Summary) -> None:
        """Writes the summary; the last file of the folder."""
        self._write_json(self.SUMMARY, asdict(summary))

    def is_complete(self) -> bool:
        """Whether the summary is there; without it fetch_dataset did not write these shards."""
        return (self.folder / self.SUMMARY).exists()

    def summary(self) -> Summary:
        """Reads the summary."""
        return Summary(**self._json(self.SUMMARY))


@dataclass(frozen=True)
class PackedViews(_Folder):
    """From preprocess_images: a shard's views and previews, and the outcome of each of its images."""

    images_path = _File("images.parquet")  # a row per image (``records.IMAGES``)
    views_path = _File("views.arrow")  # a row per view with its pixels (``records.VIEWS``)
    previews_path = _File("previews.arrow")  # a row per image with a small JPEG (``records.PREVIEWS``)

    def write_shard(self, name: str) -> None:
        """Writes the shard's name."""
        (self.folder / "shard.txt").write_text(name, "utf-8")

    def shard(self) -> str:
        """The shard's name; empty for views of an earlier version from Kubeflow's cache."""
        path = self.folder / "shard.txt"
        return path.read_text("utf-8") if path.exists() else ""


@dataclass(frozen=True)
class Probabilities(_Folder):
    """From segment_images: a map per view and prompt, and how they were computed."""

    ENGINE, FAILED = "engine.json", "failed.json"

    maps_path = _File("probabilities.arrow")  # a row per view and prompt (``records.PROBABILITIES``)

    def write_engine(self, facts: dict[str, Any]) -> None:
        """Writes how the maps were computed, and how many there are (``maps``)."""
        self._write_json(self.ENGINE, facts)

    def engine(self) -> dict[str, Any]:
        """Reads the same."""
        return self._json(self.ENGINE)

    def write_failed(self, details: dict[int, str]) -> None:
        """Writes which images the model could not do, by their row in the shard's table, and why."""
        self._write_json(self.FAILED, {str(image): detail for image, detail in details.items()})

    def failed(self) -> dict[int, str]:
        """Reads the same; empty for maps of an earlier version from Kubeflow's cache."""
        if not (self.folder / self.FAILED).exists():
            return {}
        return {int(image): detail for image, detail in self._json(self.FAILED).items()}


@dataclass(frozen=True)
class ShardMasks(_Folder):
    """From postprocess_masks: a shard's tables of images and masks, and a few pictures for the report."""

    masks_path = _File("masks.parquet")  # a row per image and prompt (``records.MASKS``)
    images_path = _File("images.parquet")  # a row per image (``records.IMAGES``)
    gallery_path = _File("gallery.arrow")  # pictures that the report may show (``records.GALLERY``)
    scores_path = _File("scores.arrow")  # maps of the images that have ground truth (``records.SCORES``)

    def take_engine(self, probabilities: Probabilities) -> None:
        """Copies how the maps were computed, for the manifest."""
        shutil.copyfile(probabilities.folder / probabilities.ENGINE, self.folder / probabilities.ENGINE)

    def engine(self) -> dict[str, Any]:
        """How the maps were computed; see ``Probabilities.engine``."""
        return Probabilities(self.folder).engine()

    def images(self, columns: list[str] | None = None) -> Iterator[dict[str, Any]]:
        """Yields the rows of images."""
        yield from records.read_parquet(self.images_path, columns)

    def masks(self, columns: list[str] | None = None) -> Iterator[dict[str, Any]]:
        """Yields the rows of masks."""
        yield from records.read_parquet(self.masks_path, columns)


@dataclass(frozen=True)
class EvaluationTables(_Folder):
    """From evaluate_masks: how masks agree with ground truth."""

    #: Files that go into the run's results, too.
    PUBLISHED = ("evaluation.parquet", "per_image.parquet", "curves.json", "thresholds.json")

    prompts_path = _File("evaluation.parquet")  # a row per prompt (``records.EVALUATION``)
    images_path = _File("per_image.parquet")  # a row per image and prompt (``records.PER_IMAGE``)
    thresholds_path = _File("thresholds.json")  # the best threshold of each prompt, for calibrated prompts
    truths_path = _File("truth.arrow")  # small pictures of ground truth for the report (``records.TRUTHS``)

    def write(self, *, metrics: Any, curves: Any, thresholds: Any) -> None:
        """Writes the figures, the data of plots, and the best thresholds."""
        self._write_json("metrics.json", metrics)
        text = json.dumps(curves, ensure_ascii=False)  # many numbers, for programs
        (self.folder / "curves.json").write_text(f"{text}\n", "utf-8")
        self._write_json("thresholds.json", thresholds)

    def metrics(self) -> dict[str, Any]:
        """The figures."""
        return self._json("metrics.json")

    def curves(self) -> dict[str, Any]:
        """The data of plots."""
        return self._json("curves.json")

    def report_tables(self, masks: Iterable[Path], shards: Iterable[ShardMasks]) -> Tables:
        """The tables of the report: these tables of masks, the shards' galleries, and this folder's."""
        galleries = [shard.gallery_path for shard in shards]
        return Tables(list(masks), galleries, self.images_path, self.truths_path)
