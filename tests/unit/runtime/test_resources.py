"""CPU limits of containers, read from made-up control groups."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from clipseg_kfp.runtime.resources import cpu_limit


@pytest.fixture(autouse=True)
def sixteen_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: set(range(16)))


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    return folder


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("200000 100000\n", 2),
        ("150000 100000\n", 2),  # 1.5 CPUs
        ("100001 100000\n", 2),
        ("50000 100000\n", 1),
        ("1000 100000\n", 1),
        ("10000000 100000\n", 16),  # more than the node has
        ("max 100000\n", 16),
        ("", 16),
        ("two 100000\n", 16),
        ("200000 0\n", 16),
        ("0 100000\n", 16),
    ],
)
def test_version_2(tmp_path: Path, content: str, expected: int) -> None:
    assert cpu_limit(write(tmp_path, {"cpu.max": content})) == expected


@pytest.mark.parametrize(
    ("quota", "period", "expected"),
    [("250000\n", "100000\n", 3), ("-1\n", "100000\n", 16), ("10\n", "100000\n", 1), ("", "", 16)],
)
def test_version_1(tmp_path: Path, quota: str, period: str, expected: int) -> None:
    files = {"cpu/cpu.cfs_quota_us": quota, "cpu/cpu.cfs_period_us": period}
    assert cpu_limit(write(tmp_path, files)) == expected


def test_version_1_without_a_period_sets_no_limit(tmp_path: Path) -> None:
    assert cpu_limit(write(tmp_path, {"cpu/cpu.cfs_quota_us": "200000"})) == 16


def test_no_control_group_at_all(tmp_path: Path) -> None:
    assert cpu_limit(tmp_path / "none") == 16


def test_the_affinity_mask_counts_where_it_is_smaller(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: {5})
    assert cpu_limit(write(tmp_path, {"cpu.max": "400000 100000"})) == 1


def test_systems_without_affinity_masks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity")  # as on macOS
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert cpu_limit(tmp_path) == 6
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert cpu_limit(tmp_path) == 1


def test_this_machine() -> None:
    assert 1 <= cpu_limit() <= 16
