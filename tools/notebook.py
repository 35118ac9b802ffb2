"""Runs the notebook from a clean kernel and keeps its outputs: ``make notebook``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

NOTEBOOK = Path("examples/zero_shot_segmentation.ipynb")
SECONDS = 600


def execute(path: Path) -> Any:
    """Runs all cells of a notebook in the folder where it lies.

    Args:
        path: of the notebook.

    Returns:
        The notebook with its outputs, and without times, so that another run changes little.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell failed.
    """
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=SECONDS,
        resources={"metadata": {"path": str(path.parent)}},
        record_timing=False,
        coalesce_streams=True,
    )
    client.execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
    return notebook


def main() -> None:
    """Command line."""
    import nbformat

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("notebook", type=Path, nargs="?", default=NOTEBOOK)
    parser.add_argument("--out", type=Path, help="file to write; the notebook itself by default")
    options = parser.parse_args()
    nbformat.write(execute(options.notebook), options.out or options.notebook)


if __name__ == "__main__":
    main()
