"""The decorator of all components: KFP's own, with as little as possible in the compiled specification.

Argo keeps all nodes of a run in one object of 1 MB, and each pod's nodes repeat its component's source and inputs.
So docstrings, comments and descriptions stay here, where READMEs are made of them (``tools.catalog``).
"""

import ast
import textwrap
from collections.abc import Callable
from inspect import getsource
from typing import Any

from kfp import dsl

from clipseg_kfp.site.image import DEFAULT_IMAGE


def component(function: Callable[..., Any]) -> Any:
    """Makes a KFP component that runs in the project's image.

    Args:
        function: its body imports ``run_step`` and returns what that returns; types are the forms that KFP reads.
    """
    made = dsl.component(base_image=DEFAULT_IMAGE, install_kfp_package=False)(function)
    specification = made.component_spec
    for item in (*(specification.inputs or {}).values(), *(specification.outputs or {}).values()):
        item.description = None
    command = specification.implementation.container.command
    command[-1] = _lean(command[-1], function)
    return made


def _lean(program: str, function: Callable[..., Any]) -> str:
    """The embedded program with the function's bare code."""
    imports = program[: program.index(f"def {function.__name__}(")].strip()
    (code,) = ast.parse(textwrap.dedent(getsource(function))).body
    assert isinstance(code, ast.FunctionDef)
    code.decorator_list = []
    if ast.get_docstring(code) is not None:
        del code.body[0]
    return f"\n{imports}\n\n{ast.unparse(code)}\n"
