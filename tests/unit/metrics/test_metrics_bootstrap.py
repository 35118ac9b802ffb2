"""Intervals over images: against SciPy's bootstrap, and what they must not depend on."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import bootstrap

from clipseg_kfp.metrics import Bootstrap, Confusion, Histogram, interval
from clipseg_kfp.metrics.evaluation import Evaluation


def counts_of(images: int, seed: int = 0) -> np.ndarray:
    """tp, fp and fn of images of very different sizes."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(100, 5000, images)
    return np.stack(
        [sizes * rng.uniform(0.3, 0.9, images), sizes * 0.2, sizes * rng.uniform(0, 0.4, images)], 1
    ).astype(int)


def evaluated(counts: np.ndarray, names: list[str] | None = None) -> Evaluation:
    draws, found = Bootstrap(), Evaluation()
    for i, (tp, fp, fn) in enumerate(counts.tolist()):
        draws.add("cup", names[i] if names else f"image {i}", (tp, fp, fn, tp, fp, fn))
        found.add("cup", Confusion(tp, fp, fn, 0, 1), None, Histogram())
    found.measure_spread(draws)
    return found


def test_against_scipy() -> None:
    counts = counts_of(300)

    def iou(tp: np.ndarray, fp: np.ndarray, fn: np.ndarray, axis: int) -> np.ndarray:
        return np.asarray(tp.sum(axis) / (tp + fp + fn).sum(axis))

    theirs = bootstrap(
        tuple(counts.T), iou, paired=True, vectorized=True, n_resamples=4000, method="percentile",
        rng=np.random.default_rng(1),
    ).confidence_interval  # fmt: skip
    ours = evaluated(counts).intervals["cup"][0]
    assert ours is not None
    width = theirs.high - theirs.low
    assert ours == pytest.approx((theirs.low, theirs.high), abs=0.12 * width)
    assert ours[0] < evaluated(counts).prompts["cup"].iou < ours[1]


def test_intervals_cover_the_true_value_as_often_as_they_say() -> None:
    """Of many samples of 30 images, about 95 % have an interval with the IoU of the whole population in it."""
    rng = np.random.default_rng(7)
    population = np.stack(
        [rng.integers(100, 5000, 50_000) * rng.beta(a, b, 50_000) for a, b in ((4, 2), (1, 6), (2, 6))], 1
    )
    true = population[:, 0].sum() / population.sum()
    samples, hits = 150, 0
    for sample in range(samples):
        draws = Bootstrap(replicates=300)
        for i in rng.integers(0, len(population), 30):
            draws.add("cup", f"{sample} {i}", population[i].astype(int).tolist())
        sums = draws.sums("cup")
        low, high = interval(sums[:, 0] / sums.sum(1)) or (1, 0)
        hits += low <= true <= high
    assert 0.88 < hits / samples < 0.99


def test_an_interval_gets_narrower_with_more_images() -> None:
    widths = []
    for images in (20, 200, 2000):
        low, high = evaluated(counts_of(images)).intervals["cup"][0] or (0, 0)
        widths.append(high - low)
    assert widths[0] > 2 * widths[1] > 4 * widths[2] > 0


def test_runs_repeat_and_the_order_of_images_does_not_matter() -> None:
    counts = counts_of(50)
    names = [f"image {i}" for i in range(50)]
    order = np.random.default_rng(0).permutation(50)
    first, again = evaluated(counts, names), evaluated(counts, names)
    shuffled = evaluated(counts[order], [names[i] for i in order])
    assert first.intervals == again.intervals == shuffled.intervals
    assert first.mean_interval == first.intervals["cup"][0], "of one prompt they are the same"


def test_an_image_counts_alike_for_all_prompts() -> None:
    draws = Bootstrap(replicates=100)
    for image in ("a", "b", "c"):
        for prompt in ("cup", "cap"):
            draws.add(prompt, image, (5, 1))
    np.testing.assert_array_equal(draws.sums("cup"), draws.sums("cap"))


def test_one_image_has_no_interval_and_no_image_none() -> None:
    assert evaluated(counts_of(1)).intervals == {}
    assert evaluated(counts_of(1)).mean_interval is None
    assert evaluated(counts_of(0)).mean_interval is None
    assert interval(np.full(3, np.nan)) is None


def test_replicates_without_an_image_are_left_out() -> None:
    draws = Bootstrap()
    draws.add("cup", "a", (3,))
    drawn = draws.sums("cup")[:, 0]
    assert np.isnan(drawn).mean() == pytest.approx(np.exp(-1), abs=0.05)
    assert np.nanmean(drawn) == pytest.approx(3 / (1 - np.exp(-1)), rel=0.05)


def test_a_rare_prompt_is_measured_where_it_is() -> None:
    """3 of 40 images have it: a replicate without any of them says nothing of how well it is found."""
    few = [(900, 80, 90), (800, 150, 100), (1000, 60, 120)]
    found = evaluated(np.array([*few, *[(0, 0, 0)] * 37]))
    low, high = found.intervals["cup"][0] or (0, 0)
    ious = [tp / (tp + fp + fn) for tp, fp, fn in few]
    assert low == pytest.approx(min(ious)) and high == pytest.approx(max(ious))
    assert found.mean_interval == (low, high)
    one = evaluated(np.array([few[0], *[(0, 0, 0)] * 39]))
    assert one.intervals == {} and one.mean_interval is None, "one image with it has no spread"
