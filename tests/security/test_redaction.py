"""Logins and signatures of URIs are in no message, table, manifest or log; prompts name no file of a pod."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table

from clipseg_kfp.cli import main
from clipseg_kfp.dataset.listing import Source
from clipseg_kfp.errors import ClipsegKfpError, ParameterError, exit_on_user_error
from clipseg_kfp.naming import printable, redacted
from clipseg_kfp.prompts import Files, read_prompt_set
from clipseg_kfp.prompts.files import POD_VARIABLES
from clipseg_kfp.runtime.events import VARIABLE
from clipseg_kfp.runtime.progress import say
from clipseg_kfp.runtime.screen import plain
from tests.codes import fails

MARK = "s3cr3tMARK"
URIS = [
    f"https://ann:{MARK}@host/a.zip",
    f"https://{MARK}@host/a.zip",
    f"s3://key:{MARK}@bucket/prefix",
    f"https://b.s3.amazonaws.com/a.csv?X-Amz-Credential={MARK}&X-Amz-Date=1&X-Amz-Signature={MARK}",
    f"https://b.s3.amazonaws.com/a.csv?X-Amz-Security-Token={MARK}",
    f"https://a.blob.core.windows.net/c/a.jpg?sv=2022&sig={MARK}%2B%3D&se=1",
    f"https://storage.googleapis.com/b/a.jpg?X-Goog-Signature={MARK}",
    f"https://host/a.parquet?part=1&token={MARK}",
    f"https://host/a.parquet?access_token={MARK}",
    f"https://host/a.yaml?AWSAccessKeyId=AKIA&Signature={MARK}",
    f"https://host/a.yaml?api_key={MARK}",
    f"https://host/a.yaml?apikey={MARK}#x",
    f"HTTPS://ann:{MARK}@host/a.zip",
]
HARMLESS = [
    "s3://bucket/photos/a@b.jpg",
    "hf://org/name@0123456789abcdef",
    "https://host/a.zip?part=1&tokens=2",
    "a=b, c=d",
    "s3://bucket/a b?c.jpg",
    "registry.example/name@sha256:0123",
]


@pytest.mark.parametrize("uri", URIS)
def test_wherever_a_uri_is_told(uri: str, capsys: pytest.CaptureFixture[str], tmp_path: Path,
                                monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.setenv(VARIABLE, str(tmp_path / "events"))
    error = ParameterError(f"'{uri}' is not there.", f"Check {uri}.", where=uri).within(
        f"prompt 1 ({uri})", uri
    )
    say("step", f"{uri}: 3 images")
    with pytest.raises(SystemExit), exit_on_user_error("step"):
        raise error
    table = Table()
    table.add_row(plain(uri))
    stream = io.StringIO()
    Console(file=stream, width=300).print(table, plain(uri))
    told = [str(error), json.dumps(error.record()), repr(error.args), *capsys.readouterr(), stream.getvalue(),
            (tmp_path / "events").read_text(), Source(uri, "a", uri, "", 1).source,
            redacted(uri), printable(uri)]  # fmt: skip
    assert [text for text in told if MARK in text] == []
    assert "host" not in uri or "host" in redacted(uri)
    assert redacted(redacted(uri)) == redacted(uri)


@pytest.mark.parametrize("text", HARMLESS)
def test_other_texts_stay(text: str) -> None:
    assert redacted(text) == text


@pytest.mark.parametrize("uri", URIS[::4])
@pytest.mark.parametrize("option", ["--source", "--output", "--model", "--prompts-file", "--support"])
def test_messages_of_the_command_line(
    uri: str, option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a scheme that is not read, so that nothing connects."""
    uri = f"ftp{uri[uri.index(':') :]}"
    given = {"--source": str(tmp_path), "--output": str(tmp_path / "out"), "--model": "examples/demo-model",
             "--prompt": "a cat", option: uri}  # fmt: skip
    if option == "--prompts-file":
        del given["--prompt"]
    words = [word for pair in given.items() for word in pair]
    with pytest.raises(SystemExit) as ended:
        main(["local", "run", *words, "--log", str(tmp_path / "log")])
    assert ended.value.code == 1
    assert MARK not in "".join(capsys.readouterr())


@pytest.mark.parametrize("variable", POD_VARIABLES)
def test_prompts_name_no_file_of_a_pod(
    variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = tmp_path / "token"
    secret.write_text(MARK)
    assert read_prompt_set([], str(secret)).prompts[0].name == MARK
    monkeypatch.setenv(variable, "x")
    for uri in (
        str(secret),
        f"file://{secret}",
        f"FILE://{secret}",
        "token",
        "~/token",
        "/proc/self/environ",
    ):
        with fails("file_of_pod", where=uri) as caught:
            read_prompt_set([], uri)
        assert MARK not in str(caught.value)
        with fails("file_of_pod"):
            Files().read(uri)
        with fails("file_of_pod"):
            Files().folder(uri)


def test_emoji_codes_and_markup_are_text() -> None:
    stream = io.StringIO()
    table = Table()
    table.add_row(plain(":x: [red]a[/red]\nb"))
    Console(file=stream, width=100).print(table, plain("[b]:smile:[/b]"))
    assert r":x: [red]a[/red]\u000ab" in stream.getvalue() and "[b]:smile:[/b]" in stream.getvalue()


def test_errors_are_printed_as_text(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ClipsegKfpError("prompt ':x: [red]a[/red]\n' is bad", "Rename :x:.")

    monkeypatch.setattr("clipseg_kfp.cli.app", fail)
    with pytest.raises(SystemExit):
        main([])
    assert r"':x: [red]a[/red]\u000a'" in (told := capsys.readouterr().err) and "Rename :x:" in told
