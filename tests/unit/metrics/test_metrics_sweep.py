"""All thresholds from one histogram: against scikit-learn, torchmetrics, and by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from scipy.integrate import simpson
from sklearn.metrics import average_precision_score, f1_score, jaccard_score, roc_auc_score
from torchmetrics.classification import BinaryCalibrationError, BinaryJaccardIndex

from clipseg_kfp.metrics import PAPER_THRESHOLDS, THRESHOLDS, Confusion, Histogram
from clipseg_kfp.metrics.evaluation import Evaluation

MAPS = arrays(np.float32, (6, 7), elements=st.floats(0, 1, width=32))
TRUTHS = arrays(bool, (6, 7))


def counted(*pairs: tuple[NDArray[np.float32], NDArray[np.bool_]]) -> Histogram:
    found = Histogram()
    for values, truth in pairs:
        found.add(values, truth)
    return found


def drawn(
    seed: int, share: float = 0.3, size: tuple[int, int] = (60, 80)
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Probabilities that say something of the truth, and not all of it."""
    rng = np.random.default_rng(seed)
    truth = rng.random(size) < share
    values = rng.beta(2, 5, size) * 0.8 + truth * rng.random(size) * 0.2
    return values.astype(np.float32), truth


def test_the_thresholds_are_those_of_the_paper() -> None:
    assert np.allclose(THRESHOLDS, np.linspace(0, 1, 51)[1:-1])
    assert set(PAPER_THRESHOLDS) <= set(THRESHOLDS.tolist())


@settings(deadline=None, max_examples=50)
@given(MAPS, TRUTHS)
def test_every_threshold_counts_as_masks_are_cut(
    values: NDArray[np.float32], truth: NDArray[np.bool_]
) -> None:
    found = counted((values, truth))
    for index, (threshold, counts) in enumerate(zip(THRESHOLDS, found.curve, strict=True)):
        expected = Confusion()
        expected.add(values >= np.float32(threshold), truth)
        assert found.at(index, 1) == expected
        assert counts == found.at(index)


def test_probabilities_at_the_edges_of_bins() -> None:
    """One float32 below, on and above each threshold, and the ends of the range."""
    edges = THRESHOLDS.astype(np.float32)
    values = np.concatenate(
        [edges, np.nextafter(edges, np.float32(0)), np.nextafter(edges, np.float32(1)), [0, 1]]
    ).astype(np.float32)[None]
    found = counted((values, np.ones(values.shape, bool)))
    assert found.tp.tolist() == [int((values >= t).sum()) for t in edges]
    assert found.positives == values.size and found.foreground[-1] == 1 and found.foreground[0] == 1


def test_large_maps_are_counted_to_the_last_pixel() -> None:
    """Counted in blocks: more pixels than one takes, and no multiple of it."""
    values, truth = drawn(2, size=(431, 457))
    edges = (np.arange(1000) / 1000).astype(np.float32)
    bins = np.searchsorted(edges, values.ravel(), side="right") - 1
    found = counted((values, truth))
    assert (found.foreground == np.bincount(bins[truth.ravel()], minlength=1000)).all()
    assert (found.background == np.bincount(bins[~truth.ravel()], minlength=1000)).all()


@pytest.mark.parametrize("index", [0, 4, 24, 48])
def test_iou_against_torchmetrics(index: int) -> None:
    values, truth = drawn(1)
    # torchmetrics takes what is above the threshold, not what reaches it
    below = float(np.nextafter(np.float32(THRESHOLDS[index]), np.float32(0)))
    metric = BinaryJaccardIndex(threshold=below)
    expected = metric(torch.from_numpy(values), torch.from_numpy(truth).int())
    assert counted((values, truth)).at(index).iou == pytest.approx(float(expected), abs=1e-6)


@pytest.mark.parametrize("share", [0.001, 0.3, 0.99])
def test_average_precision_and_roc_against_scikit_learn(share: float) -> None:
    pairs = [drawn(seed, share) for seed in range(3)]
    found = counted(*pairs)
    truth = np.concatenate([pair[1].ravel() for pair in pairs])
    values = np.concatenate([pair[0].ravel() for pair in pairs])
    steps = np.searchsorted((np.arange(1000) / 1000).astype(np.float32), values, side="right")
    assert found.average_precision == pytest.approx(average_precision_score(truth, steps), abs=1e-12)
    assert found.average_precision == pytest.approx(average_precision_score(truth, values), abs=2e-3)
    assert found.roc_auc == pytest.approx(roc_auc_score(truth, steps), abs=1e-12)


def test_totals_against_scikit_learn() -> None:
    """Dice, IoU_FG, IoU_BIN and mIoU, of masks and of the sweep at the same threshold."""
    pairs = {"cat": drawn(0, 0.4), "dog": drawn(1, 0.1), "none": drawn(2, 0.0)}
    found = Evaluation()
    for name, (values, truth) in pairs.items():
        counts = Confusion()
        counts.add(values >= np.float32(0.3), truth)
        found.add(name, counts, None, counted((values, truth)))
    said = {name: (values >= np.float32(0.3)).ravel() for name, (values, _) in pairs.items()}
    true = {name: truth.ravel() for name, (_, truth) in pairs.items()}
    all_said, all_true = np.concatenate([*said.values()]), np.concatenate([*true.values()])
    whole = found.to_json()
    assert whole["dice"] == pytest.approx(f1_score(all_true, all_said))
    for figures in (whole, found.sweep()["at"]["0.3"]):  # type: ignore[index]
        assert figures["iou_fg"] == pytest.approx(jaccard_score(all_true, all_said))
        assert figures["iou_bin"] == pytest.approx(jaccard_score(all_true, all_said, average="macro"))
        single = [jaccard_score(true[name], said[name]) for name in ("cat", "dog")]
        assert figures["mean_iou"] == pytest.approx(np.mean(single))
    assert whole["per_prompt"]["cat"]["dice"] == pytest.approx(f1_score(true["cat"], said["cat"]))


@pytest.mark.parametrize("share", [0.1, 0.3, 0.9])
def test_the_paper_s_average_precision_against_its_definition(share: float) -> None:
    """Integrated by SciPy over points that are counted one by one, with the paper's + 1."""
    values, truth = drawn(3, share, (600, 800))
    points = set()
    for threshold in THRESHOLDS.astype(np.float32):
        said = values >= threshold
        tp = int((said & truth).sum())
        if said.any():
            points.add((tp / (1 + int(truth.sum())), tp / (1 + int(said.sum()))))
    recall, precision = zip(*sorted(points), strict=True)
    assert counted((values, truth)).average_precision_paper == pytest.approx(simpson(precision, x=recall))


def test_the_paper_s_average_precision_of_few_points() -> None:
    values = np.array([[0.9] * 6 + [0.5] * 4], np.float32)
    truth = np.array([[1] * 5 + [0] + [1] * 3 + [0]], bool)
    # 8 of 8 found by 10 pixels, 5 of 8 by 6: two points, and so a trapezoid
    assert counted((values, truth)).average_precision_paper == pytest.approx(
        (8 - 5) / 9 * (8 / 11 + 5 / 7) / 2
    )
    values[0, 5] = 0.3  # 8 of 8 by 10, 8 of 8 by 9, 5 of 8 by 5: a step without width
    assert counted((values, truth)).average_precision_paper == pytest.approx(
        (8 - 5) / 9 * (5 / 6 + 8 / 11) / 2
    )


def test_of_equally_good_thresholds_all_figures_take_the_middle_one() -> None:
    values = np.array([[0.9, 0.9, 0.3, 0.1]], np.float32)
    truth = np.array([[1, 1, 0, 0]], bool)
    found = Evaluation()
    found.add("cat", Confusion(), None, counted((values, truth)))
    best = found.sweep()["best"]  # type: ignore[index]
    assert found.thresholds["cat"] == 0.6, "perfect from 0.32 to 0.9"
    assert {best[f"{name}_threshold"] for name in ("mean_iou", "iou_fg", "iou_bin")} == {0.6}


def test_a_prompt_that_is_nowhere_does_not_count_as_a_bad_one() -> None:
    """A pixel of false alarm would make its IoU 0, and none would make it 1: neither says how things are found."""
    found, nothing = Evaluation(), np.zeros((60, 80), bool)
    values, truth = drawn(4)
    mask = truth.copy()
    mask[:20] = False
    for name, said, true in (("cat", mask, truth), ("none", nothing, nothing), ("none", ~nothing, nothing)):
        counts = Confusion()
        counts.add(said, true)
        found.add(name, counts, 0.0 if name == "none" and said.any() else None, counted((values, true)))
    whole = found.to_json()
    assert whole["boundary_iou"] is None
    assert whole["mean_iou"] == whole["per_prompt"]["cat"]["iou"] > 0
    assert whole["sweep"]["best"]["mean_iou"] == whole["per_prompt"]["cat"]["best_iou"]
    absent = whole["per_prompt"]["none"]
    assert absent["iou"] is absent["dice"] is absent["recall"] is absent["average_precision_paper"] is None
    assert absent["boundary_iou"] is None
    assert (absent["false_alarm_images"], absent["false_alarm_share"]) == (1, 0.5)
    assert whole["per_prompt"]["cat"]["false_alarm_share"] is None, "each of its images has it"
    assert list(found.thresholds) == ["cat"] and "iou_none" not in found.figures()


def test_calibration_against_torchmetrics() -> None:
    pairs = [drawn(seed) for seed in range(3)]
    found = counted(*pairs)
    values = torch.from_numpy(np.concatenate([pair[0].ravel() for pair in pairs]))
    truth = torch.from_numpy(np.concatenate([pair[1].ravel() for pair in pairs])).int()
    centers = (torch.floor(values.double() * 1000 + 1e-4) + 0.5) / 1000
    metric = BinaryCalibrationError(n_bins=20, norm="l1")
    assert found.calibration_error() == pytest.approx(float(metric(centers, truth)), abs=1e-6)
    metric.reset()
    assert found.calibration_error() == pytest.approx(float(metric(values, truth)), abs=1e-3)


def test_calibration_by_hand() -> None:
    values = np.array([[0.1] * 10 + [0.9] * 10], np.float32)
    truth = np.array([[1] + [0] * 9 + [1] * 5 + [0] * 5], bool)
    found = counted((values, truth))
    pixels, predicted, observed = found.reliability(10)
    assert pixels.tolist() == [0, 10, 0, 0, 0, 0, 0, 0, 0, 10]
    assert predicted[[1, 9]].tolist() == pytest.approx([0.1005, 0.9005])
    assert observed[[1, 9]].tolist() == [0.1, 0.5]
    assert np.isnan(observed[0])
    assert found.calibration_error(10) == pytest.approx((0.0005 + 0.4005) / 2)


def test_by_hand() -> None:
    values = np.array([[0.9, 0.8, 0.4, 0.2, 0.05]], np.float32)
    truth = np.array([[1, 0, 1, 0, 0]], bool)
    found = counted((values, truth))
    assert found.at(24) == Confusion(tp=1, fp=1, fn=1, tn=2)  # 0.5
    assert found.average_precision == pytest.approx((1 / 1 + 2 / 3) / 2)
    assert found.roc_auc == pytest.approx(5 / 6)  # of 6 pairs of foreground and background, 5 in order
    # 2/3 from just above 0.2 up to 0.4: of those thresholds the middle one
    assert THRESHOLDS[found.best or 0] == 0.3


def test_nothing_to_find_and_nothing_else() -> None:
    values = np.full((3, 4), 0.5, np.float32)
    nothing = counted((values, np.zeros((3, 4), bool)))
    assert nothing.average_precision is nothing.roc_auc is nothing.best is None
    assert nothing.at(48).iou == 1, "0.98: nothing said, nothing there"
    assert nothing.at(0).iou == 0
    assert nothing.calibration_error() == pytest.approx(0.5005)
    everything = counted((values, np.ones((3, 4), bool)))
    assert everything.average_precision == 1 and everything.roc_auc is None
    assert everything.at(0).iou == everything.at(24).iou == 1 and everything.at(25).iou == 0
    assert THRESHOLDS[everything.best or 0] == 0.26
    empty = Histogram()
    assert empty.average_precision is empty.calibration_error() is empty.best is None
    assert empty.at(0).iou == 1


def test_pixels_that_do_not_count() -> None:
    values, truth = drawn(5)
    valid = np.random.default_rng(0).random(truth.shape) < 0.7
    found = Histogram()
    found.add(values, truth, valid)
    expected = counted((values[valid][None], truth[valid][None]))
    assert (found.foreground == expected.foreground).all() and (found.background == expected.background).all()
    assert found.positives + found.negatives == valid.sum()
    none = Histogram()
    none.add(values, truth, np.zeros(truth.shape, bool))
    assert none.positives == none.negatives == 0


def test_strips_and_images_add_up() -> None:
    values, truth = drawn(6)
    strips = [(values[:, part], truth[:, part]) for part in (slice(0, 33), slice(33, None))]
    whole, parts = counted((values, truth)), counted(*strips)
    assert (whole.foreground == parts.foreground).all() and (whole.background == parts.background).all()
    parts += whole
    assert parts.positives == 2 * whole.positives


def test_sizes_must_agree() -> None:
    with pytest.raises(ValueError):
        Histogram().add(np.zeros((2, 3), np.float32), np.zeros((3, 2), bool))
