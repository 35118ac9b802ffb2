"""Turns the prompt set into a table of conditional embeddings, and names the configuration of the run.

Support images, masks, vectors and thresholds that prompts refer to are read here; later steps need none.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from clipseg_kfp import prompts as prompt_sets
from clipseg_kfp.model import ModelFacts, load_model, load_tokenizer, read_facts
from clipseg_kfp.progress import say
from clipseg_kfp.results import configuration_digest, json_bytes
from clipseg_kfp.settings import Settings
from clipseg_kfp.storage import open_object

STEP = "encode_prompts"
TABLE, FACTS, CONFIGURATION = "prompts.parquet", "model.json", "configuration.txt"


def run(
    *,
    model: Path,
    target: Path,
    prompts: list[Any],
    prompts_uri: str = "",
    threshold: float = 0.5,
    settings: Settings | None = None,
    support_uri: str = "",
    engineering: str = "paper",
    endpoint: str = "",
) -> str:
    """Encodes the prompts.

    Args:
        model: checkpoint folder.
        target: folder for the prompt table and the model's facts.
        prompts: texts or mappings; ignored where ``prompts_uri`` is given.
        prompts_uri: JSON or YAML prompt file; relative names in it start at its own folder.
        threshold: for prompts that name none of their own; between 0 and 1.
        settings: what else decides pixels; goes to later steps beside the prompts.
        support_uri: example pictures, a folder a thing; each is one more prompt.
        engineering: how those with masks are prepared: ``paper`` or ``none``.
        endpoint: S3 endpoint URL.

    Returns:
        The configuration's digest: model, prompts and every parameter that changes a pixel.

    Raises:
        ParameterError: a bad threshold or prompt set, or a file that it names and that cannot be used; names
            the entry.
        StorageError: the store failed.
    """
    settings = settings or Settings()
    prompt_sets.check_threshold(threshold)
    wanted = wanted_prompts(prompts, prompts_uri, support_uri, engineering, endpoint)
    facts = read_facts(model)
    encoder = prompt_sets.Encoder(load_model(model), facts, lambda: load_tokenizer(model))
    files = prompt_sets.Files(prompts_uri, endpoint)
    rows, embeddings = prompt_sets.encode(prompt_sets.gather(wanted, facts, threshold, files), encoder)
    prompt_sets.write_table(target / TABLE, rows, embeddings)
    (target / FACTS).write_bytes(json_bytes(facts.to_json()))
    settings.write(target)
    config = configuration_digest(
        model=facts.digest, prompts=[one.definition for one in rows], settings=settings.to_json()
    )
    (target / CONFIGURATION).write_text(config, "ascii")
    for one in rows:
        for note in one.notes:
            say(STEP, f"note: prompt '{one.prompt.name}': {note}")
    kinds = Counter(one.prompt.kind for one in rows)
    counted = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
    say(STEP, f"{len(rows)} prompts ({counted}), width {facts.projection_dim}, configuration {config}")
    return config


def wanted_prompts(
    prompts: list[Any],
    prompts_uri: str = "",
    support_uri: str = "",
    engineering: str = "paper",
    endpoint: str = "",
) -> prompt_sets.PromptSet:
    """Puts together what a run looks for: the list or the prompt file, then the example pictures.

    Args:
        prompts: texts or mappings; ignored where ``prompts_uri`` is given.
        prompts_uri: JSON or YAML prompt file.
        support_uri: example pictures, a folder a thing.
        engineering: ``paper`` or ``none``.
        endpoint: S3 endpoint URL.

    Raises:
        ParameterError: a bad prompt set or folder; names the entry.
        StorageError: the store failed.
    """
    prompt_sets.check_engineering(engineering)
    shown = prompt_sets.prompts_shown(support_uri, engineering, endpoint) if support_uri else []
    if not prompts_uri:
        return prompt_sets.parse_prompts(prompts, more=shown)
    folder, key = open_object(prompts_uri, endpoint)
    return prompt_sets.read_prompts(folder.read(key, limit=16 << 20), prompts_uri, shown)


def read_facts_of(folder: Path) -> ModelFacts:
    """Reads the model's facts from this step's output."""
    import json

    return ModelFacts.from_json(json.loads((folder / FACTS).read_text("utf-8")))


def prompt_rows(folder: Path) -> list[dict[str, Any]]:
    """Reads the prompt table from this step's output, without the embeddings, as JSON values."""
    return [row.to_json() for row in prompt_sets.read_rows(folder / TABLE)]


def read_configuration(folder: Path) -> str:
    """Reads the configuration's digest from this step's output.

    It travels in the artifact and not as a parameter: kfp's local runner hands the loop item to every task
    of a ParallelFor in place of any upstream output parameter (2.17).
    """
    return (folder / CONFIGURATION).read_text("ascii")
