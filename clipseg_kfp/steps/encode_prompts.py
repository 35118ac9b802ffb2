"""Turns the prompt set into a table of conditional embeddings, and names the configuration of the run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from clipseg_kfp import prompts as prompt_sets
from clipseg_kfp import records
from clipseg_kfp.engine import check_choices
from clipseg_kfp.model import ModelFacts, load_model, load_tokenizer, read_facts
from clipseg_kfp.progress import say
from clipseg_kfp.results import configuration_digest, json_bytes
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
    precision: str = "auto",
    endpoint: str = "",
) -> str:
    """Encodes the prompts.

    Args:
        model: checkpoint folder.
        target: folder for the prompt table and the model's facts.
        prompts: texts or mappings; ignored where ``prompts_uri`` is given.
        prompts_uri: JSON or YAML prompt file.
        threshold: for prompts that name none of their own; between 0 and 1.
        precision: what inference will compute in: a part of the configuration.
        endpoint: S3 endpoint URL.

    Returns:
        The configuration's digest: model, prompts and every parameter that changes a pixel.

    Raises:
        ParameterError: a bad threshold, precision or prompt set; names the entry.
    """
    check_choices(precision=precision)
    prompt_sets.check_threshold(threshold)
    wanted = _read(prompts, prompts_uri, endpoint)
    resolved = wanted.model_copy(
        update={
            "prompts": tuple(
                prompt.model_copy(update={"threshold": prompt.threshold or threshold})
                for prompt in wanted.prompts
            )
        }
    )
    facts = read_facts(model)
    embeddings = prompt_sets.embed_texts(resolved, load_model(model), load_tokenizer(model))
    prompt_sets.write_table(target / TABLE, resolved, embeddings)
    (target / FACTS).write_bytes(json_bytes(facts.to_json()))
    config = configuration_digest(
        model=facts.digest,
        prompts=[
            {"name": p.name, "texts": list(p.texts), "threshold": p.threshold} for p in resolved.prompts
        ],
        settings={"precision": precision},
    )
    (target / CONFIGURATION).write_text(config, "ascii")
    say(STEP, f"{len(resolved.prompts)} prompts, width {embeddings.shape[1]}, configuration {config}")
    return config


def _read(prompts: list[Any], prompts_uri: str, endpoint: str) -> prompt_sets.PromptSet:
    if not prompts_uri:
        return prompt_sets.parse_prompts(prompts)
    folder, key = open_object(prompts_uri, endpoint)
    return prompt_sets.read_prompts(folder.read(key, limit=16 << 20), prompts_uri)


def read_facts_of(folder: Path) -> ModelFacts:
    """Reads the model's facts from this step's output."""
    import json

    return ModelFacts.from_json(json.loads((folder / FACTS).read_text("utf-8")))


def prompt_rows(folder: Path) -> list[dict[str, Any]]:
    """Reads the prompt table from this step's output, without the embeddings."""
    return list(records.read_parquet(folder / TABLE, columns=["name", "texts", "threshold"]))


def read_configuration(folder: Path) -> str:
    """Reads the configuration's digest from this step's output.

    It travels in the artifact and not as a parameter: kfp's local runner hands the loop item to every task
    of a ParallelFor in place of any upstream output parameter (2.17).
    """
    return (folder / CONFIGURATION).read_text("ascii")
