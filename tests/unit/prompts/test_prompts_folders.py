"""Folders of example pictures as prompts: one a thing, by name, in order, and clear words for mistakes."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from codes import fails
from PIL import Image

from clipseg_kfp.errors import ParameterError, StorageError
from clipseg_kfp.prompts import parse_prompts, prompts_from_folders, read_prompts
from clipseg_kfp.prompts.sets import MAX_PROMPTS
from clipseg_kfp.storage import open_folder

PICTURE = io.BytesIO()
Image.new("RGB", (8, 8), "red").save(PICTURE, "PNG")


@pytest.fixture(params=["folder", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "s3":
        request.getfixturevalue("s3_env")
        return f"s3://{request.getfixturevalue('bucket')}/support"
    (tmp_path / "support").mkdir()
    return str(tmp_path / "support")


def put(root: str, *keys: str) -> None:
    for key in keys:
        open_folder(root).write(key, PICTURE.getvalue())


def test_each_folder_is_a_prompt_in_order_of_the_names(root: str) -> None:
    put(root, "nut/x.jpg", "red bolt/images/b.png", "red bolt/masks/b.png", "Nut & spaß #1/deep/er/y.webp")
    put(root, ".ipynb_checkpoints/x.png", "README.md", "nut/notes.txt")
    found = prompts_from_folders(root)
    assert [entry["name"] for entry in found] == ["Nut & spaß #1", "nut", "red bolt"]
    assert found == prompts_from_folders(f"{root}/")
    prompts = parse_prompts(found).prompts
    assert {prompt.kind for prompt in prompts} == {"image"}
    for prompt in prompts:
        assert prompt.images_in
        assert next(iter(open_folder(prompt.images_in).entries()))
    assert [entry["engineering"] for entry in prompts_from_folders(root, "none")] == ["none"] * 3


@pytest.mark.parametrize(
    ("keys", "code", "where"),
    [
        ((), "support_empty", ""),
        (("README.md",), "support_empty", ""),
        (("bolt/x.png", "nut/notes.txt"), "support_empty", "/nut"),
        (("bolt/x.png", "nut/masks/x.png"), "support_empty", "/nut"),
        (("bolt/x.png", "x.png"), "support_without_name", "/x.png"),
        (("images/x.png", "masks/x.png"), "support_without_name", ""),
    ],
    ids=["empty", "no-pictures", "one-empty", "masks-alone", "loose", "one-thing"],
)
def test_mistakes_are_named(root: str, keys: tuple[str, ...], code: str, where: str) -> None:
    put(root, *keys)
    with fails(code) as caught:
        prompts_from_folders(root)
    assert caught.value.where.removesuffix("/").endswith(f"support{where}")
    assert "<name>/images/x.jpg" in caught.value.remedy


def test_an_empty_folder_beside_others_is_named(tmp_path: Path) -> None:
    put(str(tmp_path), "bolt/x.png")
    (tmp_path / "nut").mkdir()
    with fails("support_empty", where=(tmp_path / "nut").as_uri()):
        prompts_from_folders(str(tmp_path))


def test_more_folders_than_prompts_are_refused(tmp_path: Path) -> None:
    for i in range(MAX_PROMPTS + 1):
        put(str(tmp_path), f"{i}/x.png")
    with fails("prompts_too_many", where=tmp_path.as_uri()):
        prompts_from_folders(str(tmp_path))


def test_a_missing_folder_is_a_fault_of_the_store(tmp_path: Path) -> None:
    with pytest.raises(StorageError) as caught:
        prompts_from_folders(str(tmp_path / "missing"))
    assert str(tmp_path / "missing") in caught.value.message


MORE = [{"name": "bolt", "images_in": "support/bolt/"}]


@pytest.mark.parametrize("own", [None, [], (), {}, "", {"prompts": []}, {"prompts": None, "version": 1}])
def test_example_pictures_are_enough(own: object) -> None:
    assert [prompt.name for prompt in parse_prompts(own, more=MORE).prompts] == ["bolt"]


def test_they_come_after_the_own_prompts_and_may_be_used_in_logic() -> None:
    own = ["a cat", {"name": "loose", "logic": '"a cat" and not bolt'}]
    names = ["a cat", "loose", "bolt"]
    assert [prompt.name for prompt in parse_prompts(own, more=MORE).prompts] == names
    data = b"{defaults: {threshold: 0.3}, prompts: [a cat, {name: loose, logic: '\"a cat\" and not bolt'}]}"
    found = read_prompts(data, "p.yaml", MORE)
    assert [prompt.name for prompt in found.prompts] == names and found.defaults.threshold == 0.3
    assert own == ["a cat", {"name": "loose", "logic": '"a cat" and not bolt'}], (
        "the caller's list is as it was"
    )
    with fails("name_taken", where="prompts[1].name"):
        parse_prompts(["bolt"], more=MORE)


@pytest.mark.parametrize("own", [3, {"prompts": 3}, {"prompts": {"name": "cat"}}, ["a", 3]])
def test_what_is_no_prompt_set_stays_none(own: object) -> None:
    with pytest.raises(ParameterError):
        parse_prompts(own, more=MORE)
