"""Writes the README of every component and pipeline from its KFP specification, so that they cannot drift.

``python -m tools.catalog`` rewrites them; a test compares.
"""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

from docstring_parser import parse

from clipseg_kfp.options import GROUPS, markdown

ROOT = Path(__file__).parents[1]


def render(component: Any, folder: Path) -> str:
    """Renders the README of a component or pipeline.

    Args:
        component: what ``@dsl.component`` or ``@dsl.pipeline`` returned.
        folder: where it lives; a ``notes.md`` there is appended.
    """
    function = getattr(component, "python_func", None) or component.pipeline_func
    doc = parse(inspect.getdoc(function) or "")
    said = {item.arg_name: _words(item.description) for item in doc.params}
    spec = component.component_spec
    lines = [f"# {spec.name.replace('-', '_') if folder.parent.name == 'components' else spec.name}", ""]
    lines += [" ".join((doc.short_description or "").split()), ""]
    if doc.long_description:
        lines += [doc.long_description, ""]
    lines += ["## Inputs", "", "| name | type | default | what it is |", "| --- | --- | --- | --- |"]
    # An artifact may have the name of a group, too: views.
    groups = [name for name, item in (spec.inputs or {}).items() if name in GROUPS and _type(item) == "Dict"]
    for name, item in (spec.inputs or {}).items():
        default = f"`{json.dumps(item.default)}`" if item.optional else "required"
        if name in groups:
            own = {k: v for k, v in (item.default or {}).items() if v != GROUPS[name].defaults()[k]}
            default = f"[options](#options){f' with `{json.dumps(own)}`' if own else ''}"
        lines.append(f"| `{name}` | {_type(item)} | {default} | {said.get(name, '')} |")
    if groups:
        lines += ["", "## Options", "", markdown(groups)]
    lines += ["", "## Outputs", "", "| name | type | what it is |", "| --- | --- | --- |"]
    returned = _words(doc.returns.description) if doc.returns else ""
    for name, item in (spec.outputs or {}).items():
        lines.append(f"| `{name}` | {_type(item)} | {said.get(name, returned)} |")
    notes = folder / "notes.md"
    if notes.exists():
        lines += ["", notes.read_text("utf-8").strip()]
    return "\n".join(lines) + "\n"


def _words(text: str | None) -> str:
    """A description on one line, its <placeholders> kept from being taken for HTML."""
    return " ".join((text or "").split()).replace("<", "\\<")


def _type(item: Any) -> str:
    name = str(item.type).removeprefix("system.").partition("@")[0]
    return f"list of {name}" if getattr(item, "is_artifact_list", False) else name


def readmes() -> dict[Path, str]:
    """Returns the README text of every component and pipeline by path."""
    from clipseg_kfp import pipelines
    from clipseg_kfp.components import ALL as COMPONENTS

    found: dict[Path, str] = {}
    for component in COMPONENTS:
        folder = ROOT / "components" / component.component_spec.name.replace("-", "_")
        found[folder / "README.md"] = render(component, folder)
    for name, pipeline in pipelines.ALL.items():
        folder = ROOT / "pipelines" / name
        found[folder / "README.md"] = render(pipeline, folder)
    return found


def packages() -> dict[Path, str]:
    """Returns the compiled package of every pipeline by path."""
    from clipseg_kfp.pipelines import ALL
    from clipseg_kfp.site.compile import compile_pipeline

    return {ROOT / "pipelines" / name / "pipeline.yaml": compile_pipeline(name) for name in ALL}


def main() -> None:
    """Rewrites all of them, and the compiled packages."""
    for path, text in {**readmes(), **packages()}.items():
        path.write_text(text, "utf-8")


if __name__ == "__main__":
    main()
