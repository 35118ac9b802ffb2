from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from clipseg_kfp.dataset import manifests
from clipseg_kfp.dataset.convention import MASK_LAYOUT
from clipseg_kfp.dataset.ignored import RESULTS
from clipseg_kfp.dataset.listing import Source, list_sources
from clipseg_kfp.errors import ParameterError
from clipseg_kfp.storage import Folder, archives, open_folder, open_object
from tests.codes import fails

FILES = {
    "images/a.jpg": b"a",
    "images/deep/er/b.PNG": b"b",
    "images/deep/er/b.txt": b"text",
    "images/plain": b"no suffix",
    "masks/red thing/a.png": b"mask of a",
    "masks/cat/deep/er/b.tif": b"mask of b",
    "masks/cat/notes.txt": b"text",
    "masks/loose.png": b"below no prompt",
    "readme.md": b"text",
}
TRUTH = {"images/a.jpg": ["red thing"], "images/deep/er/b.PNG": ["cat"], "images/plain": []}


@pytest.fixture(params=["folder", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where data sets lie: a folder, and a prefix of the real store."""
    if request.param == "folder":
        (tmp_path / "data set").mkdir()
        return str(tmp_path / "data set")
    request.getfixturevalue("s3_env")
    return f"s3://{request.getfixturevalue('bucket')}/data set"


def put(place: str, files: dict[str, bytes]) -> Folder:
    folder = open_folder(place)
    for key, data in files.items():
        folder.write(key, data)
    return folder


def listing(uri: str, staging: Path | None = None) -> dict[str, Source]:
    found = list(list_sources(uri, open_folder(str(staging or "/nowhere"))))
    assert len({source.key for source in found}) == len(found)
    return {source.key: source for source in found}


def content(uri: str) -> bytes:
    folder, key = open_object(uri)
    return folder.read(key)


def truth_of(found: dict[str, Source]) -> dict[str, list[str]]:
    return {key: [truth.prompt for truth in source.ground_truth] for key, source in found.items()}


def test_images_and_masks_folders(place: str) -> None:
    put(place, FILES)
    found = listing(place)
    assert truth_of(found) == TRUTH
    for key, source in found.items():
        assert content(source.uri) == FILES[key]
        assert source.source == source.uri
        assert source.size == len(FILES[key])
        assert source.version
    assert content(found["images/a.jpg"].ground_truth[0].uri) == b"mask of a"
    assert content(found["images/deep/er/b.PNG"].ground_truth[0].uri) == b"mask of b"


def test_what_is_left_out_beside_ground_truth_is_counted(
    place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    put(place, FILES | {"b.jpg": b"b", "more/c.jpg": b"c", "own/d.png": b"d"})
    other = lambda key, uri: RESULTS if key.startswith("own/") else ""  # noqa: E731
    list(list_sources(place, open_folder("/nowhere"), other=other))
    loose, found, outside = capsys.readouterr().out.splitlines()
    assert " 2 images " in outside and "masks/" in outside
    assert " 1 pictures " in loose and MASK_LAYOUT in loose and "masks/loose.png" in loose
    assert "2 of 2 masks" in found and "2 of 3 images" in found


def test_versions_are_those_that_reading_checks(place: str) -> None:
    folder = put(place, {"a.jpg": b"one", "b.jpg": b"two"})
    for key, source in listing(place).items():
        assert folder.read(key, version=source.version) in (b"one", b"two")


def test_without_images_folder_masks_are_images(place: str) -> None:
    put(place, {"a.jpg": b"a", "masks/cat/a.jpg": b"m"})
    assert truth_of(listing(place)) == {"a.jpg": [], "masks/cat/a.jpg": []}


def test_without_masks_all_is_listed(place: str) -> None:
    put(place, {"images/a.jpg": b"a", "other/b.webp": b"b"})
    assert truth_of(listing(place)) == {"images/a.jpg": [], "other/b.webp": []}


def test_odd_keys_and_what_macos_leaves(place: str) -> None:
    odd = ["späße & 画像 (1) %20.jpg", "a#b?c=d.jpg", "-x.jpg"]
    put(
        place, {**dict.fromkeys(odd, b"x"), ".DS_Store": b"", "._a.jpg": b"", "s/._b.png": b"", "t.json": b""}
    )
    found = listing(place)
    assert sorted(found) == sorted(odd)
    assert all(content(source.uri) == b"x" for source in found.values())


def test_empty_and_missing_folders(place: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with fails("nothing_under_source", where=str(tmp_path / "empty")):
        listing(str(tmp_path / "empty"))
    assert list(list_sources(str(tmp_path / "empty"), open_folder("/nowhere"), allow_empty=True)) == []
    with fails("folder_missing", where=str(tmp_path / "nothing-here")):
        listing(str(tmp_path / "nothing-here"))
    with fails("source_empty", where="source_uri"):
        listing("")


def test_missing_bucket_is_named(s3_env: dict[str, str]) -> None:
    with fails("bucket_missing", where="s3://no-such-bucket"):
        listing("s3://no-such-bucket/x")


def test_prefix_ending_in_two_slashes() -> None:
    """SeaweedFS takes them for one; other stores do not."""
    assert open_folder("s3://bucket/data//").locate("a.jpg") == "s3://bucket/data//a.jpg"


def test_file_name_that_is_no_unicode(tmp_path: Path) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.jpg")).write_bytes(b"x")
    (source,) = listing(str(tmp_path)).values()
    assert source.key == "\\udcff.jpg"
    (tmp_path / "\\udcff.jpg").write_bytes(b"y")  # of that very name: another image, another key
    assert set(listing(str(tmp_path))) == {"\\udcff.jpg", "\\\\udcff.jpg"}
    assert content(source.uri) == b"x"


def test_single_image(place: str) -> None:
    put(place, {"deep/one image.jpg": b"x"})
    (source,) = listing(f"{place}/deep/one image.jpg").values()
    assert (source.key, source.size, source.ground_truth) == ("one image.jpg", 1, ())
    assert "://" in source.uri
    assert content(source.uri) == b"x"
    with fails("object_missing", where=f"{place}/two.jpg"):
        listing(f"{place}/two.jpg")


# Manifests

ROWS = [
    {"uri": "a b.jpg", "mask_uri": "m/1.png", "prompt": "red thing"},
    {"uri": "a b.jpg", "mask_uri": "m/2.png", "prompt": "cat"},
    {"uri": "deep/c.jpg", "mask_uri": "", "prompt": ""},
    {"uri": "ABSOLUTE", "mask_uri": "ABSOLUTE", "prompt": "cat"},
    {"uri": "gone.jpg", "mask_uri": "", "prompt": ""},
]


def write_manifest(place: str, name: str, rows: list[dict[str, object]]) -> str:
    buffer = io.BytesIO()
    table = pd.DataFrame(rows)
    if name.endswith(".csv"):
        table.to_csv(buffer, index=False, encoding="utf-8-sig")
    elif name.endswith(".parquet"):
        table.to_parquet(buffer)
    else:
        buffer.write("".join(json.dumps(row) + "\n" for row in rows).encode())
    open_folder(place).write(name, buffer.getvalue())
    return f"{place}/{name}"


@pytest.mark.parametrize("name", ["list.csv", "list.jsonl", "list.ndjson", "list.parquet"])
def test_manifest(place: str, name: str, tmp_path: Path) -> None:
    put(place, {"a b.jpg": b"ab", "deep/c.jpg": b"c", "m/1.png": b"1", "m/2.png": b"2"})
    elsewhere = tmp_path / "else where.jpg"
    elsewhere.write_bytes(b"else")
    rows = [{k: str(elsewhere) if v == "ABSOLUTE" else v for k, v in row.items()} for row in ROWS]
    found = listing(write_manifest(place, name, rows))
    absolute = str(elsewhere).lstrip("/")
    assert truth_of(found) == {
        "a b.jpg": ["red thing", "cat"],
        "deep/c.jpg": [],
        absolute: ["cat"],
        "gone.jpg": [],
    }
    assert [content(truth.uri) for truth in found["a b.jpg"].ground_truth] == [b"1", b"2"]
    assert content(found["deep/c.jpg"].uri) == b"c"
    assert content(found[absolute].uri) == content(found[absolute].ground_truth[0].uri) == b"else"
    assert found["gone.jpg"].version == ""
    assert found["gone.jpg"].size == 0
    assert all(found[key].version for key in found if key != "gone.jpg")


def test_manifest_with_uris_of_the_store(s3_env: dict[str, str], bucket: str, tmp_path: Path) -> None:
    put(f"s3://{bucket}", {"x/a.jpg": b"a", "x/m.png": b"m"})
    row = {"uri": f"s3://{bucket}/x/a.jpg", "mask_uri": f"s3://{bucket}/x/m.png", "prompt": "cat"}
    found = listing(write_manifest(str(tmp_path), "m.csv", [row]))
    assert truth_of(found) == {f"{bucket}/x/a.jpg": ["cat"]}


def test_manifest_needs_only_uris(place: str) -> None:
    put(place, {"a.jpg": b"a"})
    assert truth_of(listing(write_manifest(place, "m.csv", [{"uri": "a.jpg", "more": 1}]))) == {"a.jpg": []}
    uris = [{"uri": "a.jpg"}, {"uri": "a.jpg", "mask_uri": None, "prompt": None}]
    assert truth_of(listing(write_manifest(place, "m.jsonl", uris))) == {"a.jpg": []}


def test_manifest_in_a_folder_beside_the_images(place: str) -> None:
    put(place, {"images/a.jpg": b"a", "lists/b.jpg": b"b"})
    found = listing(write_manifest(place, "lists/m.csv", [{"uri": "../images/a.jpg"}, {"uri": "./b.jpg"}]))
    assert [content(source.uri) for source in found.values()] == [b"a", b"b"]


def test_relative_path_of_a_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Later steps may run in another folder: what is handed on is absolute."""
    put(str(tmp_path), {"a.jpg": b"a"})
    write_manifest(str(tmp_path), "m.csv", [{"uri": "a.jpg", "mask_uri": "a.jpg", "prompt": "cat"}])
    monkeypatch.chdir(tmp_path)
    (source,) = listing("m.csv").values()
    (single,) = listing("a.jpg").values()
    monkeypatch.chdir("/")
    assert content(source.uri) == content(single.uri) == content(source.ground_truth[0].uri) == b"a"


def test_equal_keys_in_a_manifest_stay_apart(tmp_path: Path) -> None:
    place = str(tmp_path).lstrip("/")
    put(str(tmp_path), {"a.jpg": b"one", f"{place}/a.jpg": b"two"})
    found = listing(
        write_manifest(str(tmp_path), "m.csv", [{"uri": f"{tmp_path}/a.jpg"}, {"uri": f"{place}/a.jpg"}])
    )
    assert sorted(content(source.uri) for source in found.values()) == [b"one", b"two"]


@pytest.mark.parametrize(
    ("data", "code", "row"),
    [
        (b"path,prompt\na.jpg,cat\n", "manifest_no_uri_column", 0),
        (b"uri,prompt\na.jpg,\n  ,\n", "manifest_uri_empty", 2),
        (b"uri\na.jpg,b,c\nd,e,f,g\n", "manifest_row_fields", 1),
        (b"id,uri,mask_uri\n1,a.jpg,\n7,a.jpg,b.jpg,m.png\n", "manifest_row_fields", 2),
        (b"uri;uri\na.jpg;b.jpg\n", "manifest_column_twice", 0),
        (b"uri,mask_uri,prompt\na.jpg,,\nb.jpg,m.png,\n", "manifest_mask_without_prompt", 2),
        (
            b"uri,mask_uri,prompt\na.jpg,1.png,cat\na.jpg,2.png,dog\na.jpg,1.png,cat\na.jpg,2.png,cat\n",
            "manifest_mask_twice",
            4,
        ),
        (b"uri\n/a.jpg\ngs://b/a.jpg\n", "uri_scheme_unknown", 2),
        (b"uri,mask_uri,prompt\n/a.jpg,,\n/a.jpg,ftp://b/m.png,cat\n", "uri_scheme_unknown", 2),
        (b"uri\n/a.jpg\ns3://bucket/x/\n", "uri_names_no_object", 2),
    ],
)
def test_bad_rows_are_named(tmp_path: Path, data: bytes, code: str, row: int) -> None:
    path = tmp_path / "m.csv"
    path.write_bytes(data)
    with fails(code, where=f"{path}, row {row}" if row else str(path)) as caught:
        listing(str(path))
    assert str(path) in caught.value.message


@pytest.mark.parametrize(
    ("name", "data", "value"),
    [
        ("m.csv", b"", ""),
        ("m.csv", b'uri\n"a.jpg\n', ""),
        ("m.csv", b"uri\n\xff\xfe.jpg\n", ""),
        ("m.jsonl", b'{"uri": "a.jpg"}\n\n{"uri": \n', "line 3"),
        ("m.jsonl", b'{"uri": "a.jpg"}\n["b.jpg"]\n', "line 2"),
        ("m.parquet", b"PAR1 nothing PAR1", ""),
    ],
)
def test_manifests_that_cannot_be_read_are_named(tmp_path: Path, name: str, data: bytes, value: str) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    with fails("manifest_unreadable", where=str(path)) as caught:
        listing(str(path))
    assert str(path) in caught.value.message and value in caught.value.message


WRITTEN = "uri,mask_uri,prompt\na.jpg,m.png,red thing\nb.jpg,,\n"


@pytest.mark.parametrize(
    "data",
    [
        WRITTEN.encode("utf-8-sig"),
        WRITTEN.encode("utf-16"),
        WRITTEN.replace("\n", "\r\n").encode(),
        WRITTEN.replace("\n", ",\n").encode(),
        WRITTEN.replace("\n", ",\n").replace("prompt,", "prompt").encode(),
        WRITTEN.replace(",", ";").encode(),
        WRITTEN.replace(",", "\t").encode(),
        WRITTEN.replace(",", " ; ").replace("jpg ", "jpg").replace("png ", "png").encode(),
        WRITTEN.replace(",", ", ").encode(),
        WRITTEN.replace("uri,mask_uri,prompt", " URI , mask_uri,Prompt ").replace("\n", "\n\n").encode(),
        ("sep=;\n" + WRITTEN.replace(",", ";")).encode(),
    ],
)
def test_tables_as_programs_and_people_write_them(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "m.csv").write_bytes(data)
    assert truth_of(listing(f"{tmp_path}/m.csv")) == {"a.jpg": ["red thing"], "b.jpg": []}


def test_uris_that_are_the_index_of_a_table(tmp_path: Path) -> None:
    table = pd.DataFrame({"uri": ["a.jpg", "b.jpg"], "prompt": ["", None]}).set_index("uri")
    table.to_parquet(tmp_path / "m.parquet")
    assert set(listing(f"{tmp_path}/m.parquet")) == {"a.jpg", "b.jpg"}


@pytest.mark.parametrize("value", [["a.jpg", "b.jpg"], 7, 1.5, True, {"a": "b.jpg"}])
@pytest.mark.parametrize("name", ["m.jsonl", "m.parquet"])
def test_values_of_another_type_are_named(tmp_path: Path, name: str, value: object) -> None:
    uri = write_manifest(str(tmp_path), name, [{"uri": "a.jpg", "prompt": value}])
    with fails("manifest_value_type", where=f"{uri}, row 1") as caught:
        listing(uri)
    assert isinstance(caught.value, ParameterError)
    assert [one.where for one in caught.value.problems] == ["row 1, column 'prompt'"]


def test_null_is_an_empty_value(tmp_path: Path) -> None:
    (tmp_path / "m.jsonl").write_text('{"uri": "a.jpg", "mask_uri": null, "prompt": null}\n{"uri": null}\n')
    with fails("manifest_uri_empty", where=f"{tmp_path}/m.jsonl, row 2"):
        listing(f"{tmp_path}/m.jsonl")


def test_all_bad_rows_are_told_at_once_up_to_twenty(tmp_path: Path) -> None:
    for bad, told in ((3, 3), (50, 20)):
        (tmp_path / "m.csv").write_text("uri,mask_uri,prompt\nfine.jpg,,\n" + "a.jpg,m.png,\n,,\n" * bad)
        with pytest.raises(ParameterError) as caught:
            listing(f"{tmp_path}/m.csv")
        places = [(one.where, one.code) for one in caught.value.problems]
        assert len(places) == min(2 * told, 20)
        assert places[:2] == [
            ("row 2, column 'prompt'", "manifest_mask_without_prompt"),
            ("row 3, column 'uri'", "manifest_uri_empty"),
        ]


def test_a_row_that_comes_twice_counts_once(tmp_path: Path) -> None:
    put(str(tmp_path), {"a.jpg": b"a", "m.csv": b"uri,mask_uri,prompt\n" + b"a.jpg,m.png,cat\n" * 2})
    assert truth_of(listing(f"{tmp_path}/m.csv")) == {"a.jpg": ["cat"]}


def test_a_manifest_that_is_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifests, "MAX_BYTES", 9)
    (tmp_path / "m.csv").write_bytes(b"uri\na.jpg\n")
    with fails("object_too_large", where=f"{tmp_path}/m.csv"):
        listing(f"{tmp_path}/m.csv")


def test_manifest_without_rows_has_no_images(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_bytes(b"uri,prompt\n")
    (tmp_path / "m.jsonl").write_bytes(b"\n")
    for name in ("m.csv", "m.jsonl"):
        with fails("no_images", where=str(tmp_path / name)):
            listing(str(tmp_path / name))


def test_missing_manifest_is_named(place: str) -> None:
    with fails("object_missing") as caught:
        listing(f"{place}/missing.csv")
    assert caught.value.where.endswith("/missing.csv")


def test_listing_is_a_stream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(str(tmp_path), {"a.jpg": b"a"})
    drawn = 0
    folder = open_folder(str(tmp_path))
    (entry,) = folder.entries()

    def endless(self: Folder, prefix: str = "") -> Iterator[object]:
        nonlocal drawn
        while not prefix:
            drawn += 1
            yield entry

    monkeypatch.setattr(type(folder), "entries", endless)
    stream = list_sources(str(tmp_path), folder)
    assert next(stream).key == next(stream).key == "a.jpg"
    assert drawn == 2


def test_archive_suffixes_are_known() -> None:
    assert set(archives.SUFFIXES) >= {".zip", ".tar", ".tar.gz", ".tgz"}
