from __future__ import annotations

import re
import unicodedata

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

# With any ending, even on a file in a folder.
WINDOWS_DEVICE = re.compile(
    r"(CON|PRN|AUX|NUL|COM[0-9\u00b9\u00b2\u00b3]|LPT[0-9\u00b9\u00b2\u00b3])(\.|$)", re.I
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
DEVICES = st.builds(
    lambda name, tail: name + tail,
    st.sampled_from(["con", "CON", "nul", "aux", "COM1", "lpt9", "COM\u00b9", "prn"]),
    st.sampled_from(["", ".", ".png", ".tar.gz", " ", "/x.png", "x"]),
)
# One name in both normal forms, and names that a file system may take for one another.
FORMS = st.sampled_from(
    ["caf\u00e9", "cafe\u0301", "CAF\u00c9", "caf\u00e9.", "caf\u00e9 ", "\u212b", "\u00c5", "A\u030a"]
)
KEYS = st.one_of(CRAFTED, ANY, LONG, DEVICES, FORMS)


def assert_safe_segment(segment: str) -> None:
    assert SAFE.fullmatch(segment)
    assert not segment.startswith(".")
    assert not segment.endswith(".")  # Windows drops it
    assert not WINDOWS_DEVICE.match(segment)
    assert unicodedata.normalize("NFC", segment) == unicodedata.normalize("NFD", segment) == segment
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


def as_file_systems_see(name: str) -> str:
    """What is left of a name where neither case, normal forms nor trailing dots and spaces count."""
    normal = unicodedata.normalize("NFC", name).casefold()
    return "/".join(segment.rstrip(". ") for segment in normal.split("/"))


@given(st.lists(KEYS, unique=True, max_size=12), st.lists(KEYS, unique=True, min_size=1, max_size=6))
@example(
    ["caf\u00e9.jpg", "cafe\u0301.jpg", "CAF\u00c9.jpg"], ["con", "CON", "con.", "caf\u00e9", "cafe\u0301"]
)
@example(["a", "a.", "a ", "A", "a/", "./a", "../a", "/a"], ["x", "x.", "X"])
@example(["k" * 1024, "K" * 1024, "k" * 1023 + "."], ["p" * 500, "P" * 500])
def test_no_two_objects_of_the_results_share_a_name_on_any_file_system(
    keys: list[str], prompts: list[str]
) -> None:
    names = [
        name
        for place in (image_folder(key, "etag") for key in keys)
        for name in (
            f"labels/{place}.png",
            f"overlays/{place}.jpg",
            *(f"masks/{place}/{prompt}.png" for prompt in distinct_segments(prompts)),
            *(f"probabilities/16-bit/{place}/{prompt}.png" for prompt in distinct_segments(prompts)),
        )
    ]
    assert len({as_file_systems_see(name) for name in names}) == len(names)
    for name in names:
        assert name.isascii() and len(name) <= 1024 - 256  # room for the output's prefix and configuration
        for segment in name.split("/"):
            assert (
                segment not in ("", ".", "..") and len(segment) <= 255 and not WINDOWS_DEVICE.match(segment)
            )


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


@given(
    st.text(alphabet="abcXYZ0189._-", min_size=1, max_size=MAX_SEGMENT).filter(
        lambda t: t[0] != "." != t[-1] and not WINDOWS_DEVICE.match(t)
    )
)
def test_plain_names_stay_as_they_are(name: str) -> None:
    assert safe_segment(name) == name
    assert safe_key(f"folder/{name}") == f"folder/{name}"


def test_names_are_stable() -> None:
    """Committed results carry these names: a change would recompute every image."""
    assert safe_key("a b/ü/..") == "a~20b/~C3~BC/~2E~2E"
    assert safe_key("con/Aux.png/com10/x.") == "~63on/~41ux.png/com10/x~2E"
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


SPELLED = st.text(st.sampled_from(["\udcff", "\ud800", "\\", "u", "d", "c", "f", "8", "0", "é"]))


@given(SPELLED, SPELLED)
@example("a\udcff.png", "a\\udcff.png")
@example("\\\udcff", "\\\\udcff")
@example("\\udcff", "\\\\udcff")
@example("\\", "\\\\")
def test_what_is_spelled_out_stays_apart(one: str, other: str) -> None:
    spelled = spell_out(one)
    spelled.encode()  # no surrogate is left
    if one != other:
        assert spelled != spell_out(other)


def test_what_has_no_surrogate_stays_as_it_is() -> None:
    for text in ("a b.png", "c:\\users\\x.png", "é"):
        assert spell_out(text) == text
