"""Prints what an image needs of the package's dependencies, for pip-compile: ``image_requirements.py cpu``."""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

#: What only describes, compiles and submits pipelines. A task needs kfp itself, which is locked without these.
CLIENT = {"croniter", "docstring-parser", "kfp", "kfp-kubernetes", "kfp-server-api", "kubernetes", "protobuf"}
#: The extras of each image, and whether it is a client too.
IMAGES = {
    "cpu": (["openvino"], False),
    "cpu-int8": (["int8"], False),
    "gpu": ([], False),
    "notebook": (["openvino", "demo", "notebook"], True),
}


def requirements(image: str) -> list[str]:
    """Requirements of an image, as pyproject.toml has them."""
    project = tomllib.loads(Path(__file__).parents[1].joinpath("pyproject.toml").read_text("utf-8"))[
        "project"
    ]
    extras, client = IMAGES[image]
    wanted = [item for item in project["dependencies"] if client or name(item) not in CLIENT]
    wanted += [item for extra in extras for item in project["optional-dependencies"][extra]]
    if image == "gpu":  # never the build without CUDA, which would sort higher where an index has it
        wanted = [item for item in wanted if name(item) != "torch"] + [f"torch==={pinned('torch')}"]
    return [*wanted, "setuptools>=77"]


def name(requirement: str) -> str:
    """The package that a requirement asks for."""
    return re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0].lower()


def pinned(package: str) -> str:
    """The version that ``locks/constraints.txt`` holds a package at."""
    lines = Path(__file__).with_name("constraints.txt").read_text("utf-8").splitlines()
    return next(line.partition("==")[2] for line in lines if line.startswith(f"{package}=="))


if __name__ == "__main__":
    print("\n".join(requirements(sys.argv[1])))
