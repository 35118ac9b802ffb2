"""What a step says of its progress, in each of the three ways."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from clipseg_kfp.runtime import events, progress
from clipseg_kfp.runtime.progress import say, track


class Clock:
    """Time passes only when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(progress, "time", made)
    monkeypatch.delenv(events.VARIABLE, raising=False)
    return made


def items(clock: Clock, count: int, seconds: float) -> Iterator[int]:
    for i in range(count):
        clock.now += seconds
        yield i


@pytest.mark.parametrize("mode", ["lines", "events", "bar"])
def test_items_pass_through_as_they_are_asked_for(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, mode: str
) -> None:
    if mode == "events":
        monkeypatch.setenv(events.VARIABLE, str(tmp_path / "events"))
    if mode == "bar":
        monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    source = items(clock, 5, 1)
    tracked = track("step", source, 5)
    assert [next(tracked), next(tracked)] == [0, 1]
    assert next(source) == 2, "nothing is drawn ahead"
    assert list(tracked) == [3, 4]
    assert list(track("step", [], 0)) == []


@pytest.mark.parametrize("mode", ["lines", "events", "bar"])
def test_errors_of_the_work_come_through(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, mode: str
) -> None:
    if mode == "events":
        monkeypatch.setenv(events.VARIABLE, str(tmp_path / "events"))
    if mode == "bar":
        monkeypatch.setattr(sys.stdout, "isatty", lambda: True)

    def broken() -> Iterator[int]:
        yield 1
        raise KeyError("the cause")

    with pytest.raises(KeyError) as caught:
        list(track("step", broken(), 2))
    assert caught.value.args == ("the cause",)


def test_plain_lines_have_count_rate_and_time_left(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    assert len(list(track("segment_images", items(clock, 10, 2), 10, unit="views"))) == 10
    assert capsys.readouterr().out.splitlines() == [
        "[segment_images] 3/10 views, 0.5 views/s, 14 s left",
        "[segment_images] 6/10 views, 0.5 views/s, 8.0 s left",
        "[segment_images] 9/10 views, 0.5 views/s, 2.0 s left",
        "[segment_images] 10/10 views in 20 s (0.5 views/s)",
    ]


def test_short_work_says_one_line_and_no_work_none(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    list(track("step", items(clock, 1200, 0.001), 1200))
    list(track("step", items(clock, 0, 1), 0))
    assert capsys.readouterr().out == "[step] 1,200/1,200 images in 1.2 s (1000.0 images/s)\n"


def test_work_in_no_time_divides_by_nothing(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    assert list(track("step", items(clock, 2, 0), 2)) == [0, 1]
    assert capsys.readouterr().out.startswith("[step] 2/2 images in 0.0 s")


def test_events_start_at_zero_end_at_all_and_come_at_a_bounded_rate(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(events.VARIABLE, str(tmp_path / "events"))
    list(track("step", items(clock, 100, 0.05), 100, unit="views"))
    told = [json.loads(line) for line in (tmp_path / "events").read_text().splitlines()]
    (line,) = [event for event in told if event["kind"] == "line"]
    assert line["step"] == "step" and line["progress"]
    bars = [event for event in told if event["kind"] == "progress"]
    common = {"kind": "progress", "step": "step", "process": os.getpid(), "total": 100, "unit": "views"}
    assert bars[0] == {**common, "done": 0} and bars[-1] == {**common, "done": 100}
    done = [event["done"] for event in bars]
    assert done == sorted(done)
    assert 20 <= len(bars) <= 30


def test_a_terminal_gets_a_bar(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr(sys, "stdout", terminal)
    list(track("step", items(clock, 4, 0.5), 4, unit="views"))
    assert "4/4" in terminal.getvalue()
    assert "2.0 views/s" in terminal.getvalue()


def test_lines_appear_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[str] = []
    stream = io.StringIO()
    monkeypatch.setattr(stream, "flush", lambda: flushed.append(stream.getvalue()))
    monkeypatch.setattr(sys, "stdout", stream)
    say("fetch_model", "digest abc")
    assert flushed == ["[fetch_model] digest abc\n"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 s"), (9.94, "9.9 s"), (10, "10 s"), (59.4, "59 s"), (60, "1 min 00 s"), (61.6, "1 min 02 s"),
        (3599, "59 min 59 s"), (3600, "1 h 00 min"), (90_000, "25 h 00 min"),
        (9.97, "10 s"), (59.7, "1 min 00 s"), (3599.7, "1 h 00 min"),
    ],
)  # fmt: skip
def test_durations_are_short(seconds: float, text: str) -> None:
    assert progress._duration(seconds) == text
