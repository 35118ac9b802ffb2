"""Ground truth by convention: whatever the layout, masks are never taken for images, and none is lost in silence."""

from __future__ import annotations

import re
import unicodedata
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_listing import listing, put, truth_of

from clipseg_kfp.dataset import convention
from clipseg_kfp.storage import Entry
from clipseg_kfp.storage.files import FileFolder

NFC, NFD = (unicodedata.normalize(form, "café/Müller") for form in ("NFC", "NFD"))


def told(capsys: pytest.CaptureFixture[str]) -> tuple[int, int, int, int]:
    """Masks that fit, masks, images with one, images."""
    (numbers,) = re.findall(r"(\d+) of (\d+) masks fit, (\d+) of (\d+) images", capsys.readouterr().out)
    return tuple(map(int, numbers))


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        (f"{NFC}.jpg", f"{NFD}.png"),
        (f"{NFD}.jpg", f"{NFC}.png"),
        ("a.jpg", "a.png"),
        ("a.jpg", "a_mask.png"),
        ("deep/a.b.jpg", "deep/a.b-mask.tif"),
        ("a.jpg", "a_segmentation.png"),
        ("a.jpg", "a.jpg.png"),
        ("a", "a_mask.png"),
    ],
)
def test_masks_are_found_however_they_are_named(
    image: str, mask: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(str(tmp_path), {f"images/{image}": b"i", f"masks/red/{mask}": b"m"})
    assert truth_of(listing(str(tmp_path))) == {f"images/{image}": ["red"]}
    assert told(capsys) == (1, 1, 1, 1)


def test_the_name_itself_goes_before_an_ending(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(
        str(tmp_path),
        {
            "images/a.jpg": b"i",
            "masks/red/a.png": b"m",
            "masks/red/a_mask.png": b"m",
            "masks/blue/a_mask.png": b"m",
        },
    )
    (source,) = listing(str(tmp_path)).values()
    assert {truth.prompt: truth.uri.rpartition("/")[2] for truth in source.ground_truth} == {
        "red": "a.png",
        "blue": "a_mask.png",
    }
    output = capsys.readouterr().out
    assert "2 of 3 masks" in output and "masks/red/a_mask.png" in output, (
        "the mask that is left over is named"
    )


@pytest.mark.parametrize("above", ["", "dataset/", "my data/é/"])
@pytest.mark.parametrize("packed", [False, True])
def test_folders_around_the_layout(above: str, packed: bool, tmp_path: Path) -> None:
    files = {
        f"{above}images/a.jpg": b"i",
        f"{above}masks/red/a.png": b"m",
        f"{above}masks/red/b.png": b"m",
        "README": b"text",
        "__MACOSX/x/._a.jpg": b"fork",
    }
    if packed:
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
            for name, data in files.items():
                archive.writestr(name, data)
        found = listing(str(tmp_path / "a.zip"), tmp_path / "staging")
    else:
        put(str(tmp_path / "x"), files)
        found = listing(str(tmp_path / "x"))
    assert truth_of(found) == {f"{above}images/a.jpg": ["red"]}


def test_a_store_is_searched_like_a_folder(s3_env: None, bucket: str) -> None:
    put(f"s3://{bucket}/set", {"top/Images/a.jpg": b"i", "top/Masks/red/a.png": b"m"})
    assert truth_of(listing(f"s3://{bucket}/set")) == {"top/Images/a.jpg": ["red"]}


def test_masks_that_fit_no_image_are_named_and_not_segmented(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(str(tmp_path), {"images/a.jpg": b"i"} | {f"masks/red/other-{i:02d}.png": b"m" for i in range(12)})
    assert truth_of(listing(str(tmp_path))) == {"images/a.jpg": []}
    output = capsys.readouterr().out
    assert "0 of 12 masks" in output and "other-03.png" in output and " 2 more" in output


def test_pictures_right_below_masks_are_no_images_where_one_has_an_images_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(str(tmp_path), {"images/a.jpg": b"i", "masks/a_mask.png": b"m", "masks/b.png": b"m"})
    assert truth_of(listing(str(tmp_path))) == {"images/a.jpg": []}
    output = capsys.readouterr().out
    assert "a_mask.png" in output and "b.png" in output and "left out" in output


def test_a_folder_called_masks_may_hold_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(str(tmp_path), {"images/a.jpg": b"i", "masks/venice.png": b"m"})
    assert set(listing(str(tmp_path))) == {"images/a.jpg", "masks/venice.png"}
    assert "venice.png" in capsys.readouterr().out


def test_two_folders_at_the_top_are_no_wrapping(tmp_path: Path) -> None:
    files = {"a/images/a.jpg": b"i", "a/masks/red/a.png": b"m", "b/b.jpg": b"i"}
    put(str(tmp_path), files)
    assert set(listing(str(tmp_path))) == set(files)


def test_a_flat_bucket_is_not_listed_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convention, "PEEKED", 5)
    seen: list[str] = []
    names = FileFolder.names

    def spy(self: FileFolder, prefix: str = "") -> Iterator[Entry]:
        for entry in names(self, prefix):
            seen.append(entry.key)
            yield entry

    monkeypatch.setattr(FileFolder, "names", spy)
    monkeypatch.setattr(FileFolder, "folders", None)
    put(str(tmp_path), {f"{i:02d}.jpg": b"i" for i in range(30)})
    assert len(listing(str(tmp_path))) == 30
    assert len(seen) <= 5
