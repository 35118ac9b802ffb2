from __future__ import annotations

import io
import json
import tarfile
import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clipseg_kfp.dataset.ignored import (
    BESIDE_IMAGES,
    GROUND_TRUTH,
    HIDDEN,
    MARKER,
    MOST_SUFFIXES,
    OTHER,
    RESULTS,
    Ignored,
    ignored_text,
    kind_of,
)
from clipseg_kfp.dataset.listing import check_source, list_sources
from clipseg_kfp.results.earlier import EarlierResults, below
from clipseg_kfp.storage import open_folder
from tests.codes import fails

CONFIG, OTHER_CONFIG = "0123456789abcdef", "fedcba9876543210"


def fill(place: Path | str, keys: dict[str, bytes] | list[str]) -> None:
    folder = open_folder(str(place))
    for key in keys:
        folder.write(key, keys[key] if isinstance(keys, dict) else b"x")


def mark(config: str) -> bytes:
    return json.dumps({"configuration": config, "model": {}, "prompts": []}).encode()


def listed(uri: Path | str, output: str = "/nowhere") -> tuple[list[str], dict[str, int]]:
    ignored, source = Ignored(), open_folder(str(uri))
    earlier = EarlierResults(source, below(source, open_folder(output).child("staging")))
    found = list_sources(
        str(uri),
        open_folder("/nowhere"),
        ignored=ignored,
        other=lambda key, _: RESULTS if earlier.has(key) else "",
        allow_empty=True,
    )
    return sorted(source.key for source in found), ignored.counts()


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        ("a.jpg", ""),
        ("deep/A.JPEG", ""),
        ("3f786850e387550fdab836ed7e6dc881de23001b", ""),
        ("ab/readme-of-the-photos", ""),
        ("./a.jpg", ""),
        ("../a.jpg", ""),
        ("...jpg", ""),
        ("a.SVG", ".svg"),
        ("a.tar.gz", ".gz"),
        ("a.what is this", OTHER),
        (".ipynb_checkpoints/a-checkpoint.jpg", HIDDEN),
        ("x/.Trash-1000/files/a.jpg", HIDDEN),
        ("x/@eaDir/a.jpg/SYNOPHOTO_THUMB_XL.jpg", HIDDEN),
        ("__MACOSX/._a.jpg", HIDDEN),
        (".DS_Store", HIDDEN),
        ("_SUCCESS", MARKER),
        ("x/images_$folder$", MARKER),
        ("LICENSE", MARKER),
        ("x/README", MARKER),
        ("_committed_1234", MARKER),
        ("Makefile", MARKER),
    ],
)
def test_kinds(key: str, kind: str) -> None:
    assert kind_of(key, 1) == kind


def test_an_empty_object_without_a_suffix_is_a_marker() -> None:
    assert (kind_of("photos", 0), kind_of("photos", 1), kind_of("a.jpg", 0)) == (MARKER, "", "")


PARTS = st.sampled_from(
    ["a", "b", "images", "masks", "cat", ".x", "@eaDir", "runs", CONFIG, "staging", "files", "__MACOSX"]
)
NAMES = st.sampled_from(
    ["a.jpg", "b.PNG", "c", "d.svg", "e.txt", "_SUCCESS", ".f.jpg", "g.w w", "configuration.json", "LICENSE"]
)
KEYS = st.builds(lambda parts, name: "/".join([*parts, name]), st.lists(PARTS, max_size=4), NAMES)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(keys=st.sets(KEYS, max_size=20), marked=st.booleans())
def test_counts_add_up_to_the_objects(
    keys: set[str], marked: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    place = tmp_path_factory.mktemp("objects")
    paths = {key for key in keys if not any(other.startswith(f"{key}/") for other in keys)}
    files = {key: mark(CONFIG) if marked and "configuration" in key else b"x" for key in paths}
    fill(place, files)
    place.mkdir(exist_ok=True)
    found, ignored = listed(place)
    assert len(found) + sum(ignored.values()) == len(files)


def test_ground_truth_and_what_lies_beside_are_kinds(tmp_path: Path) -> None:
    fill(tmp_path, ["images/a.jpg", "images/n.txt", "masks/cat/a.png", "masks/cat/.b.png", "c.jpg"])
    assert listed(tmp_path) == (
        ["images/a.jpg"],
        {".txt": 1, GROUND_TRUTH: 1, HIDDEN: 1, BESIDE_IMAGES: 1},
    )


def test_suffixes_are_bounded() -> None:
    ignored = Ignored()
    for number in range(1000):
        ignored.add(f".s{number}")
    ignored.add(".s0")
    counts: dict[str, int] = ignored.counts()
    assert len(counts) == MOST_SUFFIXES + 1
    assert (counts[OTHER], counts[".s0"]) == (1000 - MOST_SUFFIXES, 2)


def test_words_for_people() -> None:
    assert (ignored_text(None), ignored_text({})) == ("", "")
    assert ignored_text({".txt": 3, ".svg": 1200}).endswith(": 1,200 .svg, 3 .txt")
    assert "22" in ignored_text({f".s{i}": 1 for i in range(22)})


# Earlier results


def results_at(place: Path, config: str = CONFIG) -> int:
    keys = ["masks/a/v/cat.png", "labels/a/v.png", "overlays/a/v.jpg", "runs/r/manifest.json", "latest.json"]
    fill(place / config, {"configuration.json": mark(config), **dict.fromkeys(keys, b"x")})
    return len(keys) + 1


def test_results_are_told_by_their_mark_wherever_they_lie(tmp_path: Path) -> None:
    fill(tmp_path, ["a.jpg"])
    count = sum(
        results_at(tmp_path / place, config)
        for place, config in (("", CONFIG), ("deep/out", CONFIG), ("deep/out", OTHER_CONFIG))
    )
    (tmp_path / "link").symlink_to(tmp_path)
    for uri in (tmp_path, tmp_path / "deep" / "..", f"{tmp_path}/./", tmp_path / "link"):
        assert listed(uri) == (["a.jpg"], {RESULTS: count})


def test_a_configuration_as_the_source_is_results(tmp_path: Path) -> None:
    count = results_at(tmp_path)
    assert listed(tmp_path / CONFIG) == ([], {RESULTS: count})


def test_copied_results_keep_their_mark(tmp_path: Path) -> None:
    count = results_at(tmp_path)
    (tmp_path / CONFIG).rename(tmp_path / "old results")
    assert listed(tmp_path) == ([], {RESULTS: count})


def test_names_that_look_like_results_hide_nothing(tmp_path: Path) -> None:
    keys = ["masks/a.png", "runs/x.jpg", f"{CONFIG}/masks/a.jpg", "staging/a.jpg", f"staging/{CONFIG}/b.jpg"]
    fill(tmp_path, keys)
    fill(tmp_path, {f"{CONFIG}/configuration.json": b'{"model": "of a user"}'})
    assert listed(tmp_path, str(tmp_path)) == (sorted(keys), {".json": 1})


def test_new_images_beside_results_are_images(tmp_path: Path) -> None:
    count = results_at(tmp_path)
    fill(tmp_path, [f"{CONFIG}/inbox/a.jpg", f"{CONFIG}/b.jpg"])
    assert listed(tmp_path) == ([f"{CONFIG}/b.jpg", f"{CONFIG}/inbox/a.jpg"], {RESULTS: count})


def test_members_of_archives_are_results(tmp_path: Path) -> None:
    fill(tmp_path, {f"p/staging/{CONFIG}/files/a.jpg": b"x", f"p/staging/{CONFIG}/index.json": b"{}"})
    fill(tmp_path, [f"out/staging/{CONFIG}/files/a.jpg"])  # interrupted before its index
    assert listed(tmp_path, f"{tmp_path}/x/../out") == ([], {RESULTS: 2, ".json": 1})


# Sources without images


def test_a_source_without_images_says_what_is_there(tmp_path: Path) -> None:
    fill(tmp_path, ["a.svg", "b.svg", "c.txt"])
    with fails("no_images", where=str(tmp_path)) as caught:
        list(list_sources(str(tmp_path), open_folder("/nowhere")))
    assert "2 .svg, 1 .txt" in caught.value.message
    assert listed(tmp_path) == ([], {".svg": 2, ".txt": 1})


def test_empty_prefixes_and_objects_of_a_store(s3_env: dict[str, str], bucket: str) -> None:
    fill(f"s3://{bucket}", ["a/b/c.tar.zst", "a/b/d.jpg"])
    for uri in (f"s3://{bucket}/a/b/x/y", f"s3://{bucket}/a/b/x/y/"):
        for call in (lambda uri: list(list_sources(uri, open_folder("/nowhere"))), check_source):
            with fails("nothing_under_source", where=uri) as caught:
                call(uri)
            assert f"s3://{bucket}/a/b/." in caught.value.message
        check_source(uri, allow_empty=True)
        assert listed(uri) == ([], {})
    with fails("source_kind_unknown", where=f"s3://{bucket}/a/b/c.tar.zst"):
        check_source(f"s3://{bucket}/a/b/c.tar.zst")
    assert listed(f"s3://{bucket}/a/b") == (["d.jpg"], {".zst": 1})


def test_archives_without_images(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "none.zip", "w"):
        pass
    with zipfile.ZipFile(tmp_path / "inner.zip", "w") as archive:
        archive.writestr("b.zip", b"x")
    cases: list[tuple[str, dict[str, int]]] = [("none.zip", {}), ("inner.zip", {".zip": 1})]
    for name, kinds in cases:
        ignored, staging = Ignored(), open_folder(str(tmp_path / "staging"))
        uri = str(tmp_path / name)
        assert list(list_sources(uri, staging, ignored=ignored, allow_empty=True)) == []
        assert ignored.counts() == kinds
        with fails("no_images", where=uri):
            list(list_sources(uri, staging))


@pytest.mark.parametrize("names", [("x/a.jpg", "x/a.jpg"), ("x/a.jpg", "x//a.jpg"), ("a.jpg", "./a.jpg")])
@pytest.mark.parametrize("kind", ["zip", "tar"])
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_members_of_one_place_are_refused(names: tuple[str, str], kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"twice.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name in names:
                archive.writestr(name, b"x")
    else:
        with tarfile.open(path, "w") as pack:
            for name in names:
                info = tarfile.TarInfo(name)
                info.size = 1
                pack.addfile(info, io.BytesIO(b"x"))
    with fails("archive_member_twice") as caught:
        list(list_sources(str(path), open_folder(str(tmp_path / "staging"))))
    assert repr(names[0]) in caught.value.message
