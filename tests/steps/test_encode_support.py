"""The step that encodes prompts, with folders of example pictures."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from codes import fails, refuses
from grouped import grouped
from PIL import Image

from clipseg_kfp.steps import encode_prompts
from clipseg_kfp.steps.artifacts import EncodedPrompts
from clipseg_kfp.storage import open_folder


def picture(seed: int) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (20, 40, 3), np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def mask(left: int = 10) -> bytes:
    buffer = io.BytesIO()
    marked = np.zeros((20, 40), np.uint8)
    marked[5:12, left:30] = 255
    Image.fromarray(marked).save(buffer, "PNG")
    return buffer.getvalue()


SUPPORT = {
    "nut/images/a.png": picture(0),
    "nut/masks/a.png": mask(),
    "bolt/b.png": picture(1),
    "bolt/c.png": picture(2),
}


@pytest.fixture(params=["folder", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "s3":
        request.getfixturevalue("s3_env")
        return f"s3://{request.getfixturevalue('bucket')}/support"
    return str(tmp_path / "support")


def put(root: str, files: dict[str, bytes]) -> None:
    for key, data in files.items():
        open_folder(root).write(key, data)


def encode(model: Path, target: Path, prompts: list[Any], **options: Any) -> str:
    return encode_prompts.run(model=model, encoded_prompts=target, prompts=prompts, **grouped(**options))


def test_folders_are_what_prompts_with_the_same_pictures_are(
    root: str, model_folder: Path, tmp_path: Path
) -> None:
    put(root, SUPPORT)
    logic = {"name": "loose", "logic": "nut and not bolt"}
    shown = encode(model_folder, tmp_path / "shown", [logic], support_uri=root)
    written = [
        logic,
        {"name": "bolt", "images": [f"{root}/bolt/b.png", f"{root}/bolt/c.png"]},
        {"name": "nut", "image": f"{root}/nut/images/a.png", "mask": f"{root}/nut/masks/a.png"},
    ]
    assert shown == encode(model_folder, tmp_path / "written", written)
    tables = [EncodedPrompts(tmp_path / name).table() for name in ("shown", "written")]
    assert [row.name for row in tables[0].rows] == ["loose", "bolt", "nut"]
    np.testing.assert_array_equal(tables[0].embeddings, tables[1].embeddings)


def test_a_changed_mask_or_another_way_to_prepare_is_another_configuration(
    model_folder: Path, tmp_path: Path
) -> None:
    root = str(tmp_path / "support")
    put(root, SUPPORT)
    found = [encode(model_folder, tmp_path / "out", [], support_uri=root)]
    found.append(encode(model_folder, tmp_path / "out", [], support_uri=root, engineering="none"))
    put(root, {"nut/masks/a.png": mask(left=15)})
    found.append(encode(model_folder, tmp_path / "out", [], support_uri=root))
    assert len(set(found)) == 3
    put(root, SUPPORT)
    assert encode(model_folder, tmp_path / "out", [], support_uri=f"{root}/") == found[0]


@pytest.mark.parametrize(
    ("files", "code", "place"),
    [
        ({"nut/images/d.png": picture(3)}, "support_without_mask", "nut/images/d.png"),
        ({f"bolt/{i}.png": b"" for i in range(99)}, "support_images_too_many", "bolt"),
        ({"screw/x.png": b"no image"}, "image_mislabelled", "screw/x.png"),
        ({"screw/masks/x.png": b""}, "support_empty", "screw"),
    ],
    ids=["no-mask", "too-many", "no-image", "empty"],
)
def test_mistakes_name_the_thing(
    files: dict[str, bytes], code: str, place: str, model_folder: Path, tmp_path: Path
) -> None:
    root = str(tmp_path / "support")
    put(root, SUPPORT | files)
    with fails(code) as caught:
        encode(model_folder, tmp_path / "out", [], support_uri=root)
    assert caught.value.where.rstrip("/").endswith(place)


def test_nothing_to_look_for_is_named(model_folder: Path, tmp_path: Path) -> None:
    with fails("prompts_empty"):
        encode(model_folder, tmp_path / "out", [])
    with refuses(("support.engineering", "literal_error")):
        encode(model_folder, tmp_path / "out", ["a cat"], engineering="all")
