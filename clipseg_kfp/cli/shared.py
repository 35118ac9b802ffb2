"""What several commands share."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from clipseg_kfp.errors import ParameterError
from clipseg_kfp.options import GROUPS, add_word, from_word, nested, options_of, read_groups

DEMO_FOLDER = Path(".demo")
#: On one machine each shard starts processes, not pods: larger shards start fewer.
LOCAL_SHARD_SIZE = 500
Endpoint = Annotated[
    str, typer.Option(help="URL of the S3 endpoint; empty takes S3_ENDPOINT from the environment.")
]


def group(text: str) -> typer.Typer:
    """A group of commands, shown with this help."""
    return typer.Typer(help=text, no_args_is_help=True, rich_markup_mode="markdown")


@contextmanager
def interruptible() -> Iterator[None]:
    """Tells what Ctrl-C leaves behind; typer would end silently."""
    try:
        yield
    except KeyboardInterrupt:
        print(
            "\nStopped. The run is not committed: no manifest names the masks that it wrote. They stay "
            "in the output, and a new run makes them again.",
            file=sys.stderr,
        )
        raise typer.Exit(130) from None


Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="GROUP.OPTION=VALUE",
        help="Any option, such as views.tile_size=512 or outputs.formats=yolo,csv; repeat for more. "
        "'clipseg-kfp options' lists all.",
        rich_help_panel="All other options",
    ),
]


def set_options(words: list[str] | None, groups: Iterable[str]) -> dict[str, Any]:
    """Reads ``--set group.option=value`` into nested groups, and checks names and values.

    Args:
        words: as given.
        groups: names of the groups that may be set.

    Raises:
        ParameterError: a word without ``=``.
        OptionsError: options that do not exist or cannot have that value, all of them at once.
    """
    groups, given = list(groups), dict[str, Any]()
    for word in words or []:
        name, sign, value = (part.strip() for part in word.partition("="))
        if not (name and sign):
            raise ParameterError(
                f"--set {word!r} is not of the form GROUP.OPTION=VALUE.",
                'Write "views.tile_size=512".',
                code="set_form",
                where=word,
            )
        group, _, option = name.partition(".")
        if group not in groups or (option and option not in options_of(group)):
            given[name] = value  # nested() says what is wrong with it
        elif option:
            add_word(given, name, from_word(GROUPS[group], option, value))
        else:
            add_word(given, name, json_object(name, value))
    found = nested(given, groups)
    read_groups(found, groups)
    return found


def local_groups(
    words: list[str] | None, support: str, ground_truth: str, classes: list[str] | None, run_id: str
) -> dict[str, Any]:
    """The groups of options of a local run: everyday options of the command line, and ``--set`` above them.

    Args:
        words: of ``--set``.
        support: folder of example pictures.
        ground_truth: URI.
        classes: of ``--ground-truth-class``.
        run_id: name of the run.
    """
    truth: dict[str, Any] = {"uri": ground_truth} if ground_truth else {}
    if classes:
        truth["classes"] = parsed_classes(classes)
    below: dict[str, dict[str, Any]] = {
        "limits": {"shard_size": LOCAL_SHARD_SIZE},
        "outputs": {"run_id": run_id},
        "ground_truth": truth,
        **({"support": {"uri": support}} if support else {}),
    }
    above = set_options(words, GROUPS if support else [name for name in GROUPS if name != "support"])
    return {name: {**below.get(name, {}), **above.get(name, {})} for name in {**below, **above}}


def parsed_prompt(prompt: str) -> Any:
    """A prompt of the command line: an object where it looks like one, else a text."""
    if not prompt.lstrip().startswith("{"):
        return prompt
    try:
        return json.loads(prompt)
    except ValueError as error:
        raise ParameterError(
            f"--prompt {prompt!r} is not a JSON object: {error}.",
            "Give a text, or a JSON object as in prompt files (docs/prompts.md).",
            code="prompts_not_json",
            where="prompt",
        ) from error


def parsed_classes(pairs: list[str]) -> dict[str, str]:
    """Class by prompt, of options such as ``a cat=cat``."""
    return dict(parted(text, "=", "--ground-truth-class", "a cat=cat") for text in pairs)


def json_object(name: str, text: str) -> dict[str, Any]:
    """Reads a group that is given whole, such as ``views={"tile_size": 512}``."""
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise ParameterError(
            f"--set {name}: {text!r} is not a JSON object.",
            f"Write --set '{name}={{\"option\": value}}', or --set {name}.OPTION=VALUE.",
            code="json_object",
            where=name,
        )
    return value


def parted(text: str, sign: str, option: str, example: str) -> tuple[str, str]:
    """Both parts of an option's value; raises ``ParameterError`` where one is missing."""
    name, found, rest = (part.strip() for part in text.partition(sign))
    if not (name and found and rest):
        raise ParameterError(
            f"{option} {text!r} has no '{sign}' between two parts.",
            f'Write "{example}".',
            code="two_parts",
            where=option.lstrip("-"),
        )
    return name, rest
