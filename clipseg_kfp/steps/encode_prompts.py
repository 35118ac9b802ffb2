"""Turns the prompt set into a table of conditional embeddings, and names the configuration of the run.

Only this step reads the support images, masks, vectors and thresholds that prompts refer to.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from clipseg_kfp.engine.checkpoint import load_model, load_tokenizer, read_facts
from clipseg_kfp.options import Inference, Support, Views
from clipseg_kfp.prompts import (
    Encoder,
    Files,
    check_threshold,
    combine,
    encode,
    gather,
    read_prompt_set,
    read_prompt_sets,
)
from clipseg_kfp.results import configuration_digest
from clipseg_kfp.runtime.progress import say
from clipseg_kfp.steps.artifacts import EncodedPrompts, pixel_options
from clipseg_kfp.steps.handover import Handover
from clipseg_kfp.steps.timing import timed

STEP = "encode_prompts"


@timed(STEP, "encoded_prompts")
def run(
    *,
    model: Path,
    prompts: list[Any],
    encoded_prompts: Path,
    prompts_uri: str = "",
    threshold: float = 0.5,
    views: Views | None = None,
    inference: Inference | None = None,
    support: Support | None = None,
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
        views: how images are looked at; goes to later steps beside the prompts.
        inference: its precision goes along, too.
        support: example pictures, one folder per thing; each folder is one more prompt.
        prompt_sets: several prompt sets to compare, by name, in place of all other prompts: each a list as
            ``prompts``, or the URI of a prompt file. The prompts' names are then ``<set>/<name>``.
        endpoint: S3 endpoint URL.

    Returns:
        The digest of model, prompts and all options that change pixels.

    Raises:
        ParameterError: a bad threshold or prompt set, or a file of it that cannot be used; names the entry.
        StorageError: the store failed.
    """
    views, inference, support = views or Views(), inference or Inference(), support or Support()
    check_threshold(threshold)
    several = read_prompt_sets(prompt_sets or {}, endpoint)
    single = None if several else read_prompt_set(prompts, prompts_uri, support, endpoint)
    facts = read_facts(model)
    encoder = Encoder(load_model(model), facts, lambda: load_tokenizer(model))
    if single is not None:
        gathered = gather(single, facts, threshold, Files(prompts_uri, endpoint))
    else:
        gathered = combine(
            (name, gather(prompt_set, facts, threshold, Files(uri, endpoint)))
            for name, (prompt_set, uri) in several.items()
        )
    rows, embeddings = encode(gathered, encoder)  # one by one: pictures are large
    config = configuration_digest(
        model=facts.digest,
        prompts=[row.definition for row in rows],
        settings=pixel_options(views, inference),
    )
    EncodedPrompts(encoded_prompts).write(
        rows,
        embeddings,
        facts=facts,
        classes={row.name: row.name.partition("/")[2] for row in rows} if several else {},
        views=views,
        inference=inference,
        configuration=config,
    )
    for row in rows:
        for note in row.notes:
            say(STEP, f"note: prompt '{row.name}': {note}")
    counted = ", ".join(f"{count} {kind}" for kind, count in Counter(row.kind for row in rows).items())
    say(STEP, f"{len(rows)} prompts ({counted}), width {facts.projection_dim}, configuration {config}")
    return config


def handover(config: str) -> Handover:
    """The configuration's digest, for the UI."""
    return Handover(metadata={"encoded_prompts": {"configuration": config}})
