"""What several commands share."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from clipseg_kfp.errors import ParameterError

DEMO_FOLDER = Path(".demo")
Endpoint = Annotated[
    str, typer.Option(help="URL of the S3 endpoint; empty takes S3_ENDPOINT from the environment.")
]


def group(text: str) -> typer.Typer:
    """A group of commands, shown with this help."""
    return typer.Typer(help=text, no_args_is_help=True, rich_markup_mode="markdown")


@contextmanager
def interruptible() -> Iterator[None]:
    """Says what Ctrl-C leaves behind; typer would end without a word."""
    try:
        yield
    except KeyboardInterrupt:
        print(
            "\nStopped. The run is not committed: no manifest names the masks that it wrote. They stay "
            "in the output, and a new run makes them again.",
            file=sys.stderr,
        )
        raise typer.Exit(130) from None


def parsed_prompt(prompt: str) -> Any:
    """A prompt of the command line: an object where it looks like one, else a text."""
    if not prompt.lstrip().startswith("{"):
        return prompt
    try:
        return json.loads(prompt)
    except ValueError as error:
        raise ParameterError(f"--prompt {prompt!r} is no JSON object: {error}.") from error


def parsed_classes(pairs: list[str]) -> dict[str, str]:
    """Class by prompt, of options such as ``a cat=cat``."""
    return dict(parted(text, "=", "--ground-truth-class", "a cat=cat") for text in pairs)


def parted(text: str, sign: str, option: str, example: str) -> tuple[str, str]:
    """Both parts of an option's value; raises ``ParameterError`` where one is missing."""
    name, found, rest = (part.strip() for part in text.partition(sign))
    if not (name and found and rest):
        raise ParameterError(f"{option} {text!r} has no '{sign}' between two parts.", f'Write "{example}".')
    return name, rest
