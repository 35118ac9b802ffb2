"""Names, prompts and messages are other people's data, wherever they are shown."""

from __future__ import annotations

import csv
import io
import json
import unicodedata
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console

from clipseg_kfp.cli import main
from clipseg_kfp.errors import ParameterError, exit_on_user_error
from clipseg_kfp.local.monitor import LogWriter, Monitor
from clipseg_kfp.naming import printable
from clipseg_kfp.results.formats.labelstudio import label_names, labeling_config
from clipseg_kfp.results.formats.tables import CsvWriter
from clipseg_kfp.results.summary import RunSummary, show
from clipseg_kfp.runtime.progress import say
from clipseg_kfp.storage import open_folder

SHORT = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
PIECES = [
    "\x1b[2J", "\x1b]0;title\x07", "\x9b31m",
    "\x08\x08", "\r", "\n[step] forged", "\u202e", "\ufeff", "\x7f",
    "\x00",
    "[bold red]", "[/]", "[link=http://x]", "\\[", "<script>", "]]>", "&lt;", '"', "'",
    "=1+1", "+1", "-1", "@x", "\t=2",
    ";=3", "\n=4", "\r\n@5", "\uff1d6", "{{ 7 }}", "{% raw %}", "%00", "a", " ", "ü", "👩\u200d🔬",
    "\ud800", ",", ";", ":", "#",
    "- ", "!!python/object/apply:os.system", "&a *a", "\u2028", "\ufffe",
]  # fmt: skip
hostile = st.lists(st.one_of(st.sampled_from(PIECES), st.characters()), max_size=8).map("".join)


def obeyed(text: str) -> list[str]:
    """Characters that a terminal obeys or that reorder text, but for line ends and tabs."""
    return [
        c
        for c in text
        if (unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") and c not in "\n\t")
        or unicodedata.bidirectional(c) in ("RLO", "LRO", "RLE", "LRE", "PDF", "RLI", "LRI", "FSI", "PDI")
    ]


@given(hostile)
@SHORT
def test_printable_text_holds_nothing_that_a_terminal_obeys(text: str) -> None:
    shown = printable(text)
    assert not obeyed(shown) and "\n" not in shown and "\t" not in shown
    shown.encode("utf-8")
    assert printable(shown) == shown
    if text.isprintable():
        assert shown == text


@given(hostile)
@SHORT
def test_logs_and_errors_are_one_line_and_harmless(capsys: pytest.CaptureFixture[str], text: str) -> None:
    say("step", f"quarantined {text}")
    with pytest.raises(SystemExit), exit_on_user_error("step"):
        raise ParameterError(f"The key {text} is odd.", f"Rename {text}.")
    shown = capsys.readouterr()
    assert shown.out.count("\n") == 1 and shown.err.count("\n") == 2
    assert not obeyed(shown.out + shown.err)


@given(hostile)
@SHORT
def test_a_local_run_shows_nothing_raw(text: str) -> None:
    """Whatever a step, its libraries or kfp itself print."""
    log, console = io.StringIO(), Console(file=io.StringIO(), force_terminal=False, width=200)
    with Monitor(console) as monitor:
        monitor.take({"kind": "line", "step": "step", "text": text, "progress": False})
    LogWriter(log).write(f"[step] {text}\na library says {text}\nerror: {text}\n")
    assert not obeyed(log.getvalue())
    assert not obeyed(console.file.getvalue())  # type: ignore[attr-defined]


@given(hostile)
@SHORT
def test_the_summary_shows_nothing_raw_and_no_markup(text: str) -> None:
    counts = {"listed": 1, "done": 0, "skipped": 0, "quarantined": 1, "masks": 0}
    figures = {"iou": 0.5, "precision": 0.5, "recall": 0.5, "images": 1}
    run = RunSummary(
        f"s3://bucket/{text}/runs/r/manifest.json", open_folder("."), {"counts": counts, "run": text},
        {"mean_iou": None, "per_prompt": {text: figures}}, [{"key": text, "reason": "damaged", "detail": text}],
    )  # fmt: skip
    plain = Console(file=io.StringIO(), width=400)
    show(run, plain)
    shown = plain.file.getvalue()  # type: ignore[attr-defined]
    assert not obeyed(shown)
    if "[bold red]" in text and len(text) < 100:
        assert "[bold red]" in shown, "markup in a key is text"


def test_the_command_line_says_hostile_names_as_text(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["prompts", "check", f"{tmp_path}/\x1b[2J\x9b31m\u202e[bold]x.yaml"])
    shown = capsys.readouterr().err
    assert "[bold]x.yaml" in shown and "\\u001b[2J" in shown and not obeyed(shown)


def test_prompts_that_are_checked_are_printed_harmless_and_whole(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = [{"name": "x", "texts": ["a \x1b[2J\x9b \u202e ü"]}]
    (tmp_path / "p.json").write_text(json.dumps(prompts))
    main_status(["prompts", "check", str(tmp_path / "p.json")])
    out = capsys.readouterr().out
    assert not obeyed(out)
    assert json.loads(out)["prompts"][0]["texts"] == prompts[0]["texts"]


def main_status(arguments: list[str]) -> int:
    try:
        main(arguments)
    except SystemExit as end:
        return int(end.code or 0)
    return 0


@given(st.lists(hostile, min_size=1, max_size=4))
@SHORT
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_no_cell_begins_like_a_formula_wherever_a_spreadsheet_cuts(delimiter: str, texts: list[str]) -> None:
    stream = io.StringIO(newline="")
    texts = [text.encode("utf-8", "replace").decode() for text in texts]
    CsvWriter(stream, ["x"]).write([*texts, -1.5, -2, None])
    written = stream.getvalue()
    cells = [
        cell for row in csv.reader(io.StringIO(written, newline=""), delimiter=delimiter) for cell in row
    ]
    if delimiter == ",":
        assert cells[-3:] == ["-1.5", "-2", ""], "numbers stay numbers"
        cells = cells[:-3]
        assert all(not cell.startswith(("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d")) for cell in cells)
    else:  # a cell may hold commas and our own numbers, but no text of theirs at its start
        starts = [cell.lstrip('"') for cell in cells]
        assert all(not cell.startswith(("=", "@", "\uff1d")) for cell in starts)


@given(st.lists(hostile.filter(bool), min_size=1, max_size=4))
@SHORT
def test_labels_stay_attributes_of_the_labeling_interface(names: list[str]) -> None:
    try:
        labels = label_names(names)
    except ParameterError:
        assert len(set(names)) < len(names) or any(ascii(name) != name for name in names)
        return
    tree = ElementTree.fromstring(labeling_config(names).encode())
    assert [tag.get("value") for tag in tree.iter("Label")] == labels
    assert [tag.tag for tag in tree.iter()][:3] == ["View", "Image", "BrushLabels"]
    assert len(list(tree.iter())) == 3 + len(names)


@given(st.lists(hostile.filter(bool), min_size=1, max_size=4, unique=True))
@SHORT
def test_yolos_names_are_data(names: list[str]) -> None:
    from clipseg_kfp.results.formats import yolo

    text = yolo._config(names)
    text = text.encode("utf-8", "backslashreplace").decode()
    loaded = yaml.safe_load(text)
    assert set(loaded) == {"path", "train", "val", "names"} or set(loaded) == {"train", "val", "names"}
    assert len(loaded["names"]) == len(names)
    assert all(isinstance(name, str) for name in loaded["names"].values())
