"""A Docker engine for the tests (the one that DOCKER_HOST names, else one of their own), and its commands."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PACKAGES = "Debian: apt install docker.io mmdebstrap"


class NoEngineError(Exception):
    """No engine can run here; says what is missing."""


def missing() -> str:
    """What this machine lacks for building and running images; nothing where it has all."""
    if not Path(sys.prefix, ".made").exists():  # `make` below would clear an environment that it did not make
        return "this environment is not the Makefile's: run `make test-images`"
    if not shutil.which("docker"):
        return f"docker, the client, is missing ({PACKAGES})"
    if not shutil.which("mmdebstrap"):
        return f"mmdebstrap, for the base image, is missing ({PACKAGES})"
    if _answers(os.environ.get("DOCKER_HOST")):
        return ""
    if not shutil.which("dockerd"):
        return f"no engine answers, and dockerd is missing ({PACKAGES})"
    if os.geteuid() != 0:
        return "no engine answers, and only root can start dockerd"
    return ""


@contextmanager
def engine(folder: Path) -> Iterator[str]:
    """Runs an engine that touches no firewall and no bridge; containers share the host's network.

    Args:
        folder: for all that it writes; emptied of images at the end.

    Yields:
        What DOCKER_HOST shall be.

    Raises:
        NoEngineError: it did not start; the message ends with its own last words.
    """
    running = os.environ.get("DOCKER_HOST")
    if _answers(running):
        yield running or ""
        return
    host = f"unix://{folder}/docker.sock"
    command = ["dockerd", "-H", host, "--data-root", f"{folder}/data", "--exec-root", f"{folder}/exec"]
    command += ["--pidfile", f"{folder}/pid", "--bridge=none", "--iptables=false", "--ip6tables=false"]
    log = folder / "log"
    with log.open("w") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=stream)
    try:
        deadline = time.monotonic() + 60
        while not _answers(host):
            if process.poll() is not None or time.monotonic() > deadline:
                raise NoEngineError("dockerd does not start here: " + " | ".join(_last(log)))
            time.sleep(0.2)
        yield host
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        shutil.rmtree(folder / "data", ignore_errors=True)


def _answers(host: str | None) -> bool:
    environment = {**os.environ, **({"DOCKER_HOST": host} if host else {})}
    try:
        done = subprocess.run(
            ["docker", "version"], env=environment, capture_output=True, check=False, timeout=10
        )
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


def _last(log: Path) -> list[str]:
    return log.read_text("utf-8", "replace").splitlines()[-3:]


def make(target: str, **variables: str) -> str:
    """Runs a target of the Makefile in the environment that runs the tests."""
    values = [f"{name}={value}" for name, value in {"VENV": sys.prefix, **variables}.items()]
    return run(["make", target, *values])


def run(command: list[str], **environment: str) -> str:
    """Runs a command at the checkout's root; returns what it wrote, and fails with that."""
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done.stdout + done.stderr


def timed(what: str, function: Any, *arguments: Any, **variables: str) -> str:
    """Calls a function and prints how long it took (pytest -s shows it)."""
    start = time.monotonic()
    written: str = function(*arguments, **variables)
    print(f"{what}: {time.monotonic() - start:.0f} s")
    return written


def exists(image: str) -> bool:
    """Whether the engine has an image."""
    return not subprocess.run(
        ["docker", "image", "inspect", image], capture_output=True, check=False
    ).returncode


def inspect(image: str) -> dict[str, Any]:
    """What Docker knows of an image."""
    found: dict[str, Any] = json.loads(run(["docker", "image", "inspect", image]))[0]
    return found
