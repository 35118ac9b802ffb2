"""Counts what the long matrices try, and writes the table and, where all have run, ``faults.json``."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BEGAN = pytest.StashKey[float]()
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
        config.stash[BEGAN] = time.monotonic()


def ran_whole(session: pytest.Session, exitstatus: int) -> bool:
    """Whether all matrices ran: figures of a few would pass for those of all."""
    options, here = session.config.option, Path(__file__).parent
    places = [Path(session.config.invocation_params.dir, arg).resolve() for arg in session.config.args]
    whole = any(place == here or place in here.parents for place in places)
    return (
        whole
        and exitstatus in (0, 1)
        and options.markexpr == "faults"
        and not (options.keyword or options.maxfail)
    )


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
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
    if ran_whole(session, exitstatus):
        seconds = round(time.monotonic() - session.config.stash[BEGAN])
        (ROOT / "faults.json").write_text(json.dumps({**whole, "seconds": seconds}, indent=2) + "\n")
    print("\n\n" + "\n".join(f"{FIGURES[name]:<22}{count:>8,}" for name, count in whole.items()))
