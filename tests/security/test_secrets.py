"""Marked credentials are in nothing that a run writes, prints or raises."""

from __future__ import annotations

import base64
import io
import logging
import socket
import traceback
import zipfile
from collections.abc import Callable
from pathlib import Path

import marks
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fixtures import picture
from marks import (
    ACCESS_KEY,
    FILE_SECRET_KEY,
    PASSWORD,
    SECRET_KEY,
    SESSION_TOKEN,
    USER,
    files_with_marks,
    found_in,
)
from recording import Recorder
from rich.console import Console
from security_store import AWS_FILE, BUCKET, ROOT, MarkedRun

from clipseg_kfp.engine.checkpoint import fetch
from clipseg_kfp.errors import ClipsegKfpError, exit_on_user_error
from clipseg_kfp.local.runner import run_batch
from clipseg_kfp.site.compile import VARIANTS, compile_pipeline, pipeline_names, settings_for
from clipseg_kfp.storage import open_folder
from clipseg_kfp.storage.s3 import connect


@pytest.mark.parametrize("mark", marks.ALL)
def test_the_search_finds_what_it_is_for(mark: str, tmp_path: Path) -> None:
    """In every form and container that the searches below look into."""
    for form in marks.forms(mark):
        assert found_in(b"before" + form + b"after") >= {mark}, form
    for before in ("", "x", "xy"):
        assert found_in(base64.b64encode(f"{before}:{mark}:{before}".encode())) >= {mark}
    pq.write_table(pa.table({"a": [f"is {mark}"] * 3}), tmp_path / "a.parquet", compression="zstd")
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.txt", f"a {mark} a {mark}")
    assert len(files_with_marks(tmp_path)) == 2
    assert not found_in("nothing of the kind")


def test_a_run_leaves_no_credentials_behind(marked_run: MarkedRun) -> None:
    """Artifacts, kfp's local_outputs, the log, and every object of the bucket's output."""
    assert marked_run.status == 0, marked_run.console
    names = [path.name for path in marked_run.work.rglob("*") if path.is_file()]
    assert "run.log" in names and "executor_output.json" in names and len(names) > 30
    bucket = (marked_run.work / "bucket" / "names").read_text()
    for name in (
        "manifest.json",
        "report.html",
        "masks.csv",
        "annotations.yolo.zip",
        "annotations.coco.json",
    ):
        assert f"/{name}\n" in bucket
    assert files_with_marks(marked_run.work) == {}


def test_a_run_prints_no_credentials(marked_run: MarkedRun) -> None:
    assert "publish_results" in marked_run.console
    assert found_in(marked_run.console) == set()


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", pipeline_names())
def test_packages_hold_no_credentials(name: str, variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable, value in (
        ("AWS_ACCESS_KEY_ID", ACCESS_KEY), ("AWS_SECRET_ACCESS_KEY", SECRET_KEY), ("HF_TOKEN", marks.HUB_TOKEN),
        ("S3_ENDPOINT", f"https://{USER}:{PASSWORD}@host"),
    ):  # fmt: skip
        monkeypatch.setenv(variable, value)
    text = compile_pipeline(name, settings=settings_for(variant))
    assert found_in(text) == set()
    assert "secretAsEnv" in text
    if variant == "cpu":  # the one that is committed
        assert (ROOT / "pipelines" / name.replace("-", "_") / "pipeline.yaml").read_text("utf-8") == text


def test_all_packages_are_looked_at() -> None:
    packages = [path for path in (ROOT / "pipelines").rglob("*.yaml") if path.name.startswith("pipeline.")]
    assert len(packages) == len(pipeline_names()) == 3


Failure = Callable[[pytest.MonkeyPatch, Recorder, Path], str]


def wrong_key(patch: pytest.MonkeyPatch, _: Recorder, ___: Path) -> str:
    patch.setenv("AWS_ACCESS_KEY_ID", f"{ACCESS_KEY}X")
    return ""


def wrong_secret(patch: pytest.MonkeyPatch, _: Recorder, ___: Path) -> str:
    patch.setenv("AWS_SECRET_ACCESS_KEY", f"{SECRET_KEY}X")
    return ""


def expired_token(patch: pytest.MonkeyPatch, _: Recorder, ___: Path) -> str:
    patch.setenv("AWS_SESSION_TOKEN", SESSION_TOKEN)
    return ""


def from_file(patch: pytest.MonkeyPatch, _: Recorder, home: Path, text: str = AWS_FILE) -> str:
    path = home / "credentials"
    path.write_text(text)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        patch.delenv(name)
    patch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(path))
    return ""


def broken_file(patch: pytest.MonkeyPatch, recorder: Recorder, home: Path) -> str:
    return from_file(patch, recorder, home, f"[default\n{FILE_SECRET_KEY}\n")


def unreachable(_: pytest.MonkeyPatch, __: Recorder, ___: Path) -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


def no_such_host(_: pytest.MonkeyPatch, __: Recorder, ___: Path) -> str:
    return "http://no-such-host.invalid:9000"


def no_tls(_: pytest.MonkeyPatch, recorder: Recorder, ___: Path) -> str:
    return recorder.endpoint.replace("http://", "https://")


def with_login(_: pytest.MonkeyPatch, recorder: Recorder, ___: Path) -> str:
    return recorder.endpoint.replace("http://", f"http://{USER}:{PASSWORD}@")


def with_odd_login(_: pytest.MonkeyPatch, __: Recorder, ___: Path) -> str:
    return f"https://{USER}:{PASSWORD}@[bad:port"


def in_the_environment(patch: pytest.MonkeyPatch, recorder: Recorder, home: Path) -> str:
    patch.setenv("S3_ENDPOINT", with_login(patch, recorder, home))
    return ""


def signed(_: pytest.MonkeyPatch, recorder: Recorder, ___: Path) -> str:
    return f"{recorder.endpoint}/?X-Amz-Signature=0123&X-Amz-Credential={ACCESS_KEY}"


def nothing(_: pytest.MonkeyPatch, __: Recorder, ___: Path) -> str:
    return ""


FAILURES = {
    wrong_key: "credentials_rejected",
    wrong_secret: "credentials_rejected",
    expired_token: "credentials_rejected",
    from_file: "credentials_rejected",
    broken_file: "credentials_file_broken",
    unreachable: "store_unreachable",
    no_such_host: "store_unreachable",
    no_tls: "store_unreachable",
    with_login: "endpoint_invalid",
    with_odd_login: "endpoint_invalid",
    in_the_environment: "endpoint_invalid",
    signed: "endpoint_invalid",
    nothing: "access_denied",  # of a place outside
}


@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: failure.__name__)
def test_failures_tell_no_credentials(
    failure: Failure,
    least: Recorder,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Neither the message nor a traceback with all causes, nor any library's log at its most talkative."""
    monkeypatch.setenv("HOME", str(tmp_path))
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("CLIPSEG_KFP_S3_BACKOFF", "0")
    monkeypatch.setenv("HF_TOKEN", marks.HUB_TOKEN)
    endpoint = failure(monkeypatch, least, tmp_path)
    connect.cache_clear()
    said, codes = [], []
    for act in (
        lambda: next(open_folder(f"s3://{BUCKET}/private", endpoint).entries()),
        lambda: open_folder(f"s3://{BUCKET}/private", endpoint).write("x", b"x"),
        lambda: open_folder(f"s3://{BUCKET}/private", endpoint).stat("x"),
    ):
        with pytest.raises(ClipsegKfpError) as caught:
            act()
        codes.append(caught.value.code)
        said.append(str(caught.value.record()))
        said += traceback.format_exception(caught.value)
        with pytest.raises(SystemExit), exit_on_user_error("step"):
            act()
    assert codes[0] == FAILURES[failure]
    assert set(codes) <= {FAILURES[failure], "access_denied"}  # what answers a HEAD has no words for why
    logged = "\n".join(str(vars(record)) + record.getMessage() for record in caplog.records)
    assert found_in("\n".join(said)) == set()
    assert found_in(logged) == set()
    shown = capfd.readouterr()
    assert "error: step: " in shown.err
    assert found_in(shown.out + shown.err) == set()


def test_uris_with_a_login_are_not_repeated() -> None:
    for uri in (f"s3://{USER}:{PASSWORD}@{BUCKET}/x", f"s3://{ACCESS_KEY}:{SECRET_KEY}@{BUCKET}"):
        with pytest.raises(ClipsegKfpError) as caught:
            open_folder(uri)
        assert found_in("".join(traceback.format_exception(caught.value))) == set()


def test_the_hubs_token_is_not_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hub that cannot be reached, by the real client."""
    monkeypatch.setenv("HF_TOKEN", marks.HUB_TOKEN)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    with pytest.raises(ClipsegKfpError) as caught:
        fetch(f"hf://nobody/nothing-{'0' * 12}@{'0' * 40}", tmp_path)
    assert found_in("".join(traceback.format_exception(caught.value))) == set()
    assert files_with_marks(tmp_path) == {}


def test_a_failing_run_tells_no_credentials(
    least: Recorder, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step that fails in a process of its own: the output lies where the login may not write."""
    monkeypatch.setenv("HF_TOKEN", marks.HUB_TOKEN)
    (tmp_path / "in").mkdir()
    picture(8, 8, 1).save(tmp_path / "in" / "a.png")
    console = Console(file=io.StringIO(), width=200)
    parameters = {
        "source_uri": str(tmp_path / "in"), "output_uri": f"s3://{BUCKET}/private", "prompts": ["a cup"],
        "model_uri": str(tiny_checkpoint), "threshold": 0.5, "outputs": {"run_id": "denied"}, "endpoint": "",
    }  # fmt: skip
    with pytest.raises(ClipsegKfpError, match="is denied") as caught:
        run_batch(parameters, tmp_path / "log", console, tmp_path / "work")
    text = "".join(traceback.format_exception(caught.value)) + console.file.getvalue()  # type: ignore[attr-defined]
    assert "error: fetch_dataset: Access to s3://shared/private" in (tmp_path / "log").read_text("utf-8")
    assert found_in(text) == set()
    assert files_with_marks(tmp_path) == {}
