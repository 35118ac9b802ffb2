"""The command line: help with examples everywhere, one clear message for every mistake, never a traceback."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import typer.main
from codes import fails
from PIL import Image

from clipseg_kfp import __version__, cli
from clipseg_kfp.errors import OptionsError, ParameterError
from clipseg_kfp.local.store import EmbeddedStore

ROOT = Path(__file__).parents[2]
MODEL = str(ROOT / "examples" / "demo-model")


def commands() -> list[list[str]]:
    """The words of every command."""

    def walk(command: object, words: list[str]) -> list[list[str]]:
        children = getattr(command, "commands", None)
        if not children:
            return [words]
        return [found for name, child in children.items() for found in walk(child, [*words, name])]

    return walk(typer.main.get_command(cli.app), [])


def run(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """Exit status, standard output and standard error (whitespace folded) of a command."""
    try:
        cli.main(arguments)
        status = 0
    except SystemExit as end:
        status = int(end.code or 0)
    out, err = capsys.readouterr()
    return status, " ".join(out.split()), " ".join(err.split())


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_every_command_has_help_with_an_example(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run([*words, "--help"], capsys)
    plain = re.sub(r"\x1b\[[0-9;]*m", "", out)
    assert status == 0
    assert "Example" in plain and f"clipseg-kfp {' '.join(words)}" in plain


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"], capsys)[:2] == (0, __version__)


def local_run(tmp_path: Path, **changes: str) -> list[str]:
    """A valid call of ``local run``, with options changed or (empty) dropped."""
    source = tmp_path / "photos"
    source.mkdir(exist_ok=True)
    Image.new("RGB", (8, 8)).save(source / "a.png")
    options = {
        "source": str(source),
        "output": str(tmp_path / "masks"),
        "model": MODEL,
        "prompt": "a circle",
        "log": str(tmp_path / "log"),
        **changes,
    }
    return [
        "local",
        "run",
        *(word for name, value in options.items() if value for word in (f"--{name}", value)),
    ]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"prompt": ""}, "--support"),
        ({"prompt": " "}, "prompt 1"),
        (
            {"threshold": "1.5"},
            "threshold is 1.5; it is a probability. remedy: Give a number between 0 and 1",
        ),
        ({"source": "ftp://host/x"}, "unknown scheme 'ftp'"),
        ({"source": "/no/such/folder"}, "/no/such/folder does not exist"),
        ({"source": "/no/such/list.csv"}, "/no/such/list.csv does not exist"),
        ({"source": "s3://"}, "names no bucket"),
        ({"output": "gs://bucket/x"}, "unknown scheme 'gs'"),
        ({"model": "/no/such/model"}, "/no/such/model"),
        ({"model": "hf://nonsense"}, "hf://nonsense"),
        ({"prompts-file": "/no/such.yaml", "prompt": ""}, "/no/such.yaml does not exist"),
        ({"prompts-file": "x.yaml"}, "--prompts-file"),
        ({"support": "/no/such/folder", "prompt": ""}, "/no/such/folder does not exist"),
        ({"support": str(ROOT / "docs"), "set": "support.engineering=blur"}, "support.engineering: "),
        ({"support": str(ROOT / "docs")}, "demo.png"),
        ({"set": "limits.limit=-1"}, "limits.limit: "),
        ({"set": "inference.device=tpu"}, "inference.device: "),
        ({"set": "limits.max_megapixels=0"}, "limits.max_megapixels: "),
        ({"set": "limits.max_megabytes=NaN"}, "limits.max_megabytes: "),
        ({"set": "limits.limi=1"}, "limits.limit"),
        ({"set": "tile_size=512"}, "views.tile_size"),
        ({"set": "views=512"}, "--set views: "),
        ({"set": "support.engineering=none"}, "support.engineering: "),
        ({"set": "views"}, "GROUP.OPTION=VALUE"),
        ({"log": "/proc/no/log"}, "/proc/no: No such file or directory"),
        ({"log": "/dev/null/log"}, "/dev/null: "),
        ({"work": "/dev/null/work"}, "/dev/null/work: Not a directory remedy: Check the path"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_mistakes_are_named_at_once(
    changes: dict[str, str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, err = run(local_run(tmp_path, **changes), capsys)
    assert status == 1
    assert words in err
    assert "Traceback" not in out + err


@pytest.mark.parametrize(
    ("flag", "code", "where"),
    [
        ("--tile-size", "option_moved", "tile_size"),
        ("--ground-truth-format", "option_moved", "ground_truth_format"),
        ("--accelerator-count", "option_moved", "accelerator_count"),
    ],
)
def test_flags_of_0_1_name_the_new_place(flag: str, code: str, where: str) -> None:
    with fails(code="options", where=where) as caught:
        typer.main.get_command(cli.app).main(["local", "run", flag, "1"], standalone_mode=False)
    assert isinstance(caught.value, OptionsError)
    assert [one.code for one in caught.value.problems] == [code]


@pytest.mark.parametrize(
    "words", [["local", "run", "--nonsense", "1"], ["results", "show", "--tile-size", "1"]]
)
def test_flags_that_never_were_are_wrong_usage(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(words, capsys)[0] == 2


@pytest.mark.parametrize(
    ("variables", "uri", "words"),
    [
        ({}, "s3://no-such-bucket/x", "The bucket 'no-such-bucket' does not exist"),
        ({}, "s3://{bucket}/list.csv", "list.csv does not exist"),
        ({"AWS_SECRET_ACCESS_KEY": "wrong"}, "s3://{bucket}/x", "rejects the credentials"),
        ({"AWS_ACCESS_KEY_ID": "nobody"}, "s3://{bucket}/x", "rejects the credentials"),
        ({"S3_ENDPOINT": "http://127.0.0.1:9"}, "s3://{bucket}/x", "127.0.0.1:9 could not be reached"),
    ],
    ids=["bucket", "key", "secret", "login", "endpoint"],
)
def test_trouble_with_the_store_is_named_before_anything_starts(
    variables: dict[str, str],
    uri: str,
    words: str,
    bucket: str,
    s3_env: dict[str, str],
    store: EmbeddedStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("CLIPSEG_KFP_S3_BACKOFF", "0")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    status, out, err = run(local_run(tmp_path, source=uri.format(bucket=bucket)), capsys)
    assert status == 1
    assert words in err
    assert "remedy: " in err
    assert "Traceback" not in out + err
    assert store.secret_key not in out + err


def test_compile_writes_a_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    status, out, _ = run(["compile"], capsys)
    assert status == 0 and "batch-segmentation.yaml" in out
    committed = ROOT / "pipelines" / "batch_segmentation" / "pipeline.yaml"
    assert Path("batch-segmentation.yaml").read_text("utf-8") == committed.read_text("utf-8")


def test_compile_knows_every_pipeline_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    status, out, _ = run(["compile", "one-shot-segmentation"], capsys)
    assert status == 0 and "one-shot-segmentation.yaml" in out
    committed = ROOT / "pipelines" / "one_shot_segmentation" / "pipeline.yaml"
    assert Path("one-shot-segmentation.yaml").read_text("utf-8") == committed.read_text("utf-8")


@pytest.mark.parametrize("prompt", ["", '{"name": "other", "logic": "not thing"}'])
def test_example_pictures_go_to_the_one_shot_pipeline(
    prompt: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """They are enough, and prompts beside them may use their names; checked before anything starts."""
    (tmp_path / "examples" / "thing").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "examples" / "thing" / "x.png")
    started: list[str] = []

    def stop(pipeline: Any, *_: Any) -> None:
        started.append(pipeline.name)
        raise ParameterError("stopped")

    monkeypatch.setattr("clipseg_kfp.local.runner.run_pipeline", stop)
    arguments = local_run(tmp_path, prompt=prompt, support=str(tmp_path / "examples"))
    assert run(arguments, capsys)[2] == "error: stopped"
    assert started == ["one-shot-segmentation"]


def test_prompts_check_prints_the_full_form_or_names_the_entry(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = tmp_path / "good.yaml"
    good.write_text("prompts:\n- a cat\n- {name: cup, texts: [a cup, a mug], threshold: 0.4}\n", "utf-8")
    status, out, _ = run(["prompts", "check", str(good)], capsys)
    assert status == 0
    assert [prompt["name"] for prompt in json.loads(out)["prompts"]] == ["a cat", "cup"]

    bad = tmp_path / "bad.yaml"
    bad.write_text("- a cat\n- {name: cup, texts: [a cup], threshold: 7}\n", "utf-8")
    status, _, err = run(["prompts", "check", str(bad)], capsys)
    assert status == 1
    assert "bad.yaml" in err and "prompt 2" in err and "threshold" in err

    bad.write_text("- a cat\n- {name: cup, image: cup.jpg}\n", "utf-8")
    status, _, err = run(["prompts", "check", str(bad)], capsys)
    assert status == 1
    assert "prompt 2 ('cup')" in err and "cup.jpg does not exist" in err

    bad.write_text(f"- a cat\n- {{name: cup, text: {'cup ' * 90}}}\n", "utf-8")
    status, _, err = run(["prompts", "check", str(bad), "--model", str(MODEL)], capsys)
    assert status == 1
    assert "prompt 2 ('cup')" in err and "tokens; this model reads" in err
    assert "no checkpoint at nope" in run(["prompts", "check", str(good), "--model", "nope"], capsys)[2]


def test_a_local_run_names_a_missing_picture_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("clipseg_kfp.local.runner.run_pipeline", lambda *_: pytest.fail("it started"))
    arguments = local_run(tmp_path, prompt='{"name": "cup", "image": "no/cup.jpg"}')
    err = run(arguments, capsys)[2]
    assert "prompt 1 ('cup')" in err and "no/cup.jpg does not exist" in err


def test_a_demo_without_its_model_says_what_to_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("clipseg_kfp.demo.run.MODEL", tmp_path / "missing")
    status, _, err = run(["demo", "--folder", str(tmp_path / "demo")], capsys)
    assert status == 1
    assert "hf://CIDAS/clipseg-rd64-refined" in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["compile", "-o", "missing/dir/x.yaml"], "missing/dir/x.yaml: No such file or directory"),
        (["compile", "-o", "file/x.yaml"], "file/x.yaml: Not a directory"),
        (["compile", "-o", "."], ".: Is a directory"),
        (["demo", "--model", MODEL, "--folder", "file"], "file: File exists"),
        (["local", "store", "--data", "file/store"], "file/store: Not a directory"),
    ],
    ids=["compile-missing", "compile-file", "compile-folder", "demo", "store"],
)
def test_places_that_cannot_be_written_are_named(
    arguments: list[str],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    status, out, err = run(arguments, capsys)
    assert status == 1
    assert "error: " in err and words in err and "remedy: " in err
    assert "Traceback" not in out + err


def test_a_full_disk_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    status, _, err = run(["compile", "-o", str(tmp_path / "x.yaml")], capsys)
    assert (status, err) == (
        1,
        "error: No space left on device remedy: Free some space, or name a place on another disk.",
    )


def test_a_bad_bucket_name_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = run(["local", "store", "--data", str(tmp_path), "--bucket", "Bad_Name"], capsys)
    assert status == 1
    assert "The bucket 'Bad_Name' cannot be made" in err and "remedy: Use 3 to 63" in err
    assert "Traceback" not in out + err


def test_the_store_tells_to_drop_a_session_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(signal, "pause", lambda: None)
    status, out, _ = run(["local", "store", "--data", str(tmp_path), "--bucket", "photos"], capsys)
    assert status == 0
    assert "export AWS_SECRET_ACCESS_KEY=" in out and "unset AWS_SESSION_TOKEN" in out


def is_alive(process: str) -> bool:
    """Whether a process runs; where no init collects the dead, they stay as zombies."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["interrupt", "kill"]
)
def test_an_interrupted_run_ends_its_steps_and_leaves_no_temporary_files(
    number: signal.Signals, status: int, tmp_path: Path
) -> None:
    work = tmp_path / "work"
    command = [sys.executable, "-m", "clipseg_kfp.cli", *local_run(tmp_path), "--work", str(work)]
    started = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        children = Path(f"/proc/{started.pid}/task/{started.pid}/children")
        deadline = time.monotonic() + 300
        while not (list(work.glob("*")) and (steps := children.read_text().split())):
            assert time.monotonic() < deadline and started.poll() is None
            time.sleep(0.05)
        os.kill(started.pid, number)  # this process alone, as a supervisor does
        _, err = started.communicate(timeout=300)
    finally:
        if started.poll() is None:
            os.killpg(started.pid, signal.SIGKILL)
    assert started.returncode == status
    assert "Traceback" not in err
    if number == signal.SIGINT:
        assert "The run is not committed" in err and "a new run makes them again" in err
    assert list(work.iterdir()) == []
    assert not [step for step in steps if is_alive(step)]
    assert not list((tmp_path / "masks").rglob("manifest.json"))
