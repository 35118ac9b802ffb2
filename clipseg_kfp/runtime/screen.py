"""User text on a terminal: keys, prompts and messages are data, never markup, emoji codes or terminal codes."""

from __future__ import annotations

from rich.text import Text

from clipseg_kfp.naming import printable


def plain(text: object, style: str = "") -> Text:
    r"""A cell or a line that shows a text as it is, with newlines as ``\u000a`` and without logins of URIs.

    ``rich.markup.escape`` is not enough: codes such as ``:x:`` are replaced in any string that rich prints.
    """
    return Text(printable(str(text)), style=style)
