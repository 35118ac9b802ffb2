"""What the process of a step tells its parent."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from clipseg_kfp.runtime.events import VARIABLE, Event, Listener, tell

WRITER = """
import sys
from clipseg_kfp.runtime.events import tell
for _ in range(200):
    tell("line", text=sys.argv[1] * 500)
"""


def test_events_of_several_processes_arrive_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "events"))
    taken: list[Event] = []
    with Listener(tmp_path / "events", taken.append):
        writers = [subprocess.Popen([sys.executable, "-c", WRITER, letter]) for letter in "ab"]
        assert [writer.wait() for writer in writers] == [0, 0]
    assert sorted(event["text"] for event in taken) == ["a" * 500] * 200 + ["b" * 500] * 200
    assert {event["process"] for event in taken} == {writer.pid for writer in writers}


def test_events_arrive_while_the_work_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "events"))
    taken: list[Event] = []
    with Listener(tmp_path / "events", taken.append):
        tell("time", step="s", seconds=1.5)
        deadline = time.monotonic() + 30
        while not taken and time.monotonic() < deadline:
            time.sleep(0.01)
        assert taken and (taken[0]["kind"], taken[0]["seconds"]) == ("time", 1.5)


def test_a_line_that_was_cut_costs_no_other(tmp_path: Path) -> None:
    (tmp_path / "events").write_bytes(b'{"kind": "li\n{"kind": "time"}\n{"kind": "unfinished"')
    taken: list[Event] = []
    with Listener(tmp_path / "events", taken.append):
        pass
    assert taken == [{"kind": "time"}]


def test_a_step_goes_on_where_nobody_listens_or_the_file_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    tell("time", step="s", seconds=1)
    monkeypatch.setenv(VARIABLE, str(tmp_path / "missing" / "events"))
    tell("time", step="s", seconds=1)
    assert list(tmp_path.iterdir()) == []
