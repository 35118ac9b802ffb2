"""Imports what the components import and checks the version: ``python smoke.py --version 0.1.0``."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import pkgutil
from importlib.metadata import version

#: Modules of others that the steps import when they come to need them, or that kfp starts a step with.
LATER = (
    "cv2",
    "jinja2",
    "kfp.dsl.executor_main",
    "minio",
    "pandas",
    "pyarrow.csv",
    "pyarrow.dataset",
    "pyarrow.parquet",
    "pycocotools.mask",
    "rich.progress",
    "safetensors.torch",
    "torch",
)
#: Packages of this project whose modules the steps import.
ROOMS = (
    "dataset",
    "engine",
    "images",
    "masks",
    "metrics",
    "options",
    "prompts",
    "records",
    "report",
    "results",
    "results.formats",
    "runtime",
    "steps",
    "storage",
    "truth",
    "views",
)
NAMES = ("CLIPSegForImageSegmentation", "CLIPTokenizer", "CLIPSegProcessor")


def main() -> None:
    """Fails where a module or the expected version is missing."""
    os.environ["_KFP_RUNTIME"] = "true"  # kfp then imports no more than a step needs
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--version", required=True)
    wanted = parser.parse_args().version
    found = version("clipseg-kfp")
    if wanted != found:
        raise SystemExit(
            f"The image shall be version {wanted or '(none: give VERSION)'}; the package is {found}."
        )
    for name in LATER:
        importlib.import_module(name)
    transformers = importlib.import_module("transformers")
    for name in NAMES:
        getattr(transformers, name)
    if importlib.util.find_spec("openvino"):  # not in the GPU's image
        importlib.import_module("clipseg_kfp.engine.openvino_backend")
        importlib.import_module("clipseg_kfp.engine.conversion")
    for room in ROOMS:
        package = importlib.import_module(f"clipseg_kfp.{room}")
        for module in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
            if not module.name.endswith(("__main__", "openvino_backend", "conversion")):
                importlib.import_module(module.name)
    print(f"clipseg-kfp {found} imports")


if __name__ == "__main__":
    main()
