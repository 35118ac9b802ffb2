"""Imports only go down, floor by floor, and nowhere in a circle."""

import ast
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = {
    "clipseg_kfp": "clipseg_kfp",
    "components": "clipseg_kfp.components",
    "pipelines": "clipseg_kfp.pipelines",
}

#: From the top; rooms of one floor may import each other.
FLOORS = (
    {"cli"},
    {"demo"},
    {"client", "local", "segmenter"},
    {"components", "pipelines", "site"},
    {"steps"},
    {"report", "training"},
    {"truth", "metrics", "results"},
    {"prompts", "views", "masks", "engine", "dataset"},
    {"images", "storage"},
    {"options", "records", "runtime", "errors", "naming"},
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}


@cache
def modules() -> dict[str, Path]:
    found = {}
    for folder, package in PACKAGES.items():
        for path in (ROOT / folder).rglob("*.py"):
            parts = [package, *path.relative_to(ROOT / folder).with_suffix("").parts]
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def imports(module: str, lazy: bool) -> frozenset[str]:
    """What a module imports of ours; with ``lazy``, within functions as well."""
    known, tree = modules(), ast.parse(modules()[module].read_text("utf-8"))
    found = set()
    nodes = list(ast.walk(tree)) if lazy else list(_at_import(tree))
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{name.name}" for name in node.names} | {node.module}
        elif isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
    return frozenset(found & known.keys()) - {module}


def _at_import(node: ast.AST):
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        yield child
        yield from _at_import(child)


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def test_every_room_is_on_a_floor():
    assert {room(name) for name in modules()} - {""} == FLOOR.keys() - {"training"}


def test_the_root_has_at_most_seven_modules():
    assert len(list((ROOT / "clipseg_kfp").glob("*.py"))) <= 7


def test_imports_go_down():
    up = {
        f"{module} -> {target}"
        for module in modules()
        for target in imports(module, lazy=True)
        if room(module) and room(target) and FLOOR[room(module)] > FLOOR[room(target)]
    }
    assert not up


def test_no_module_imports_itself_in_a_circle():
    done: set[str] = set()

    def visit(module: str, way: tuple[str, ...]) -> None:
        assert module not in way, " -> ".join((*way[way.index(module) :], module))
        if module not in done:
            for target in sorted(imports(module, lazy=False)):
                # a package's own __init__ is loaded before its modules whatever they import
                if not module.startswith(f"{target}."):
                    visit(target, (*way, module))
            done.add(module)

    for name in sorted(modules()):
        visit(name, ())


def test_steps_import_no_steps():
    steps = {path.stem for path in (ROOT / "components").iterdir() if path.is_dir()}
    crossed = {
        f"{module} -> {target}"
        for module in modules()
        for target in imports(module, lazy=True)
        if module.startswith("clipseg_kfp.steps.")
        and module.split(".")[-1] in steps
        and target.startswith("clipseg_kfp.steps.")
        and target.split(".")[-1] in steps
    }
    assert not crossed
