"""The pages' templates: all that they print is escaped and made visible."""

from __future__ import annotations

import base64
import hashlib
from functools import cache, lru_cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

from clipseg_kfp.report.figures import distribution, interval
from clipseg_kfp.report.text import moment, percent, thousands, visible


def template(name: str) -> Template:
    """The template of that name."""
    return _environment().get_template(name)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("clipseg_kfp", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        percent=percent,
        thousands=thousands,
        moment=moment,
        visible=visible,
        csp_hash=_csp_hash,
        data_uri=_data_uri,
    )
    environment.globals.update(distribution=distribution, interval=interval)
    return environment


def _finalize(value: Any) -> Any:
    """Makes every printed string visible; Markup is the template's own and is not changed."""
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


@lru_cache(maxsize=256)  # a page is rendered several times until it fits
def _data_uri(picture: bytes) -> Markup:
    """Encodes a picture for ``src``; Markup, because base64 must not be escaped or shortened."""
    kind = "png" if picture.startswith(b"\x89PNG") else "jpeg"
    return Markup(f"data:image/{kind};base64,{base64.b64encode(picture).decode('ascii')}")


def _csp_hash(script: str) -> Markup:
    return Markup(base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii"))
