"""``clipseg-kfp prompts``: work with prompt files."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from clipseg_kfp.cli.shared import Endpoint, group
from clipseg_kfp.naming import printable

app = group("Work with prompt files.")


@app.command("check")
def prompts_check(
    file: Annotated[str, typer.Argument(help="JSON or YAML prompt file: a path or s3:// URI.")],
    model: Annotated[
        Path | None,
        typer.Option(help="Checkpoint folder: read the files that prompts name, and count tokens."),
    ] = None,
    endpoint: Endpoint = "",
) -> None:
    """Checks a prompt file and prints it in full form; one line per prompt goes to standard error.

    The files that it names must exist. With --model they are read and checked too, and texts must not be longer
    than the model reads.

    Examples:
        clipseg-kfp prompts check prompts.yaml

        clipseg-kfp prompts check s3://bucket/prompts.yaml --model ./clipseg
    """
    from clipseg_kfp.prompts import Files, check_references, check_texts, gather, read_prompts
    from clipseg_kfp.storage import open_object

    folder, key = open_object(file, endpoint)
    prompts = read_prompts(folder.read(key), file)
    files = Files(file, endpoint)
    check_references(prompts, files)
    if model:
        from clipseg_kfp.engine.checkpoint import read_facts

        facts = read_facts(model)
        check_texts(prompts, model)
        for row in gather(prompts, facts, 0.5, files):
            for note in row.notes:
                print(printable(f"note: prompt '{row.name}': {note}"), file=sys.stderr)
    for number, prompt in prompts.numbered():
        hidden = ", hidden" if prompt.hidden else ""
        print(f"{number}: {prompt.name} ({prompt.kind}{hidden})", file=sys.stderr)
    full = prompts.model_dump(mode="json", exclude_defaults=True)
    print(printable(json.dumps(full, indent=2, ensure_ascii=False), keep="\n"))


@app.command("schema")
def prompts_schema() -> None:
    """Prints the JSON Schema of prompt files, for editors and other checkers.

    Example:
        clipseg-kfp prompts schema > prompts.schema.json
    """
    from clipseg_kfp.prompts import json_schema

    print(json.dumps(json_schema(), indent=2, ensure_ascii=False))
