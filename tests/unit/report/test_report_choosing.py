"""Which images a report shows."""

from __future__ import annotations

from functools import partial
from typing import Any

from clipseg_kfp.report.selection import (
    BEST,
    RANDOM,
    UNCERTAIN,
    WORST,
    HeatChoice,
    Shortlist,
    choice_of,
    choose,
    first_heat,
    lot,
)

NAMES = [(f"{i:03}.jpg", "v") for i in range(200)]


def test_with_ground_truth_a_quarter_is_of_each_kind() -> None:
    ious = {name: i / 200 for i, name in enumerate(NAMES)}
    margins = {name: abs(i - 100) / 200 for i, name in enumerate(NAMES)}
    chosen = choose(margins, ious)
    kinds: dict[str, list[tuple[str, str]]] = {}
    for name, kind in chosen.items():
        kinds.setdefault(kind, []).append(name)
    assert {kind: len(names) for kind, names in kinds.items()} == dict.fromkeys(
        (WORST, UNCERTAIN, BEST, RANDOM), 6
    )
    assert list(chosen.values()) == [WORST, UNCERTAIN, BEST, RANDOM] * 6
    assert kinds[WORST] == NAMES[:6]
    assert kinds[BEST] == NAMES[:-7:-1]
    assert set(kinds[UNCERTAIN]) <= set(NAMES[94:107])
    assert kinds[RANDOM] == sorted(kinds[RANDOM], key=lot)


def test_without_ground_truth_half_are_uncertain() -> None:
    chosen = choose({name: i / 200 for i, name in enumerate(NAMES)}, {})
    assert list(chosen.values()) == [UNCERTAIN, RANDOM] * 12
    assert list(chosen)[::2] == NAMES[:12]


def test_of_few_images_each_is_there_once() -> None:
    for count in range(5):
        margins = dict.fromkeys(NAMES[:count], 0.1)
        assert set(choose(margins, dict.fromkeys(NAMES[:count], 0.5))) == set(NAMES[:count])
    assert choose({NAMES[0]: 0.2}, {NAMES[0]: 0.9}) == {NAMES[0]: BEST}


def test_a_choice_is_made_of_what_there_are_pictures_of() -> None:
    rows = [
        {"key": key, "version": version, "threshold": 0.5, "max_probability": maximum}
        for key, version in NAMES[:4]
        for maximum in (0.9, 0.1)
    ]
    rows[5]["max_probability"] = 0.49  # of the third image
    pictures = [{"key": key, "version": version} for key, version in NAMES[1:4]]
    chosen = choice_of(pictures, rows, [{"key": NAMES[0][0], "version": "v", "iou": 0.1}])
    assert list(chosen) == [NAMES[2], *sorted((NAMES[1], NAMES[3]), key=lot)]
    assert chosen[NAMES[2]] == UNCERTAIN


def test_a_shortlist_stays_short_and_keeps_the_unclear_and_those_with_truth() -> None:
    shortlist = Shortlist(8)
    for i, (key, version) in enumerate(NAMES):
        made = partial(dict, key=key, version=version)
        shortlist.add((key, version), made, (i * 37 % 200) / 200, truth=i in (50, 150))
        assert len(shortlist.rows()) <= 8
    kept = [row["key"] for row in shortlist.rows()]
    assert len(kept) == 8
    assert kept == sorted(kept)
    assert {"050.jpg", "150.jpg"} <= set(kept)
    unclear = sorted(range(200), key=lambda i: i * 37 % 200)[:4]
    assert {f"{i:03}.jpg" for i in unclear} <= set(kept)


def test_heat_maps_are_those_of_the_clearest_the_unclearest_and_the_measured_prompts() -> None:
    made: list[str] = []

    def chosen(maxima: dict[str, float], truths: tuple[str, ...]) -> list[tuple[str, Any]]:
        choice = HeatChoice(truths)
        for name, maximum in maxima.items():
            row = {"prompt": name, "threshold": 0.5, "max_probability": maximum}
            choice.add(row, lambda name=name: made.append(name) or name.upper())  # type: ignore[misc]
        return choice.chosen()

    maxima = {"a": 0.7, "b": 0.9, "c": 0.55, "d": 0.1, "e": 0.2, "f": 0.3}
    assert chosen(maxima, ()) == [("b", "B"), ("c", "C")]
    assert made == ["a", "b", "c"], "what cannot be wanted any more is not made"
    assert [name for name, _ in chosen(maxima, ("d", "e", "f"))] == ["b", "c", "f", "e"]
    assert [name for name, _ in chosen({"a": 0.7}, ("a",))] == ["a"]


def test_a_measured_prompt_that_moves_up_again_was_kept() -> None:
    """One prompt that is the clearest and the unclearest at once takes one place where two took two."""
    choice = HeatChoice(("m1", "m2", "m3"))
    for name, maximum, threshold in [("m1", 0.2, 0.5), ("m2", 0.15, 0.5), ("m3", 0.1, 0.5), ("a", 0.9, 0.5),
                                     ("b", 0.45, 0.5), ("x", 0.95, 0.95)]:  # fmt: skip
        choice.add({"prompt": name, "threshold": threshold, "max_probability": maximum}, name.upper)
    assert choice.chosen() == [(name, name.upper()) for name in ("x", "m1", "m2", "m3")]


def test_a_card_shows_the_prompt_that_it_was_chosen_for() -> None:
    tiles = {"a": (0.4, 0.9, 0.2), "b": (0.1, 0.3, 0.0), "c": (0.2, 1.0, 0.0), "d": (0.3, None, 0.4)}
    heats = ["d", "a", "b", "c"]
    assert first_heat(WORST, tiles, heats) == "b" == first_heat(UNCERTAIN, tiles, heats)
    alarms = {"a": (0.4, 0.0, 0.1), "b": (0.2, 0.0, 0.3)}
    assert first_heat(WORST, alarms, ["a", "b"]) == "b", "of equally wrong ones the larger"
    assert first_heat(BEST, tiles, heats) == "a", "nothing found where nothing is, is no picture of success"
    assert first_heat(RANDOM, tiles, heats) == first_heat(WORST, tiles, ["d"]) == "d"
