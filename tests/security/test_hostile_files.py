"""Prompt files and manifests that are made to exhaust whoever reads them."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipseg_kfp.dataset.listing import list_sources
from clipseg_kfp.errors import ParameterError
from clipseg_kfp.prompts import read_prompts
from clipseg_kfp.storage import open_folder
from tests.codes import fails

LETTERS = "abcdefghijkl"


def peak_kb() -> int:
    """The most memory that this process has had at once, since its peak was forgotten."""
    status = Path("/proc/self/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:")))


@pytest.fixture(autouse=True)
def bounded() -> Iterator[None]:
    """Each of these is refused in seconds of work and 500 MB."""
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak: an earlier test's would hide a new one
    before, start = peak_kb(), time.process_time()
    yield
    assert time.process_time() - start < 10
    assert peak_kb() - before < 500 << 10


def test_the_bound_on_memory_is_one() -> None:
    """Twice: a peak that stays for good would show the first time only."""
    for _ in range(2):
        Path("/proc/self/clear_refs").write_text("5")
        before = peak_kb()
        assert len(bytes([1]) * (100 << 20))
        assert peak_kb() - before > 90 << 10


def chained(first: str, link: str) -> str:
    """A document in which each line stands for ten times the one before."""
    pairs = pairwise(LETTERS)
    lines = [f"{new}: &{new} {link.format(old=', '.join([f'*{old}'] * 10), new=new)}" for old, new in pairs]
    return "\n".join([f"a: &a {first}", *lines, f"prompts: [*{LETTERS[-1]}]\n"])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (chained("[x]", "[{old}]"), "aliases stand for more"),
        (chained("{k: v}", "{{<<: [{old}], {new}1: 1}}"), "aliases stand for more"),
        ("prompts: &p [*p]", "contains it"),
        ("[" * 200_000, "deep"),
        ("{'a': " * 90_000, "deep"),
        ('prompts: [!!python/object/apply:os.system ["true"]]', "type that is not read"),
        ("prompts: [{text: a, threshold: " + "9" * 10_000 + "}]", "ValueError"),
    ],
    ids=["laughs", "merges", "endless", "deep json", "deep yaml", "code", "digits"],
)
def test_prompt_files(text: str, words: str) -> None:
    with pytest.raises(ParameterError, match=f"^set.yaml is neither JSON nor YAML: .*{words}"):
        read_prompts(text.encode(), "set.yaml")


def test_points_by_aliases_are_refused_before_they_are_checked() -> None:
    points = ", ".join(["[1, 1]"] * 3000)
    outlines = ", ".join(["*o"] * 3000)
    text = f"o: &o [{points}]\nprompts:\n- name: x\n  images: [{{image: a.png, polygons: [{outlines}]}}]\n"
    with pytest.raises(ParameterError, match="aliases stand for more"):
        read_prompts(text.encode(), "set.yaml")


def test_aliases_are_welcome_where_they_save_words() -> None:
    text = "prompts:\n- {name: a, texts: [x], cleaning: &c {min_area: 5}}\n- {name: b, texts: [y], cleaning: *c}\n"
    first, second = read_prompts(text.encode(), "set.yaml").prompts
    assert first.cleaning == second.cleaning is not None


def manifest(path: Path, value: str = "") -> None:
    with fails("manifest_unreadable", where=str(path)) as caught:
        list(list_sources(str(path), open_folder(str(path.parent / "staging"))))
    assert str(path) in str(caught.value) and len(str(caught.value)) < 1000
    assert value in caught.value.message


def test_lines_that_nest_too_deep(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text('{"uri": "a.jpg"}\n' + "[" * 200_000)
    manifest(path, "line 2")


def test_a_small_table_of_huge_values(tmp_path: Path) -> None:
    """One value of 1 MB, 100,000 times, in a file of a megabyte: 100 GB when written out."""
    values = pa.DictionaryArray.from_arrays(pa.array([0] * 100_000, pa.int32()), pa.array(["x" * (1 << 20)]))
    path = tmp_path / "m.parquet"
    pq.write_table(pa.table({"uri": values}), path, compression="zstd")
    assert path.stat().st_size < 2 << 20
    manifest(path, "1,048,576")


def test_a_small_table_of_many_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clipseg_kfp.records.untrusted.MAX_ROWS", 1000)
    path = tmp_path / "m.parquet"
    pq.write_table(pa.table({"uri": ["a.jpg"] * 1001}), path)
    manifest(path, "1,000")


@pytest.mark.parametrize("damage", [b"", b"PAR1", b"PAR1" + b"\xff" * 40 + b"PAR1"])
def test_a_damaged_table(damage: bytes, tmp_path: Path) -> None:
    (tmp_path / "m.parquet").write_bytes(damage)
    manifest(tmp_path / "m.parquet")


def test_columns_that_do_not_count_are_not_read(tmp_path: Path) -> None:
    filler = pa.DictionaryArray.from_arrays(pa.array([0] * 50_000, pa.int32()), pa.array(["x" * (1 << 20)]))
    (tmp_path / "a.jpg").write_bytes(b"x")
    pq.write_table(pa.table({"uri": ["a.jpg"] * 50_000, "note": filler}), tmp_path / "m.parquet")
    (source,) = list_sources(str(tmp_path / "m.parquet"), open_folder(str(tmp_path / "staging")))
    assert source.key == "a.jpg"


def test_a_table_of_any_type_of_text(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"x")
    for kind in (pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())):
        table = pa.table({"uri": pa.array(["a.jpg"]).cast(kind), "prompt": pa.array([None], pa.string())})
        pq.write_table(table, tmp_path / "m.parquet")
        (source,) = list_sources(str(tmp_path / "m.parquet"), open_folder(str(tmp_path / "staging")))
        assert json.dumps(source.row())
