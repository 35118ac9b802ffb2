"""Decoders that crash, hang or bloat in earnest when a file tells them to; workers import this module by name."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from clipseg_kfp.images import decode
from clipseg_kfp.runtime.worker_main import memory_limited
from clipseg_kfp.views import prepare as preparing
from clipseg_kfp.views.prepare import Looks, Prepared

SEGFAULT, ABORT, LEAVE, HANG, SLEEP, BLOAT = b"SEGV", b"ABRT", b"EXIT", b"HANG", b"SLEE", b"BLOA"
KILLED, PICKLE = b"KILL", b"PICK"
COSTS = "costs"  # file beside the step's output: a line of peak bytes and CPU seconds for each image


class Attack:
    """Makes a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.path),)


def prepare(source: Path, name: str, views: Path, looks: Looks, allowed: int) -> Prepared | Attack | int:
    """The real one, but for files that begin with one of the words. Leaves a file that says which worker it is."""
    with source.open("rb") as stream:
        word = stream.read(4)
    source.with_suffix(f".{os.getpid()}.busy").touch()
    misbehave(word)
    if word == PICKLE:
        return Attack(source.parents[1] / "attacked")
    return preparing.prepare(source, name, views, looks, allowed)


def measured(source: Path, name: str, views: Path, looks: Looks, allowed: int) -> Prepared | int:
    """The real one; notes what it took, whether it ended well or not."""
    began = time.process_time()
    try:
        return preparing.prepare(source, name, views, looks, allowed)
    finally:
        with (source.parents[2] / COSTS).open("a") as stream:
            stream.write(f"{peak_bytes()} {time.process_time() - began}\n")


def peak_bytes() -> int:
    """The most memory that this process has had at once."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:")))


def decode_mask(data: bytes, name: str, max_pixels: float) -> NDArray[np.bool_]:
    """The real one, but for files that begin with one of the words."""
    misbehave(data[:4])
    return decode.decode_mask(data, name, max_pixels)


def decode_labels(data: bytes, name: str, max_pixels: float) -> NDArray[np.uint16]:
    """The real one, but for files that begin with one of the words."""
    misbehave(data[:4])
    return decode.decode_labels(data, name, max_pixels)


def look_into(process: int) -> list[str]:
    """What a worker that was taken over can get of another process: of its environment, memory and life."""
    gained = []
    for name in ("environ", "mem", "maps"):
        with contextlib.suppress(OSError), Path(f"/proc/{process}/{name}").open("rb") as stream:
            stream.read(0 if name == "mem" else 1)
            gained.append(name)
    if ctypes.CDLL(None).ptrace(16, process, 0, 0) == 0:  # PTRACE_ATTACH
        gained.append("ptrace")
    with contextlib.suppress(OSError):
        os.kill(process, 0)
        gained.append("signal")
    with contextlib.suppress(OSError):
        os.execv("/bin/true", ["true"])
    return gained


def killed_beside_others(folder: Path, number: int) -> int:
    """Stands for a decoder that the system kills while others run; notes who ran at the same time."""
    mark = folder / f"{number}.running"
    mark.touch()
    try:
        others = len(list(folder.glob("*.running"))) - 1
        if number == 0:
            with (folder / "tries").open("a") as stream:
                stream.write(f"{others}\n")
            if not (folder / "killed").exists():
                (folder / "killed").touch()
                mark.unlink()
                os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.3)
        if number == 0:
            with (folder / "tries").open("a") as stream:
                stream.write(f"{len(list(folder.glob('*.running'))) - 1}\n")
        return number
    finally:
        mark.unlink(missing_ok=True)


def misbehave(word: bytes) -> None:
    if word == SEGFAULT:
        ctypes.string_at(0)
    elif word == ABORT:
        ctypes.CDLL(None).abort()
    elif word == KILLED:
        os.kill(os.getpid(), signal.SIGKILL)
    elif word == LEAVE:
        os._exit(3)
    elif word == HANG:  # in native code, with Python's lock held: no Python of this process runs any more
        ctypes.PyDLL(None).sleep(3600)
    elif word == SLEEP:
        time.sleep(3600)
    elif word == BLOAT:
        with memory_limited(100_000_000):
            hoard = [bytearray(20_000_000) for _ in range(1000)]
            raise AssertionError(f"{len(hoard)} x 20 MB were granted")


def look_around() -> tuple[dict[str, str], list[str]]:
    """What a worker sees: its environment and its modules."""
    return dict(os.environ), sorted(sys.modules)
