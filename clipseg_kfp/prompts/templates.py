"""Sentences that texts are put into before they are encoded.

The named sets are those of the CLIPSeg paper's code. Its training draws one of a set at random; here the
embeddings of all of them are averaged, so that a run can be repeated.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from clipseg_kfp.prompts.entries import mistake

_SHUFFLE = ("a photo of a {}.", "a photograph of a {}.", "an image of a {}.", "{}.")
NAMED: dict[str, tuple[str, ...]] = {
    "plain": ("{}",),
    "fixed": ("a photo of a {}.",),
    "shuffle": _SHUFFLE,
    "shuffle+": (
        *_SHUFFLE,
        "a cropped photo of a {}.",
        "a good photo of a {}.",
        "a photo of one {}.",
        "a bad photo of a {}.",
        "a photo of the {}.",
    ),
}


def _checked(value: Any) -> Any:
    if isinstance(value, str) and "{}" in value:
        value = [value]
    if isinstance(value, str) and value not in NAMED:
        raise mistake(
            "template_unknown",
            f"'{value[:100]}' is not one of {', '.join(NAMED)}, and has no {{}} for the text to go",
        )
    if not isinstance(value, str | list | tuple) or not value:
        raise mistake("template_type", f"give one of {', '.join(NAMED)}, or sentences with one {{}} each")
    for sentence in () if isinstance(value, str) else value:
        if not isinstance(sentence, str) or sentence.count("{}") != 1:
            raise mistake(
                "template_place",
                f"the template {str(sentence)[:100]!r} needs exactly one {{}} for the text to go",
            )
    return value


_REST = r"([^{]|\{+[^{}])*\{*"  # any text without {}
Sentence = Annotated[str, Field(min_length=2, max_length=1000, pattern=rf"^{_REST}\{{\}}{_REST}$")]
_Name = Literal["plain", "fixed", "shuffle", "shuffle+"]
_Sentences = Annotated[tuple[Sentence, ...], Field(min_length=1, max_length=100)]
#: A named set, or sentences with exactly one ``{}`` each.
Templates = Annotated[
    _Name | _Sentences, BeforeValidator(_checked, json_schema_input_type=_Name | Sentence | _Sentences)
]


def sentences(templates: str | tuple[str, ...] | None) -> tuple[str, ...]:
    """The sentences of a set; ``None`` is the plain text.

    >>> sentences("fixed")
    ('a photo of a {}.',)
    """
    if templates is None:
        return NAMED["plain"]
    return NAMED[templates] if isinstance(templates, str) else templates


def filled(texts: tuple[str, ...], templates: str | tuple[str, ...] | None) -> list[str]:
    """Every text in every sentence."""
    return [sentence.replace("{}", text) for text in texts for sentence in sentences(templates)]
