from __future__ import annotations

import re

from hypothesis import example, given
from hypothesis import strategies as st

from clipseg_kfp.naming import (
    MAX_KEY,
    MAX_SEGMENT,
    digest,
    distinct_segments,
    image_folder,
    safe_key,
    safe_segment,
    spell_out,
)

SAFE = re.compile(r"[A-Za-z0-9._~-]+")

# Few letters, so that collisions have a chance; the characters with a meaning; and anything at all.
CRAFTED = st.text(alphabet="aA.~/2E% ü\x00", max_size=12)
ANY = st.text(alphabet=st.characters(), max_size=60)
LONG = st.builds(
    lambda head, middle, count, tail: head + middle * count + tail,
    CRAFTED,
    st.sampled_from(["a", "a/", "ü", "~", "/", "..", "a/b~/", "x" * 130 + "/"]),
    st.integers(50, 700),
    CRAFTED,
)
KEYS = st.one_of(CRAFTED, ANY, LONG)


def assert_safe_segment(segment: str) -> None:
    assert SAFE.fullmatch(segment)
    assert not segment.startswith(".")
    assert len(segment) <= MAX_SEGMENT


@given(KEYS)
@example("")
@example("..")
@example("." * 121)
@example("\ud800")
def test_a_segment_is_safe(text: str) -> None:
    assert_safe_segment(safe_segment(text))


@given(KEYS)
@example("../../etc/passwd")
@example("//")
@example("a/" * 400)
@example("a" * 1100 + "/")
def test_a_key_is_safe(key: str) -> None:
    safe = safe_key(key)
    assert len(safe) <= MAX_KEY
    for segment in safe.split("/"):
        assert_safe_segment(segment)
    assert len(image_folder(key, "etag")) <= 1024 - 3 * MAX_SEGMENT  # room for the folders above, and a name


@given(KEYS, KEYS)
@example("a b", "a~20b")
@example("a", "a/")
@example("", "/")
@example("~", "")
@example("a" * 300, "a" * 301)
@example("a" * 200 + "~", "a" * 200)
@example("k/" * 500 + "a", "k/" * 500 + "b")
@example("a/" + "k/" * 500, "b/" + "k/" * 500)
@example("k/" * 499, "k/" * 500)
@example(safe_key("k/" * 500), "k/" * 500)
@example(safe_segment("a" * 300), "a" * 300)
def test_distinct_keys_have_distinct_names(one: str, other: str) -> None:
    if one != other:
        assert safe_segment(one) != safe_segment(other)
        assert safe_key(one) != safe_key(other)


@given(KEYS)
def test_an_encoded_name_is_encoded_again(key: str) -> None:
    """A result used as a source key never takes the place of the key that it came from."""
    if safe_key(key) != key:
        assert safe_key(safe_key(key)) != safe_key(key)


@given(KEYS, KEYS, st.sampled_from(["1", "2"]), st.sampled_from(["1", "2"]))
@example("A.jpg", "a.jpg", "1", "1")
@example("a.jpg", "a.jpg", "1", "2")
@example("K" * 900, "k" * 900, "1", "1")
def test_image_folders_differ_even_where_case_does_not_count(
    one: str, other: str, version: str, other_version: str
) -> None:
    if (one, version) != (other, other_version):
        assert image_folder(one, version).lower() != image_folder(other, other_version).lower()


@given(st.text(alphabet="abcXYZ0189._-", min_size=1, max_size=MAX_SEGMENT).filter(lambda t: t[0] != "."))
def test_plain_names_stay_as_they_are(name: str) -> None:
    assert safe_segment(name) == name
    assert safe_key(f"folder/{name}") == f"folder/{name}"


def test_names_are_stable() -> None:
    """Committed results carry these names: a change would recompute every image."""
    assert safe_key("a b/ü/..") == "a~20b/~C3~BC/~2E."
    assert safe_key("a//b") == "a/~/b"
    assert image_folder("x/1.jpg", "v") == f"x/1.jpg/{digest(['x/1.jpg', 'v'], 12)}"
    assert digest({"b": 1, "a": [True, None]}) == digest({"a": [True, None], "b": 1})
    assert digest("text") == digest(b"text") == "982d9e3eb996f559"


@given(
    st.lists(
        st.one_of(st.sampled_from(["Cat", "cat", "CAT", "a/b", "A/B", "a~2Fb", "labels"]), ANY, LONG),
        unique=True,
    )
)
def test_names_of_one_folder_differ_even_where_case_does_not_count(texts: list[str]) -> None:
    names = distinct_segments(texts)
    assert len({name.lower() for name in names}) == len(texts)
    for text, name in zip(texts, names, strict=True):
        assert_safe_segment(name)
        assert name == safe_segment(text) or "~~" in name


def test_names_that_clash_with_none_stay_as_they_are() -> None:
    assert distinct_segments(["labels", "a cat"]) == ["labels", "a~20cat"]
    one, other = distinct_segments(["cat", "Cat"])
    assert (one, other) == (f"cat~~{digest('cat')}", f"Cat~~{digest('Cat')}")
    assert distinct_segments(["Cat", "cat"]) == [other, one]


def test_what_is_no_unicode_is_spelled_out() -> None:
    assert spell_out("ü \udcff") == "ü \\udcff"
