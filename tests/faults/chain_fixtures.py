"""What the tests of the chain in processes of its own share."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
from fixtures import build_tiny, picture, tiny_model  # noqa: F401 - fixtures
from kill_matrix import processes
from killed_chain import Task
from places import BucketPlace, FolderPlace, Place

IMAGES = 4  # one of them damaged


@pytest.fixture(scope="module")
def pool() -> Iterator[ProcessPoolExecutor]:
    """Processes to run chains in."""
    with processes() as pool:
        yield pool


@pytest.fixture
def source(tmp_path: Path) -> str:
    """Images for two shards, one of them damaged."""
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(IMAGES - 1):
        picture(40, 30, number).save(folder / f"{number}.png")
    (folder / "damaged.png").write_bytes(b"no image")
    return str(folder)


@pytest.fixture
def task(request: pytest.FixtureRequest, tmp_path: Path, source: str, tiny_model: Path) -> Task:
    """A run on folders, or on the real store where a test asks for it indirectly."""
    place: Place = FolderPlace(tmp_path / "out")
    if getattr(request, "param", "folder") == "bucket":
        environment = request.getfixturevalue("store").environment()
        place = BucketPlace(environment, request.getfixturevalue("bucket"), "out")
    (tmp_path / "work").mkdir()
    return Task(tmp_path / "work", tiny_model, source, place, "first")
