"""The step from prompts to the table and the configuration's digest, on folders and on the real store."""

from __future__ import annotations

import io
import json
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from codes import fails
from PIL import Image

from clipseg_kfp.engine.checkpoint import digest_of
from clipseg_kfp.naming import digest
from clipseg_kfp.results import ALGORITHM
from clipseg_kfp.steps import encode_prompts
from clipseg_kfp.steps.artifacts import EncodedPrompts
from clipseg_kfp.storage import open_object


def encode(model: Path, target: Path, prompts: list[Any], **parameters: Any) -> str:
    return encode_prompts.run(model=model, encoded_prompts=target, prompts=prompts, **parameters)


def picture(seed: int = 0) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (20, 40, 3), np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def mask() -> bytes:
    buffer = io.BytesIO()
    marked = np.zeros((20, 40), np.uint8)
    marked[5:12, 10:30] = 255
    Image.fromarray(marked).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("several", [False, True])
def test_pictures_stay_in_memory_until_they_are_encoded_and_no_longer(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, several: bool
) -> None:
    (tmp_path / "a.png").write_bytes(picture())
    prompts = [{"name": f"p{i}", "image": str(tmp_path / "a.png")} for i in range(30)]
    made: list[weakref.ref[Any]] = []
    alive: list[int] = []
    gather = encode_prompts.gather

    def watched(*arguments: Any) -> Iterator[Any]:
        for one in gather(*arguments):
            made.append(weakref.ref(one.ingredients[0].pixels))
            yield one
            del one
            alive.append(sum(each() is not None for each in made))

    monkeypatch.setattr(encode_prompts, "gather", watched)
    encode(model_folder, tmp_path, prompts, prompt_sets={"a": prompts, "b": prompts[:1]} if several else None)
    assert len(alive) == 30 + several
    assert max(alive) < 12, "they are encoded by the eight"


PROMPT_FILE = b"""
defaults: {threshold: {calibrated: metrics.json}, cleaning: {min_area: 5}}
prompts:
  - {name: bolt, images_in: support}
  - {name: nut, image: support/images/a.png, box: [0.1, 0.1, 0.5, 0.5], units: fractions}
  - {name: star, text: star, hidden: true}
  - {name: "no star", logic: "(bolt or nut) and not star"}
"""
FILES = {
    "prompts.yaml": PROMPT_FILE,
    "metrics.json": b'{"thresholds": {"bolt": 0.3, "nut": 0.6, "no star": 0.45}}',
    "support/images/a.png": picture(0),
    "support/images/b.png": picture(1),
    "support/masks/a.png": mask(),
    "support/masks/b.png": mask(),
}


def put(root: str, changes: dict[str, bytes] | None = None) -> None:
    for name, data in {**FILES, **(changes or {})}.items():
        folder, key = open_object(f"{root}/{name}")
        folder.write(key, data)


@pytest.fixture(params=["folder", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "s3":
        request.getfixturevalue("s3_env")
        return f"s3://{request.getfixturevalue('bucket')}/sets"
    (tmp_path / "sets").mkdir()
    return str(tmp_path / "sets")


def test_a_prompt_file_and_what_it_names(root: str, model_folder: Path, tmp_path: Path) -> None:
    put(root)
    first = encode(model_folder, tmp_path / "1", [], prompts_uri=f"{root}/prompts.yaml")
    table = EncodedPrompts(tmp_path / "1").table()
    assert [row.name for row in table.base] == ["bolt", "nut", "star"]
    assert [row.name for row in table.outputs] == ["bolt", "nut", "no star"]
    assert [row.threshold for row in table.rows] == [0.3, 0.6, None, 0.45]
    assert table.rows[0].description == "2 images with mask"
    assert table.embeddings.shape == (3, 32)
    assert EncodedPrompts(tmp_path / "1").configuration() == first

    assert encode(model_folder, tmp_path / "2", [], prompts_uri=f"{root}/prompts.yaml") == first
    changes: list[dict[str, bytes]] = [
        {"support/images/b.png": picture(2)},
        {"support/masks/a.png": picture(3)},
        {"metrics.json": b'{"thresholds": {"bolt": 0.3, "nut": 0.6, "no star": 0.46}}'},
        {"prompts.yaml": PROMPT_FILE.replace(b"and not", b"or not")},
        {"prompts.yaml": PROMPT_FILE.replace(b"min_area: 5", b"min_area: 6")},
    ]
    digests = {first}
    for change in changes:
        put(root, change)
        digests.add(encode(model_folder, tmp_path / "3", [], prompts_uri=f"{root}/prompts.yaml"))
        put(root)
    assert len(digests) == 1 + len(changes)


def test_the_same_content_elsewhere_is_the_same_configuration(model_folder: Path, tmp_path: Path) -> None:
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
        put(str(tmp_path / name))
    here, there = (
        encode(model_folder, tmp_path / f"{name}-out", [], prompts_uri=str(tmp_path / name / "prompts.yaml"))
        for name in ("here", "there")
    )
    assert here == there
    # What results say of a configuration must not tell the two apart either: objects are written once.
    said = [
        [row.to_json() for row in EncodedPrompts(tmp_path / f"{name}-out").shown()]
        for name in ("here", "there")
    ]
    assert said[0] == said[1]
    json.dumps(said)


def test_plain_texts_keep_their_digest(model_folder: Path, tmp_path: Path) -> None:
    """Results of earlier versions stay valid: the digest covers name, texts and threshold, and no more."""
    found = encode(
        model_folder, tmp_path, ["star", {"name": "c", "texts": ["circle", "disc"], "threshold": 0.4}]
    )
    assert found == digest(
        {
            "algorithm": ALGORITHM,
            "model": digest_of(model_folder),
            "prompts": [
                {"name": "star", "texts": ["star"], "threshold": 0.5},
                {"name": "c", "texts": ["circle", "disc"], "threshold": 0.4},
            ],
            "settings": {},
        }
    )


def test_numbers_that_kubeflow_made_floats_are_whole_again(model_folder: Path, tmp_path: Path) -> None:
    """A list parameter travels as a protobuf value, which knows no integers."""
    entry = {"text": "star", "id": 3, "cleaning": {"min_area": 5, "fill_holes": 1, "smooth": 2}}
    floats = {"text": "star", "id": 3.0, "cleaning": {"min_area": 5.0, "fill_holes": 1.0, "smooth": 2.0}}
    assert encode(model_folder, tmp_path / "a", [entry]) == encode(model_folder, tmp_path / "b", [floats])


def test_a_file_that_is_not_there_names_the_prompt(model_folder: Path, tmp_path: Path) -> None:
    with fails("file_missing") as caught:
        encode(model_folder, tmp_path, ["star", {"name": "nut", "image": str(tmp_path / "nut.png")}])
    assert caught.value.where.endswith("nut.png") and "'nut'" in caught.value.message


def test_doubtful_vectors_are_noted(
    model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "unit.npy", np.eye(1, 32, dtype=np.float32)[0])
    entry = {"name": "v", "embedding": {"uri": str(tmp_path / "unit.npy"), "normalized": False}}
    encode(model_folder, tmp_path / "out", ["star", entry])
    out = "".join(capsys.readouterr())
    assert "note: prompt 'v': the vector of" in out
    assert "2 prompts (1 text, 1 embedding)" in out
