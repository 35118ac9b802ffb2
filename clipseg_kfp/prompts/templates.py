"""Sentences that texts are put into before they are encoded.

The named sets are those of the CLIPSeg paper's code. Its training draws one of a set at random; here the
embeddings of all of them are averaged, so that a run can be repeated.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema

from clipseg_kfp.naming import spell_out

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
        raise ValueError(
            f"'{spell_out(value[:100])}' is none of {', '.join(NAMED)}, and has no {{}} for the text to go"
        )
    if not isinstance(value, str | list | tuple) or not value:
        raise ValueError(f"give one of {', '.join(NAMED)}, or sentences with one {{}} each")
    if isinstance(value, list | tuple):
        for sentence in value:
            if not isinstance(sentence, str) or sentence.count("{}") != 1:
                raise ValueError(
                    f"the template {str(sentence)[:100]!r} needs exactly one {{}} for the text to go"
                )
    return value


_SENTENCE = {
    "type": "string",
    "maxLength": 1000,
    "pattern": r"^(?:(?!\{\})[\s\S])*\{\}(?:(?!\{\})[\s\S])*$",  # exactly one {}
}
Sentence = Annotated[str, Field(min_length=2, max_length=1000, pattern=r"\{\}")]
#: A named set, or sentences with exactly one ``{}`` each.
Templates = Annotated[
    Literal["plain", "fixed", "shuffle", "shuffle+"]
    | Annotated[tuple[Sentence, ...], Field(min_length=1, max_length=100)],
    BeforeValidator(_checked),
    WithJsonSchema(
        {
            "anyOf": [
                {"enum": list(NAMED)},
                _SENTENCE,
                {"type": "array", "items": _SENTENCE, "minItems": 1, "maxItems": 100},
            ]
        }
    ),
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
