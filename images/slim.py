"""Removes from an environment what no component needs, and says what each removal saves.

Run in the build stage of the images: ``python3 images/slim.py /opt/clipseg-kfp``. Nothing is removed that the
components import; ``make test-images`` runs the whole pipeline on what is left.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

#: What goes, below site-packages, and why.
RULES: dict[str, tuple[str, ...]] = {
    "torch: its own tests": ("torch/test", "torch/bin/*test*", "torch/bin/*Test*", "torch/lib/*_test.so"),
    "torch: headers and tools to build extensions": (
        "torch/include",
        "torch/share/cmake",
        "torch/bin/protoc*",
        "torch/lib/libshm_windows",
    ),
    "openvino: plugins for Intel GPUs and NPUs": (
        "openvino/libs/libopenvino_intel_gpu_plugin.so",
        "openvino/libs/libopenvino_intel_npu_plugin.so",
        "openvino/libs/cache.json",
    ),
    "openvino: readers of other model formats, headers": (
        "openvino/libs/libopenvino_onnx_frontend.so*",
        "openvino/libs/libopenvino_tensorflow*_frontend.so*",
        "openvino/libs/libopenvino_paddle_frontend.so*",
        "openvino/libs/libopenvino_gguf_frontend.so*",
        "openvino/libs/libopenvino_jax_frontend.so*",
        "openvino/libs/libopenvino_c.so*",
        "openvino/include",
        "openvino/cmake",
    ),
    "pyarrow: Flight, headers, tests": (
        "pyarrow/libarrow_flight.so*",
        "pyarrow/libarrow_python_flight.so*",
        "pyarrow/_flight.*",
        "pyarrow/_pyarrow_cpp_tests.*",
        "pyarrow/include",
        "pyarrow/src",
        "pyarrow/tests",
    ),
    "tests of numpy, pandas, sympy, networkx, scipy, scikit-learn": (
        "numpy/**/tests",
        "pandas/tests",
        "sympy/**/tests",
        "networkx/**/tests",
        "scipy/**/tests",
        "sklearn/**/tests",
    ),
    "C sources and type stubs of compiled packages": (
        "torch/**/*.pyi",
        "numpy/**/*.pyi",
        "openvino/**/*.pyi",
        "cv2/**/*.pyi",
        "scipy/**/*.pyi",
        "**/*.pxd",
        "**/*.pyx",
        "**/*.a",
    ),
}
#: The model classes that are left of the hundreds in transformers; the others are read nowhere.
MODELS = {"auto", "clip", "clipseg", "encoder_decoder"}
#: Symbols that only a debugger reads; where the stage has no ``strip``, they stay.
STRIPPED = (
    "torch/lib/libtorch_cpu.so",
    "torch/lib/libtorch_python.so",
    "pyarrow/libarrow.so.*",
    "pyarrow/libarrow_compute.so.*",
    "pyarrow/libparquet.so.*",
)


def size(path: Path) -> int:
    """Bytes of a file, or of all files below a folder."""
    files = path.rglob("*") if path.is_dir() and not path.is_symlink() else [path]
    return sum(file.lstat().st_size for file in files if not file.is_dir())


def remove(paths: Iterator[Path]) -> int:
    """Removes files and folders; returns their bytes."""
    saved = 0
    for path in list(paths):
        if path.exists() or path.is_symlink():  # a folder above it may be gone by now
            saved += size(path)
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    return saved


def strip(paths: Iterator[Path]) -> int:
    """Strips libraries; returns the bytes saved."""
    saved = 0
    for path in paths:
        before = size(path)
        subprocess.run(["strip", "--strip-unneeded", str(path)], check=True)
        saved += before - size(path)
    return saved


def main() -> None:
    """Applies all rules and prints a line each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("environment", type=Path)
    site = next(parser.parse_args().environment.glob("lib/python3*/site-packages"))
    before = size(site)

    def said(what: str, saved: int) -> None:
        print(f"{saved / 1e6:8.1f} MB  {what}")

    for what, patterns in RULES.items():
        said(what, remove(path for pattern in patterns for path in site.glob(pattern)))
    models = site / "transformers" / "models"
    others = (path for path in models.iterdir() if path.is_dir() and path.name not in MODELS)
    said("transformers: models of other kinds", remove(others))
    if shutil.which("strip"):
        said("symbols of torch and pyarrow", strip(path for name in STRIPPED for path in site.glob(name)))
    else:
        print("          -   symbols of torch and pyarrow stay: this stage has no strip (binutils)")
    print(f"{size(site) / 1e6:8.1f} MB  left of {before / 1e6:.1f}")


if __name__ == "__main__":
    main()
