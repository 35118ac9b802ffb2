"""How an option is declared, and what every group of options can do.

A group is a pydantic model. A field has its type, range, default, unit and help here and nowhere else; the
defaults that Kubeflow shows, ``--set``, the tables of the docs, the JSON Schema, all checks and the
configuration's digest derive from it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Annotated, Any, ClassVar, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from clipseg_kfp.errors import OptionsError, Problem

UNKNOWN = "extra_forbidden"


def _whole(value: Any) -> Any:
    """JSON objects reach a pod with every number as a float: 512.0 is meant to be 512."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _fixed(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


#: A whole number; 512.0 is one as well.
Whole = Annotated[int, BeforeValidator(_whole)]
#: A list of distinct words, kept as a tuple.
Words = Annotated[tuple[str, ...], BeforeValidator(_fixed)]


def option(
    default: Any, help: str, *, unit: str = "", changes_pixels: bool = False, formerly: str = "", **rules: Any
) -> Any:
    """Declares an option.

    Args:
        default: its value where nobody gives one; never ``None``.
        help: what it does, in a sentence or two.
        unit: of its number.
        changes_pixels: whether masks may differ with it: it then is part of the configuration's digest.
        formerly: its name as a parameter of version 0.1, where that was another one.
        rules: of pydantic's ``Field``, such as ``ge``.
    """
    extra: dict[str, Any] = {"unit": unit, "changes_pixels": changes_pixels, "formerly": formerly}
    return Field(default, description=help, json_schema_extra={k: v for k, v in extra.items() if v}, **rules)


class Group(BaseModel):
    """Options that belong together, and travel together."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, use_attribute_docstrings=False
    )

    #: Its name as an argument of pipelines, components and steps.
    name: ClassVar[str]

    @classmethod
    def read(cls, value: Mapping[str, Any] | None = None) -> Self:
        """Makes a group of what a person gave; what is left out takes its default.

        Args:
            value: options by name.

        Raises:
            OptionsError: lists everything that is wrong, each under its dotted name.
        """
        try:
            return cls.model_validate(dict(value or {}))
        except ValidationError as error:
            raise OptionsError([cls._problem(one) for one in error.errors()]) from None

    @classmethod
    def defaults(cls) -> dict[str, Any]:
        """All options with their defaults, as JSON: what Kubeflow's form shows."""
        return cls().model_dump(mode="json")

    def given(self) -> dict[str, Any]:
        """The options that differ from their defaults, as JSON."""
        return self.model_dump(mode="json", exclude_defaults=True)

    def pixels(self) -> dict[str, Any]:
        """The options that change pixels and differ from their defaults: a part of the configuration's digest."""
        return {
            name: value for name, value in self.given().items() if _extra(self, name).get("changes_pixels")
        }

    @classmethod
    def _problem(cls, error: ErrorDetails) -> Problem:
        where = ".".join((cls.name, *(str(part) for part in error["loc"])))
        if error["type"] == UNKNOWN:
            near = get_close_matches(str(error["loc"][-1]), cls.model_fields, 1)
            hint = (
                f"Did you mean '{cls.name}.{near[0]}'?" if near else f"It has {', '.join(cls.model_fields)}."
            )
            return Problem(where, UNKNOWN, "there is no such option", hint)
        what = error["msg"].removeprefix("Input should be ")
        if error["loc"]:  # else it is about several options, and says which
            what = f"must be {what}"
        if isinstance(error["input"], str | int | float | bool):
            what = f"{what}, not {error['input']!r:.80}"
        return Problem(where, error["type"], what, f"'clipseg-kfp options {cls.name}' lists what it takes.")


def fields(group: type[Group]) -> Iterator[tuple[str, Any, dict[str, Any]]]:
    """Yields name, field and extra facts (unit, changes_pixels, formerly) of every option of a group."""
    for name, field in group.model_fields.items():
        yield name, field, _extra(group, name)


def _extra(group: type[Group] | Group, name: str) -> dict[str, Any]:
    kind = group if isinstance(group, type) else type(group)
    extra = kind.model_fields[name].json_schema_extra
    return dict(extra) if isinstance(extra, dict) else {}
