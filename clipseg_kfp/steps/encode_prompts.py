"""Turns the prompt set into a table of conditional embeddings, and names the configuration of the run.

Support images, masks, vectors and thresholds that prompts refer to are read here; later steps need none.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from clipseg_kfp.engine.checkpoint import ModelFacts, load_model, load_tokenizer, read_facts
from clipseg_kfp.errors import ParameterError
from clipseg_kfp.prompts import (
    Encoder,
    Files,
    PromptSet,
    check_engineering,
    check_threshold,
    combine,
    encode,
    gather,
    parse_prompts,
    prompts_shown,
    read_prompts,
    read_rows,
    write_table,
)
from clipseg_kfp.results import configuration_digest, json_bytes
from clipseg_kfp.runtime.progress import say
from clipseg_kfp.steps.handover import Handover
from clipseg_kfp.steps.settings import Settings
from clipseg_kfp.steps.timing import timed
from clipseg_kfp.storage import open_object

STEP = "encode_prompts"
TABLE, FACTS, CONFIGURATION = "prompts.parquet", "model.json", "configuration.txt"
CLASSES = "classes.json"


@timed(STEP, "encoded_prompts")
def run(
    *,
    model: Path,
    prompts: list[Any],
    encoded_prompts: Path,
    prompts_uri: str = "",
    threshold: float = 0.5,
    precision: str = "auto",
    tile_size: int = 0,
    tile_ground_resolution: float = 0.0,
    tile_overlap: float = 0.25,
    meters_per_pixel: float = 0.0,
    flip: bool = False,
    support_uri: str = "",
    engineering: str = "paper",
    prompt_sets: dict[str, Any] | None = None,
    endpoint: str = "",
) -> str:
    """Encodes the prompts.

    Args:
        model: checkpoint folder.
        prompts: texts or mappings; ignored where ``prompts_uri`` is given.
        encoded_prompts: folder for the prompt table and the model's facts.
        prompts_uri: JSON or YAML prompt file; relative names in it start at its own folder.
        threshold: for prompts that name none of their own; between 0 and 1.
        precision: as all up to ``flip`` part of the settings, which go to later steps beside the prompts; see
            ``Settings.of``.
        tile_size: side of tiles in pixels of the source; 0 cuts none.
        tile_ground_resolution: instead of it, meters that a pixel of the model covers.
        tile_overlap: least overlap of neighboring tiles, as a part of their side.
        meters_per_pixel: ground resolution of the images; 0 takes what their files say.
        flip: average the maps of every view with those of its mirror image.
        support_uri: example pictures, a folder a thing; each is one more prompt.
        engineering: how those with masks are prepared: ``paper`` or ``none``.
        prompt_sets: several prompt sets to be compared, by name, in place of all the others: each a list as
            ``prompts``, or the URI of a prompt file. Prompts are then called ``<set>/<name>``.
        endpoint: S3 endpoint URL.

    Returns:
        The configuration's digest: model, prompts and every parameter that changes a pixel.

    Raises:
        ParameterError: a bad threshold or prompt set, or a file that it names and that cannot be used; names
            the entry.
        StorageError: the store failed.
    """
    settings = Settings.of(
        precision=precision,
        tile_size=tile_size,
        tile_ground_resolution=tile_ground_resolution,
        tile_overlap=tile_overlap,
        meters_per_pixel=meters_per_pixel,
        flip=flip,
    )
    check_threshold(threshold)
    several = wanted_sets(prompt_sets or {}, endpoint)
    wanted = None if several else wanted_prompts(prompts, prompts_uri, support_uri, engineering, endpoint)
    facts = read_facts(model)
    encoder = Encoder(load_model(model), facts, lambda: load_tokenizer(model))
    if wanted is not None:
        gathered = gather(wanted, facts, threshold, Files(prompts_uri, endpoint))
    else:
        gathered = combine(
            (name, gather(one, facts, threshold, Files(place, endpoint)))
            for name, (one, place) in several.items()
        )
    rows, embeddings = encode(gathered, encoder)  # takes them one by one: pictures are large
    classes = {one.prompt.name: one.prompt.name.partition("/")[2] for one in rows} if several else {}
    write_table(encoded_prompts / TABLE, rows, embeddings)
    (encoded_prompts / FACTS).write_bytes(json_bytes(facts.to_json()))
    (encoded_prompts / CLASSES).write_bytes(json_bytes(classes))
    settings.write(encoded_prompts)
    config = configuration_digest(
        model=facts.digest, prompts=[one.definition for one in rows], settings=settings.to_json()
    )
    (encoded_prompts / CONFIGURATION).write_text(config, "ascii")
    for one in rows:
        for note in one.notes:
            say(STEP, f"note: prompt '{one.prompt.name}': {note}")
    kinds = Counter(one.prompt.kind for one in rows)
    counted = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
    say(STEP, f"{len(rows)} prompts ({counted}), width {facts.projection_dim}, configuration {config}")
    return config


def handover(config: str) -> Handover:
    """The configuration's digest, for the UI."""
    return Handover(metadata={"encoded_prompts": {"configuration": config}})


def wanted_prompts(
    prompts: list[Any] | dict[str, Any],
    prompts_uri: str = "",
    support_uri: str = "",
    engineering: str = "paper",
    endpoint: str = "",
) -> PromptSet:
    """Puts together what a run looks for: the list or the prompt file, then the example pictures.

    Args:
        prompts: texts or mappings, or a whole set as a mapping; ignored where ``prompts_uri`` is given.
        prompts_uri: JSON or YAML prompt file.
        support_uri: example pictures, a folder a thing.
        engineering: ``paper`` or ``none``.
        endpoint: S3 endpoint URL.

    Raises:
        ParameterError: a bad prompt set or folder; names the entry.
        StorageError: the store failed.
    """
    check_engineering(engineering)
    shown = prompts_shown(support_uri, engineering, endpoint) if support_uri else []
    if not prompts_uri:
        return parse_prompts(prompts, more=shown)
    folder, key = open_object(prompts_uri, endpoint)
    return read_prompts(folder.read(key, limit=16 << 20), prompts_uri, shown)


def wanted_sets(value: dict[str, Any], endpoint: str = "") -> dict[str, tuple[PromptSet, str]]:
    """Reads several prompt sets.

    Args:
        value: lists of prompts or URIs of prompt files, by name.
        endpoint: S3 endpoint URL.

    Returns:
        Each set, with the URI that relative names in it start at.

    Raises:
        ParameterError: a bad set; names it.
        StorageError: the store failed.
    """
    found = {}
    for name, one in value.items():
        if not name.strip() or "/" in name or not name.isprintable():
            raise ParameterError(f"prompt_sets: {name!r} is no name for a set.", "Use letters, without '/'.")
        if not isinstance(one, str | list | dict):
            raise ParameterError(
                f"prompt_sets: '{name}' is neither a list of prompts nor the URI of a prompt file."
            )
        place = one if isinstance(one, str) else ""
        try:
            found[name] = (
                wanted_prompts([] if isinstance(one, str) else one, place, endpoint=endpoint),
                place,
            )
        except ParameterError as error:
            raise ParameterError(f"prompt_sets, '{name}': {error.message}", error.remedy) from error
    return found


def classes_of(folder: Path) -> dict[str, str]:
    """What the prompts of several sets are called in their own set, by their name in the table."""
    value: dict[str, str] = json.loads((folder / CLASSES).read_text("utf-8"))
    return value


def read_facts_of(folder: Path) -> ModelFacts:
    """Reads the model's facts from this step's output."""
    return ModelFacts.from_json(json.loads((folder / FACTS).read_text("utf-8")))


def prompt_rows(folder: Path) -> list[dict[str, Any]]:
    """Reads the prompt table from this step's output, without the embeddings, as JSON values."""
    return [row.to_json() for row in read_rows(folder / TABLE)]


def read_configuration(folder: Path) -> str:
    """Reads the configuration's digest from this step's output.

    It travels in the artifact and not as a parameter: kfp's local runner hands the loop item to every task
    of a ParallelFor in place of any upstream output parameter (2.17).
    """
    return (folder / CONFIGURATION).read_text("ascii")
