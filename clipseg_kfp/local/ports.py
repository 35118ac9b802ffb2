"""Ports of the local store, and the sockets that its server keeps for each of them."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import time
from collections.abc import Sequence
from pathlib import Path

from clipseg_kfp.errors import ClipsegKfpError

_SOCKETS = Path("/tmp")  # where the server puts them, whatever TMPDIR says
_YOUNG_SECONDS = 60.0  # the server of a younger socket may be about to listen
_GRPC = 10_000  # every server listens on its port and on this much above it
_PORTS = (20_000, 32_000)  # below the ports that the system hands out to outgoing connections


def choose_ports(fixed: int) -> list[int]:
    """Chooses free ports.

    Args:
        fixed: the S3 port; 0 takes any.

    Returns:
        The S3 port first, then master, volume and filer.

    Raises:
        ClipsegKfpError: the port cannot be used, or no port is free.
    """
    if fixed and not 1024 <= fixed <= 55_000:
        raise ClipsegKfpError(
            f"The store's port is {fixed}.",
            "Choose one from 1024 to 55000; port + 10000 is needed too.",
            code="port_range",
            where="port",
        )
    if fixed and not _is_free(fixed):
        raise ClipsegKfpError(
            f"Port {fixed} or {fixed + _GRPC} is in use.",
            "Choose another port for the store, or 0 for any.",
            code="port_in_use",
            where="port",
        )
    chosen = [fixed] if fixed else []
    for port in random.Random(os.urandom(16)).sample(range(*_PORTS), 2000):
        if len(chosen) == 4:
            return chosen
        if fixed not in (port, port + _GRPC, port - _GRPC) and _is_free(port):
            chosen.append(port)
    raise ClipsegKfpError("The local store found no free ports.", "Stop some servers.", code="no_free_ports")


def _is_free(port: int) -> bool:
    for number in (port, port + _GRPC):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # closed connections do not count
            try:
                probe.bind(("127.0.0.1", number))
            except OSError:
                return False
    return True


def remove_sockets(ports: Sequence[int]) -> None:
    """Removes the sockets that a stopped server leaves behind."""
    for port in ports:
        for number in (port, port + _GRPC):
            for path in _SOCKETS.glob(f"seaweedfs-*-{number}.sock"):
                path.unlink(missing_ok=True)


def sweep_sockets() -> None:
    """Removes the sockets of servers that were killed: those where nobody answers."""
    for path in _SOCKETS.glob("seaweedfs-*.sock"):
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
            if time.time() - path.stat().st_mtime < _YOUNG_SECONDS:
                continue
            try:
                probe.connect(str(path))
            except ConnectionRefusedError:
                path.unlink()
