"""The local store as a process."""

from __future__ import annotations

import fcntl
import io
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import urllib3

from clipseg_kfp.local import ports
from clipseg_kfp.local.store import EmbeddedStore
from clipseg_kfp.runtime import child_main

PROGRAM = """
import signal, sys, threading
from pathlib import Path
from clipseg_kfp.local.store import EmbeddedStore
store = EmbeddedStore(Path(sys.argv[1]))
starter = threading.Thread(target=store.start)
starter.start()
starter.join()
store.make_bucket("made-after-the-thread-that-started-it-ended")
print("ready", flush=True)
signal.pause()
"""


def is_held(lock: Path) -> bool:
    """Whether a server still has the folder: it keeps the lock as long as any part of it lives."""
    with lock.open("r+b") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def test_it_ends_with_whoever_started_it(tmp_path: Path) -> None:
    """Even if that is killed; and the folder can be used again at once."""
    starter = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert starter.stdout is not None
    assert starter.stdout.readline() == "ready\n"
    assert is_held(tmp_path / "lock")
    starter.kill()
    starter.communicate()
    deadline = time.monotonic() + 120
    while is_held(tmp_path / "lock"):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    with EmbeddedStore(tmp_path) as store:
        assert store.client().bucket_exists("made-after-the-thread-that-started-it-ended")


def test_nothing_starts_for_a_process_that_is_gone(tmp_path: Path) -> None:
    command = [sys.executable, child_main.__file__, f"{os.getppid()}", "/bin/touch", str(tmp_path / "x")]
    assert subprocess.run(command, check=False).returncode == 1
    assert not (tmp_path / "x").exists()
    command[2] = f"{os.getpid()}"
    assert subprocess.run(command, check=False).returncode == 0
    assert (tmp_path / "x").exists()


def test_sockets_where_nobody_answers_are_swept_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "_SOCKETS", tmp_path)
    with socket.socket(socket.AF_UNIX) as answering:
        for name in ("used", "left", "young"):
            with socket.socket(socket.AF_UNIX) as bound:
                listening = answering if name == "used" else bound
                listening.bind(str(tmp_path / f"seaweedfs-{name}-1.sock"))
            if name != "young":
                os.utime(tmp_path / f"seaweedfs-{name}-1.sock", (0, 0))
        answering.listen()
        ports.sweep_sockets()
        assert {path.name.split("-")[1] for path in tmp_path.iterdir()} == {"used", "young"}


def test_nothing_of_the_store_can_be_read_or_changed_without_a_key(tmp_path: Path) -> None:
    with EmbeddedStore(tmp_path / "data") as store:
        store.make_bucket("photos")
        store.client().put_object("photos", "a", io.BytesIO(b"x" * 5000), 5000)
        s3, master, volume, filer = store._ports
        pool = urllib3.PoolManager(retries=False, timeout=5)
        form = {"file": ("a", b"changed")}
        asked = [
            (master, "GET", "/dir/assign"),
            (master, "GET", "/dir/status"),
            (master, "GET", "/vol/grow?count=1"),
            (master, "GET", "/col/delete?collection=photos"),
            (master, "POST", "/submit"),
            *((volume, method, "/1,01637037d6") for method in ("GET", "POST", "DELETE")),
            (volume, "GET", "/stats/disk"),
            (volume, "GET", "/ui/index.html"),
            *((filer, method, "/buckets/photos/a") for method in ("GET", "POST", "DELETE")),
            (filer, "DELETE", "/buckets/photos?recursive=true"),
            (filer, "GET", "/buckets/"),
            *((s3, method, "/photos/a") for method in ("GET", "PUT", "DELETE")),
        ]
        for port, method, path in asked:
            fields = form if method in ("POST", "PUT") else None
            status = pool.request(method, f"http://127.0.0.1:{port}{path}", fields=fields).status
            assert status in (401, 403, 404, 405), (port, method, path, status)
        assert store.client().get_object("photos", "a").read() == b"x" * 5000
