from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from clipseg_kfp.runtime.temporary import PREFIX, temporary_folder

PROGRAM = """
import os, sys
from pathlib import Path
from clipseg_kfp.runtime.temporary import temporary_folder
with temporary_folder(Path(sys.argv[1])) as folder:
    (folder / "step").mkdir()
    (folder / "step" / "views").write_bytes(b"large")
    os.kill(os.getpid(), 9)
"""


def test_what_a_killed_process_left_goes_and_what_is_in_use_stays(tmp_path: Path) -> None:
    (tmp_path / f"{PREFIX}of-something-else").mkdir()
    with temporary_folder(tmp_path) as in_use:
        killed = subprocess.run([sys.executable, "-c", PROGRAM, str(tmp_path)], check=False)
        assert killed.returncode == -signal.SIGKILL
        assert len(list(tmp_path.iterdir())) == 3
        with temporary_folder(tmp_path) as mine:
            assert {path.name for path in tmp_path.iterdir()} == {
                in_use.name, mine.name, f"{PREFIX}of-something-else"
            }  # fmt: skip
    assert [path.name for path in tmp_path.iterdir()] == [f"{PREFIX}of-something-else"]


def test_it_goes_when_the_work_fails(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), temporary_folder(tmp_path) as folder:
        (folder / "x").write_bytes(b"1")
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []
