"""Counts what the long matrices try, and writes the table and ``faults.json`` at their end."""

from __future__ import annotations

import json
import os
import tempfile
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
VARIABLE = "CLIPSEG_KFP_FAULTS"  # the file in which all worker processes note their counts
FIGURES = {
    "faults_tried": "faults tried",
    "faults_survived": "survived",
    "objects_lost": "objects lost",
    "objects_duplicated": "duplicated",
    "hostile_images": "hostile images tried",
    "crashes": "crashes",
}


class Tally:
    """Adds to the figures of the whole session, whichever process a test runs in."""

    def add(self, figure: str, count: int = 1) -> None:
        """Adds to one of ``FIGURES``."""
        if figure not in FIGURES:
            raise KeyError(figure)
        with Path(os.environ[VARIABLE]).open("a") as stream:
            stream.write(json.dumps([figure, count]) + "\n")


@pytest.fixture(scope="session")
def tally() -> Tally:
    return Tally()


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        handle, name = tempfile.mkstemp(prefix="faults-")
        os.close(handle)
        os.environ[VARIABLE] = name


def pytest_sessionfinish(session: pytest.Session) -> None:
    if hasattr(session.config, "workerinput"):
        return
    notes = Path(os.environ.pop(VARIABLE))
    figures: Counter[str] = Counter()
    for line in notes.read_text().splitlines():
        figure, count = json.loads(line)
        figures[figure] += count
    notes.unlink()
    if not figures:
        return  # only quick tests ran
    whole = {name: figures[name] for name in FIGURES}
    (ROOT / "faults.json").write_text(json.dumps(whole, indent=2) + "\n")
    print("\n\n" + "\n".join(f"{FIGURES[name]:<22}{count:>8,}" for name, count in whole.items()))
