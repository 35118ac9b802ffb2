"""What prompts refer to: support images, masks, vectors and thresholds from files."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from codes import fails
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save_file

from clipseg_kfp.engine.checkpoint import ModelFacts
from clipseg_kfp.errors import ClipsegKfpError, StorageError
from clipseg_kfp.prompts import Files, ResolvedPrompt, StoredEmbedding, gather, parse_prompts
from clipseg_kfp.prompts.vectors import read_vector

FACTS = ModelFacts("digest", 32, (0.5, 0.4, 0.3), (0.2, 0.2, 0.2), 4)
VECTOR = np.array([1.0, -2.0, 3.0, 0.5], np.float32)


def png(pixels: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def rgba(alpha: Any, color: int = 0) -> bytes:
    pixels = np.full((*alpha.shape, 4), color, np.uint8)
    pixels[..., 3] = alpha
    return png(pixels)


def photo(seed: int = 0, width: int = 40, height: int = 20) -> bytes:
    return png(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


def mask(box: tuple[int, int, int, int] = (5, 5, 10, 8), width: int = 40, height: int = 20) -> bytes:
    marked = np.zeros((height, width), np.uint8)
    marked[box[1] : box[1] + box[3], box[0] : box[0] + box[2]] = 255
    return png(marked)


def put(folder: Path, **files: bytes) -> None:
    for name, data in files.items():
        path = folder / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def gathered(folder: Path, *entries: Any, threshold: float = 0.5, **fields: Any) -> list[ResolvedPrompt]:
    prompts = parse_prompts({"prompts": list(entries), **fields})
    return list(gather(prompts, FACTS, threshold, Files(str(folder / "prompts.yaml"))))


def one(folder: Path, **entry: Any) -> ResolvedPrompt:
    return gathered(folder, {"name": "thing", **entry})[0]


# Names


@pytest.mark.parametrize(
    ("base", "uri", "expected"),
    [
        ("s3://bucket/sets/p.yaml", "a/b c.jpg", "s3://bucket/sets/a/b c.jpg"),
        ("s3://bucket/sets/p.yaml", "../x/", "s3://bucket/x/"),
        ("s3://bucket/p.yaml", "x.jpg", "s3://bucket/x.jpg"),
        ("s3://bucket/p.yaml", "s3://other/x.jpg", "s3://other/x.jpg"),
        ("s3://bucket/p.yaml", "/data/x.jpg", "/data/x.jpg"),
        ("file:///data/p.yaml", "a b.jpg", "file:///data/a%20b.jpg"),
        ("/data/sets/p.yaml", "x.jpg", "/data/sets/x.jpg"),
        ("sets/p.yaml", "x.jpg", "sets/x.jpg"),
        ("p.yaml", "x.jpg", "./x.jpg"),
        ("", "x.jpg", "x.jpg"),
    ],
)
def test_relative_names_start_at_the_prompt_file(base: str, uri: str, expected: str) -> None:
    assert Files(base).locate(uri) == expected


def test_names_do_not_leave_the_bucket() -> None:
    with fails("uri_leaves_bucket", where="../../x"):
        Files("s3://bucket/sets/p.yaml").locate("../../x")


@pytest.mark.parametrize("scheme", ["path", "file"])
def test_the_same_files_by_path_and_uri(tmp_path: Path, scheme: str) -> None:
    folder = tmp_path / "a b"
    put(folder, x_dot_png=photo())
    base = folder / "prompts.yaml"
    files = Files(str(base) if scheme == "path" else base.as_uri())
    assert files.read("x.png") == photo()
    with fails("file_missing", where=(folder / "nothing.png").as_uri()):
        files.read("nothing.png")
    with pytest.raises(StorageError):
        files.read("x.png", limit=10)


# Images


def test_equal_content_is_an_equal_definition(tmp_path: Path) -> None:
    put(tmp_path, a_dot_png=photo(), moved__b_dot_png=photo(), other_dot_png=photo(1), m_dot_png=mask())
    first = one(tmp_path, image="a.png", mask="m.png")
    moved = one(tmp_path, image="moved/b.png", mask="m.png")
    assert first.definition == moved.definition
    assert first.sources == ("a.png", "m.png")
    for changed in (
        {"image": "other.png", "mask": "m.png"},
        {"image": "a.png"},
        {"image": "a.png", "box": [5, 5, 10, 8]},
        {"image": "a.png", "mask": "m.png", "engineering": {"blur": 2}},
        {"image": "a.png", "mask": "m.png", "threshold": 0.4},
        {"image": "a.png", "mask": "m.png", "threshold": "otsu"},
        {"image": "a.png", "mask": "m.png", "threshold": {"otsu": {"minimum": 0.2}}},
        {"image": "a.png", "mask": "m.png", "cleaning": {"smooth": 1}},
        {"image": "a.png", "mask": "m.png", "instances": True},
        {"image": "a.png", "mask": "m.png", "id": 7},
    ):
        assert one(tmp_path, **changed).definition != first.definition
    json.dumps(first.definition)


@pytest.mark.parametrize("color", [0, 255])
def test_a_cut_out_is_a_mask_by_its_opacity(tmp_path: Path, color: int) -> None:
    """Over white its transparent part would be bright, and the mask would be everything."""
    marked = np.zeros((20, 40), np.uint8)
    marked[5:13, 5:15] = 255
    put(tmp_path, a_dot_png=photo(), m_dot_png=mask(), cut_dot_png=rgba(marked, color))
    by_mask = one(tmp_path, image="a.png", mask="m.png").ingredients[0].pixels
    cut = one(tmp_path, image="a.png", mask="cut.png")
    assert by_mask is not None and np.array_equal(by_mask, cut.ingredients[0].pixels)  # type: ignore[arg-type]
    assert not cut.notes
    put(tmp_path, cut_dot_png=rgba(np.full((20, 40), 200), 255))
    (note,) = one(tmp_path, image="a.png", mask="cut.png").notes
    assert "'cut.png'" in note and "100%" in note


def test_a_mask_and_the_box_around_it_show_the_same(tmp_path: Path) -> None:
    put(tmp_path, a_dot_png=photo(), m_dot_png=mask((5, 5, 10, 8)))
    by_mask = one(tmp_path, image="a.png", mask="m.png").ingredients[0].pixels
    by_box = one(tmp_path, image="a.png", box=[5, 5, 10, 8]).ingredients[0].pixels
    assert by_mask is not None
    assert by_box is not None
    assert np.array_equal(by_mask, by_box)


def test_a_folder_is_its_images(tmp_path: Path) -> None:
    put(
        tmp_path,
        set__images__a_dot_png=photo(0), set__masks__a_dot_png=mask(),
        set__images__deep__b_dot_png=photo(1), set__masks__deep__b_dot_png=mask(),
        set__notes_dot_txt=b"not an image",
        plain__a_dot_png=photo(0), plain__b_dot_png=photo(1),
    )  # fmt: skip
    folder = one(tmp_path, images_in="set/")
    listed = one(
        tmp_path,
        images=[
            {"image": "set/images/a.png", "mask": "set/masks/a.png"},
            {"image": "set/images/deep/b.png", "mask": "set/masks/deep/b.png"},
        ],
    )
    assert folder.definition == listed.definition
    assert [i.weight for i in folder.ingredients] == [0.5, 0.5]
    assert (
        one(tmp_path, images_in="plain").definition
        == one(tmp_path, images=["plain/a.png", "plain/b.png"]).definition
    )


def test_folders_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    put(
        tmp_path,
        half__images__a_dot_png=photo(),
        half__images__b_dot_png=photo(),
        half__masks__a_dot_png=mask(),
    )
    with fails("support_without_mask", where=(tmp_path / "half/images/b.png").as_uri()) as caught:
        one(tmp_path, images_in="half")
    assert "masks/b.png" in caught.value.remedy
    assert "prompt 1 ('thing')" in caught.value.message
    put(tmp_path, empty__notes_dot_txt=b"x")
    with fails("support_empty", where=(tmp_path / "empty").as_uri()):
        one(tmp_path, images_in="empty")
    with pytest.raises(StorageError) as missing:
        one(tmp_path, images_in="missing")
    assert "prompt 1 ('thing')" in missing.value.message
    put(tmp_path, **{f"many__{i:03d}_dot_png": photo() for i in range(101)})
    with fails("support_images_too_many", where=(tmp_path / "many").as_uri()):
        one(tmp_path, images_in="many")


@pytest.mark.parametrize(
    ("entry", "code", "name"),
    [
        ({"image": "missing.png"}, "file_missing", "missing.png"),
        ({"image": "text.png"}, "image_mislabelled", "text.png"),
        ({"image": "a.png", "mask": "text.png"}, "image_mislabelled", "text.png"),
        ({"image": "a.png", "mask": "small.png"}, "mask_size", "small.png"),
        ({"image": "a.png", "mask": "black.png"}, "mask_empty", "black.png"),
        ({"image": "a.png", "box": [30, 0, 40, 10]}, "region_outside_image", "a.png"),
    ],
)
def test_images_that_cannot_be_used_are_named(
    tmp_path: Path, entry: dict[str, Any], code: str, name: str
) -> None:
    put(
        tmp_path, a_dot_png=photo(), text_dot_png=b"hello there", small_dot_png=mask((1, 1, 2, 2), 10, 10),
        black_dot_png=mask((0, 0, 0, 0)),
    )  # fmt: skip
    with fails(code) as caught:
        one(tmp_path, **entry)
    assert Path(caught.value.where).name == name
    assert "prompt 1 ('thing')" in caught.value.message


# Vectors


def read(folder: Path, name: str, **fields: Any) -> np.ndarray[Any, Any]:
    stored = StoredEmbedding.model_validate({"uri": str(folder / name), "normalized": False, **fields})
    return read_vector(Files(), stored, 4)


def table(path: Path) -> None:
    rows = [VECTOR.tolist(), (2 * VECTOR).tolist(), None]
    pq.write_table(pa.table({"embedding": rows, "label": ["a", "b", "b"], "n": [1, 2, 3]}), path)


def test_vectors_of_all_formats(tmp_path: Path) -> None:
    rows = np.stack([VECTOR, 2 * VECTOR])
    np.save(tmp_path / "one.npy", VECTOR.astype(np.float16))
    np.save(tmp_path / "rows.npy", rows.astype(np.float64))
    np.save(tmp_path / "single.npy", rows[:1])
    tensor = torch.from_numpy(VECTOR)
    save_file({"a": tensor.to(torch.bfloat16), "m": torch.from_numpy(rows)}, tmp_path / "two.safetensors")
    save_file({"a": tensor}, tmp_path / "one.safetensors")
    table(tmp_path / "t.parquet")
    assert np.array_equal(read(tmp_path, "one.npy"), VECTOR)
    assert np.array_equal(read(tmp_path, "single.npy"), VECTOR)
    assert np.array_equal(read(tmp_path, "rows.npy", row=1), 2 * VECTOR)
    assert np.array_equal(read(tmp_path, "one.safetensors"), VECTOR)
    assert np.array_equal(read(tmp_path, "two.safetensors", key="a"), VECTOR)
    assert np.array_equal(read(tmp_path, "two.safetensors", key="m", row=1), 2 * VECTOR)
    assert np.array_equal(read(tmp_path, "t.parquet", row=1), 2 * VECTOR)
    assert np.array_equal(read(tmp_path, "t.parquet", where={"label": "b", "n": 2}), 2 * VECTOR)
    assert read(tmp_path, "one.npy").dtype == np.float32


@pytest.mark.parametrize(
    ("name", "fields", "code", "remedy"),
    [
        ("rows.npy", {}, "vector_row", "'row'"),
        ("rows.npy", {"row": 2}, "vector_row", ""),
        ("single.npy", {"row": 1}, "vector_row", "'row'"),
        ("wide.npy", {}, "vector_shape", ""),
        ("cube.npy", {}, "vector_shape", ""),
        ("nan.npy", {}, "vector_values", ""),
        ("zero.npy", {}, "vector_values", ""),
        ("words.npy", {}, "vector_shape", ""),
        ("pickle.npy", {}, "vector_format", ""),
        ("junk.npy", {}, "vector_format", ""),
        ("junk.safetensors", {}, "vector_format", ""),
        ("junk.parquet", {}, "vector_format", ""),
        ("two.safetensors", {}, "vector_key_missing", "'key'"),
        ("two.safetensors", {"key": "cu"}, "vector_unknown_name", "'cup'"),
        ("t.parquet", {}, "vector_row", "'where'"),
        ("t.parquet", {"column": "embeding", "row": 0}, "vector_unknown_name", "'embedding'"),
        ("t.parquet", {"where": {"label": "b"}}, "vector_row", "'where'"),
        ("t.parquet", {"where": {"label": "c"}}, "vector_row", "'where'"),
        ("t.parquet", {"row": 2}, "vector_shape", ""),
        ("t.parquet", {"column": "label", "row": 0}, "vector_format", ""),
        ("missing.npy", {}, "file_missing", ""),
        ("missing.parquet", {}, "file_missing", ""),
    ],
)
def test_vectors_that_cannot_be_used_are_named(
    tmp_path: Path, name: str, fields: dict[str, Any], code: str, remedy: str
) -> None:
    np.save(tmp_path / "single.npy", VECTOR)
    np.save(tmp_path / "rows.npy", np.stack([VECTOR, VECTOR]))
    np.save(tmp_path / "wide.npy", np.ones(5, np.float32))
    np.save(tmp_path / "cube.npy", np.ones((2, 2, 4), np.float32))
    np.save(tmp_path / "nan.npy", np.array([1, np.nan, 1, 1], np.float32))
    np.save(tmp_path / "zero.npy", np.zeros(4, np.float32))
    np.save(tmp_path / "words.npy", np.array(["a", "b", "c", "d"]))
    np.save(tmp_path / "pickle.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    save_file({"cup": torch.ones(4), "cat": torch.ones(4)}, tmp_path / "two.safetensors")
    table(tmp_path / "t.parquet")
    for ending in ("npy", "safetensors", "parquet"):
        (tmp_path / f"junk.{ending}").write_bytes(b"\x93NUMPY junk")
    place = tmp_path / name
    with fails(code, where=place.as_uri() if code == "file_missing" else str(place)) as caught:
        read(tmp_path, name, **fields)
    assert remedy in caught.value.remedy


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=200), st.sampled_from(["npy", "safetensors", "parquet"]))
def test_any_bytes_are_a_vector_or_an_error_for_people(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, ending: str
) -> None:
    folder = tmp_path_factory.mktemp("junk")
    heads = {"npy": b"\x93NUMPY\x01\x00", "safetensors": b"", "parquet": b"PAR1"}
    (folder / f"x.{ending}").write_bytes(heads[ending] + data)
    with pytest.raises(ClipsegKfpError):
        read(folder, f"x.{ending}")


def test_normalized_vectors_get_the_length_that_is_said(tmp_path: Path) -> None:
    unit = VECTOR / np.linalg.norm(VECTOR)
    np.save(tmp_path / "unit.npy", unit)
    np.save(tmp_path / "raw.npy", VECTOR)
    found = one(tmp_path, embedding={"uri": "unit.npy", "normalized": True, "norm": 7.5})
    (ingredient,) = found.ingredients
    assert ingredient.vector is not None
    np.testing.assert_allclose(ingredient.vector, unit * 7.5, rtol=1e-5)
    assert not found.notes
    with fails("vector_not_normalized", where="raw.npy"):
        one(tmp_path, embedding={"uri": "raw.npy", "normalized": True, "norm": 7.5})
    (note,) = one(tmp_path, embedding={"uri": "unit.npy", "normalized": False}).notes
    assert "unit.npy" in note
    other = one(tmp_path, embedding={"uri": "unit.npy", "normalized": True, "norm": "text"})
    assert other.ingredients[0].as_long_as_texts
    assert other.definition != found.definition


def test_a_vector_is_known_by_its_values(tmp_path: Path) -> None:
    np.save(tmp_path / "one.npy", VECTOR)
    np.save(tmp_path / "rows.npy", np.stack([2 * VECTOR, VECTOR]))
    plain = {"normalized": False}
    first = one(tmp_path, embedding={"uri": "one.npy", **plain})
    assert one(tmp_path, embedding={"uri": "rows.npy", "row": 1, **plain}).definition == first.definition
    assert one(tmp_path, embedding={"uri": "rows.npy", "row": 0, **plain}).definition != first.definition


# Thresholds


def test_thresholds_are_resolved(tmp_path: Path) -> None:
    put(tmp_path, m_dot_json=b'{"thresholds": {"a": 0.42, "cups": 0.3}, "other": 1}')
    calibrated = {"calibrated": "m.json"}
    found = gathered(
        tmp_path,
        {"text": "a", "threshold": calibrated},
        {"text": "b", "threshold": {**calibrated, "name": "cups"}},
        {"text": "c", "threshold": "otsu"},
        {"text": "d", "threshold": 0.7},
        "e",
        {"text": "f", "hidden": True},
        {"name": "g", "logic": "f"},
        threshold=0.25,
    )
    assert [one.threshold for one in found] == [0.42, 0.3, None, 0.7, 0.25, None, 0.25]
    assert [one.otsu for one in found] == [False, False, True, False, False, False, False]
    assert found[0].definition == gathered(tmp_path, {"text": "a", "threshold": 0.42})[0].definition


def test_the_sets_threshold_comes_before_the_runs(tmp_path: Path) -> None:
    put(tmp_path, m_dot_json=b'{"thresholds": {"a": 0.42, "b": 0.3}}')
    defaults = {"threshold": {"calibrated": "m.json"}}
    found = gathered(tmp_path, "a", "b", {"text": "c", "threshold": 0.9}, defaults=defaults)
    assert [one.threshold for one in found] == [0.42, 0.3, 0.9]


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"not json", "calibration_format"),
        (b"[" * 100_000, "calibration_format"),
        (b"[]", "calibration_format"),
        (b"3", "calibration_format"),
        (b'{"thresholds": 3}', "calibration_format"),
        (b'{"thresholds": {"cat": 0.5}}', "calibration_unknown_name"),
        (b'{"thresholds": {"cap": 1.5}}', "calibration_out_of_range"),
        (b'{"thresholds": {"cap": true}}', "calibration_out_of_range"),
        (b'{"thresholds": {"cap": NaN}}', "calibration_out_of_range"),
    ],
)
def test_calibrations_that_cannot_be_used_are_named(tmp_path: Path, data: bytes, code: str) -> None:
    put(tmp_path, m_dot_json=data)
    with fails(code, where="m.json") as caught:
        gathered(tmp_path, {"text": "cap", "threshold": {"calibrated": "m.json"}})
    assert "prompt 1 ('cap')" in caught.value.message
    assert ("'cat'" in caught.value.remedy) == (code == "calibration_unknown_name")


# What decides a configuration


def test_plain_texts_are_defined_as_ever(tmp_path: Path) -> None:
    found = gathered(tmp_path, "a cat", {"name": "cup", "texts": ["a cup", "a mug"], "threshold": 0.4})
    assert [one.definition for one in found] == [
        {"name": "a cat", "texts": ["a cat"], "threshold": 0.5},
        {"name": "cup", "texts": ["a cup", "a mug"], "threshold": 0.4},
    ]


def test_what_means_the_same_is_defined_alike(tmp_path: Path) -> None:
    def definitions(*entries: Any, **fields: Any) -> list[Any]:
        return [one.definition for one in gathered(tmp_path, *entries, **fields)]

    assert definitions({"text": "cup", "templates": "fixed"}) == definitions(
        "cup", defaults={"templates": ["a photo of a {}."]}
    )
    assert definitions({"text": "cup", "templates": "plain"}) == definitions("cup")
    assert definitions({"text": "cup", "templates": "shuffle"}) != definitions("cup")
    assert definitions("a", {"name": "b", "logic": "( not not a )"}) == definitions(
        "a", {"name": "b", "logic": "a"}
    )
    assert definitions({"text": "a", "cleaning": {"smooth": 0}, "id": 1}) == definitions("a")
    mixes = [[{"text": "a", "weight": w}, {"text": "b", "weight": 3 * w}] for w in (1, 2)]
    assert definitions({"name": "m", "mix": mixes[0]}) == definitions({"name": "m", "mix": mixes[1]})


def test_mixes_share_out_their_weights(tmp_path: Path) -> None:
    put(tmp_path, a_dot_png=photo(), b_dot_png=photo(1))
    mix = [{"texts": ["x", "y"], "templates": ["{}", "a {}"], "weight": 3}, {"images": ["a.png", "b.png"]}]
    found = one(tmp_path, mix=mix)
    assert [i.weight for i in found.ingredients] == pytest.approx([3 / 16] * 4 + [1 / 8] * 2)
    assert [i.text for i in found.ingredients[:4]] == ["x", "a x", "y", "a y"]
