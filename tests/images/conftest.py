"""An engine, a base from Debian packages, and the CPU image on it, from wheels alone: each is made once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from docker_engine import NoEngineError, engine, exists, make, missing, run, timed

from clipseg_kfp.site.image import DEFAULT_IMAGE

BASES = {"BASE": "clipseg-kfp-base:bookworm", "BUILD_BASE": "clipseg-kfp-build-base:bookworm"}


@pytest.fixture(scope="session")
def docker_host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Points DOCKER_HOST at an engine; skips where none can run, saying what is missing."""
    if lack := missing():
        pytest.skip(lack)
    change = pytest.MonkeyPatch()
    try:
        with engine(tmp_path_factory.mktemp("docker")) as host:
            if host:
                change.setenv("DOCKER_HOST", host)  # kfp's DockerRunner looks there
            yield
    except NoEngineError as error:
        pytest.skip(str(error))
    finally:
        change.undo()


@pytest.fixture(scope="session")
def cpu_image(docker_host: None, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The CPU image, built without a network from wheels and a base of Debian packages."""
    wheels = timed("wheels", make, "wheels", IMAGES="cpu")
    assert "ERROR" not in wheels, wheels
    if not all(exists(name) for name in BASES.values()):
        timed(
            "base from Debian",
            run,
            ["sh", "images/base/build.sh"],
            TMPDIR=str(tmp_path_factory.mktemp("base")),
        )
    timed(
        "CPU image", make, "images", IMAGES="cpu", PIP_ARGS="--no-index", BUILD_ARGS="--network none", **BASES
    )
    return DEFAULT_IMAGE
