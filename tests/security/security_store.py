"""A store with a login of least rights and marked credentials, and one real run under it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import marks
import pytest
from fixtures import picture, save_tiny
from recording import Call, Recorder, recording

from clipseg_kfp.local.store import EmbeddedStore, Identity
from clipseg_kfp.storage import open_folder
from clipseg_kfp.storage.s3 import connect

ROOT = Path(__file__).parents[2]
BUCKET = "shared"
RIGHTS = (
    "Read:shared/in/*",
    "List:shared/in/*",
    "Read:shared/out/*",
    "List:shared/out/*",
    "Write:shared/out/*",
)
LEAST = Identity("clipseg", marks.ACCESS_KEY, marks.SECRET_KEY, RIGHTS)
SCENES = 2
AWS_FILE = f"""[default]
aws_access_key_id = {marks.FILE_ACCESS_KEY}
aws_secret_access_key = {marks.FILE_SECRET_KEY}
"""
#: The command line, but kfp's own folder of artifacts (local_outputs) stays, so that it can be searched.
DRIVER = """
import contextlib, pathlib, sys, tempfile
from clipseg_kfp.local import runner as local

@contextlib.contextmanager
def kept(parent):
    yield pathlib.Path(tempfile.mkdtemp(dir=parent))

local.temporary_folder = kept
from clipseg_kfp.cli import main
main(sys.argv[1:])
"""


@pytest.fixture(scope="session")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedStore]:
    """A store in which only its owner may do everything."""
    with EmbeddedStore(tmp_path_factory.mktemp("guarded"), identities=[LEAST]) as store:
        for bucket in (BUCKET, "other"):
            store.make_bucket(bucket)
        yield store


def as_least(endpoint: str) -> dict[str, str]:
    """The environment of the login of least rights."""
    return {
        "S3_ENDPOINT": endpoint,
        "AWS_ACCESS_KEY_ID": LEAST.access_key,
        "AWS_SECRET_ACCESS_KEY": LEAST.secret_key,
        "AWS_REGION": "us-east-1",
    }


@pytest.fixture(scope="session")
def recorder(guarded: EmbeddedStore) -> Iterator[Recorder]:
    """Writes down what the store is asked for."""
    with recording(guarded.endpoint) as server:
        yield server


@pytest.fixture
def least(recorder: Recorder, monkeypatch: pytest.MonkeyPatch) -> Iterator[Recorder]:
    """This process has the login of least rights, seen by the recorder."""
    for name in ("AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL", "MINIO_ACCESS_KEY", "MINIO_SECRET_KEY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in as_least(recorder.endpoint).items():
        monkeypatch.setenv(name, value)
    connect.cache_clear()
    recorder.calls.clear()
    recorder.hide_missing = recorder.refuse_deletion = False
    yield recorder
    recorder.hide_missing = recorder.refuse_deletion = False
    connect.cache_clear()


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random-weight checkpoint."""
    folder = tmp_path_factory.mktemp("checkpoint")
    save_tiny(folder, {})
    return folder


@dataclass(frozen=True)
class MarkedRun:
    """What a run of the command line left behind."""

    status: int
    console: str
    work: Path
    home: Path
    calls: list[Call]


@pytest.fixture(scope="session")
def marked_run(
    guarded: EmbeddedStore,
    recorder: Recorder,
    tiny_checkpoint: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> MarkedRun:
    """The real command line, kfp's real runner: model, prompts and images from the input prefix."""
    root, home = tmp_path_factory.mktemp("run"), tmp_path_factory.mktemp("home")
    (home / ".aws").mkdir()
    (home / ".aws" / "credentials").write_text(AWS_FILE)
    owner = guarded.client()
    for path in tiny_checkpoint.iterdir():
        owner.fput_object(BUCKET, f"in/model/{path.name}", str(path))
    (root / "prompts.yaml").write_text("prompts: [a circle, {name: red, texts: [red things]}]\n")
    owner.fput_object(BUCKET, "in/prompts.yaml", str(root / "prompts.yaml"))
    for i in range(SCENES):
        picture(80, 60, i).save(root / "x.png")
        owner.fput_object(BUCKET, f"in/photos/images/{i}.png", str(root / "x.png"))
    (root / "broken.png").write_bytes(b"no image")
    owner.fput_object(BUCKET, "in/photos/images/broken.png", str(root / "broken.png"))
    recorder.calls.clear()
    uri = f"s3://{BUCKET}"
    finished = subprocess.run(
        [
            sys.executable, "-c", DRIVER, "local", "run", "--source", f"{uri}/in/photos", "--output", f"{uri}/out/run",
            "--model", f"{uri}/in/model", "--prompts-file", f"{uri}/in/prompts.yaml", "--work", str(root / "work"),
            "--log", str(root / "run.log"), "--set", "inference.backend=torch",
            "--set", "limits.shard_size=5", "--set", "outputs.formats=yolo,labelstudio,csv",
        ],
        cwd=root, capture_output=True, text=True, timeout=180, check=False,
        env=os.environ | as_least(recorder.endpoint) | {"HOME": str(home), "HF_TOKEN": marks.HUB_TOKEN},
    )  # fmt: skip
    out = root / "bucket"
    monkey = pytest.MonkeyPatch()
    with monkey.context() as patch:
        for name, value in guarded.environment().items():
            patch.setenv(name, value)
        connect.cache_clear()
        folder = open_folder(f"{uri}/out")
        for number, entry in enumerate(folder.entries()):
            (out / str(number)).parent.mkdir(parents=True, exist_ok=True)
            folder.download(entry.key, out / str(number))
            with (out / "names").open("a") as names:
                names.write(f"{number} {entry.key}\n")
        connect.cache_clear()
    return MarkedRun(finished.returncode, finished.stdout + finished.stderr, root, home, list(recorder.calls))
