"""The docs' picture of a report."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from codes import fails
from PIL import Image, ImageDraw
from test_report_page import sample_report

from clipseg_kfp import records
from clipseg_kfp.report import render_report
from clipseg_kfp.storage import open_folder
from tools import readme_picture as picture
from tools import report_picture

pytestmark = pytest.mark.browser


def test_a_picture_of_a_report_is_light_and_of_fixed_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "report.html").write_text(render_report(sample_report()))
    out = tmp_path / "docs" / "report.png"
    monkeypatch.setattr("sys.argv", ["x", "--folder", str(tmp_path), "--out", str(out)])
    report_picture.main()
    pixels = np.asarray(Image.open(out).convert("RGB"))
    assert pixels.shape == (report_picture.HEIGHT, report_picture.WIDTH, 3)
    assert tuple(pixels[5, 5]) == (0xF5, 0xF6, 0xF8), "the light page"
    assert pixels[-200:].std() > 20, "the gallery's pictures are on it"
    (tmp_path / "report.html").unlink()
    with pytest.raises(SystemExit):
        report_picture.main()
    assert "report.html" in capsys.readouterr().err


def test_a_missing_browser_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda _: None)
    with fails("browser_missing"):
        report_picture.photograph("<head></head>")


def test_circles_of_the_demo_s_picture_stay_round(tmp_path: Path) -> None:
    scene = Image.new("RGB", (400, 300), "white")
    ImageDraw.Draw(scene).ellipse((120, 70, 280, 230), fill="black")
    place = tmp_path / "output" / "c"
    for path in (tmp_path / "bucket/dataset/a.png", place / "overlays/a.png/x.png"):
        path.parent.mkdir(parents=True)
        scene.save(path)
    (place / "runs/r").mkdir(parents=True)
    row = dict.fromkeys(records.MASKS.names) | {"category_id": 1, "prompt": "a circle"}
    records.write_parquet(place / "runs/r/masks.parquet", records.MASKS, [row])
    folders = [open_folder(str(tmp_path / name)) for name in ("output", "bucket")]
    sheet = picture.draw(folders[0], folders[1], "c", "r", ["a.png"])
    dark = np.asarray(sheet.convert("L"))[: picture.CELL] < 128
    wide, tall = dark.any(axis=0).sum(), dark.any(axis=1).sum()
    assert abs(int(wide) - int(tall)) <= 2
