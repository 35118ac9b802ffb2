from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from clipseg_kfp.cli import main
from clipseg_kfp.results import Results
from clipseg_kfp.storage import open_folder

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))
from run_history import write_run

ONE, TWO = "0123456789abcdef", "fedcba9876543210"


@pytest.fixture(params=["folder", "s3"])
def output(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "folder":
        uri = str(tmp_path / "out")
    else:
        request.getfixturevalue("s3_env")
        uri = f"s3://{request.getfixturevalue('bucket')}/out"
    folder = open_folder(uri)
    write_run(Results(folder, ONE), "monday", [("a.jpg", "1", "done"), ("bad.jpg", "1", "quarantined")])
    write_run(Results(folder, ONE), "tuesday [x]", [("b.jpg", "1", "done")], skipped=1)
    write_run(Results(folder, TWO), "killed", [("c.jpg", "1", "done")], commit=False)
    return uri


def call(*arguments: str) -> int:
    try:
        main(["results", *arguments])
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def test_list(output: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("list", output, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert sorted(run["run"] for run in told) == ["monday", "tuesday [x]"]
    assert {run["run"]: run["counts"]["listed"] for run in told} == {"monday": 2, "tuesday [x]": 2}
    assert call("list", output) == 0
    shown = capsys.readouterr().out
    assert "monday" in shown and "[x]" in shown
    assert call("list", output, "--config", "0" * 16) == 1
    assert "0" * 16 in capsys.readouterr().err
    assert call("list", output, "--config", TWO) == 0
    assert "no committed runs" in capsys.readouterr().out


def test_verify(output: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("verify", output, "--all") == 0
    assert "2 runs are as they were written." in capsys.readouterr().out
    results = Results(open_folder(output), ONE)
    (mask,) = (e.key for e in results.folder.entries("masks/a.jpg/"))
    data = results.folder.read(mask)
    results.folder.write(mask, data[:-1] + b"?")
    assert call("verify", output, "--run", "monday") == 1
    said = capsys.readouterr()
    assert f"changed    {results.folder.locate(mask)}" in said.out
    assert "full=true" in said.err
    results.folder.delete(mask)
    assert call("verify", output, "--all", "--json") == 1
    told = {run["run"]: run for run in json.loads(capsys.readouterr().out)}
    assert told["tuesday [x]"]["sound"] and not told["monday"]["sound"]
    assert [f["problem"] for f in told["monday"]["findings"]] == ["missing"]
    assert call("verify", output, "--run", "sunday") == 1
    assert "no committed run 'sunday'" in capsys.readouterr().err


def test_gc(output: str, capsys: pytest.CaptureFixture[str]) -> None:
    folder = open_folder(output)
    before = {entry.key for entry in folder.entries()}
    assert call("gc", output) == 0
    assert "0 objects that no committed run names, 0 bytes." in capsys.readouterr().out, "all are young"
    assert call("gc", output, "--older-than", "-1") == 1
    capsys.readouterr()
    import time

    time.sleep(1.1)  # S3 tells whole seconds in places
    assert call("gc", output, "--older-than", "0") == 0
    said = capsys.readouterr().out
    assert "Nothing was removed: add --delete" in said and "c.jpg" in said and "monday" not in said
    assert {entry.key for entry in folder.entries()} == before
    assert call("gc", output, "--older-than", "0", "--delete", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["removed"] == len(told["objects"]) > 0
    after = {entry.key for entry in folder.entries()}
    assert before - after == {item["key"] for item in told["objects"]}
    assert all(key.startswith(TWO) for key in before - after)
    assert call("verify", output, "--all") == 0
