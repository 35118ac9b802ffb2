"""Average precision as the CLIPSeg paper's own code computes it, for numbers that compare with its tables."""

from __future__ import annotations

from collections.abc import Sequence

from clipseg_kfp.metrics.confusion import Confusion


def average_precision(curve: Sequence[Confusion]) -> float | None:
    """The integral of precision over recall, by Simpson's rule over the thresholds with any predicted pixel.

    As in ``metrics.py`` of https://github.com/timojl/clipseg: 1 is added to both denominators, equal points count
    once, and recalls beyond the first and the last point count for nothing.

    Args:
        curve: counts at each threshold.

    Returns:
        ``None`` without foreground, or where nothing is predicted at any threshold.
    """
    if not any(c.tp + c.fn for c in curve):
        return None
    points = sorted({(c.tp / (1 + c.tp + c.fn), c.tp / (1 + c.tp + c.fp)) for c in curve if c.tp + c.fp})
    return _simpson(points) if points else None


def _simpson(points: Sequence[tuple[float, float]]) -> float:
    """Composite Simpson's rule for uneven steps, with Cartwright's correction for a step that is left over.

    This is what SciPy's ``simpson`` does, except where a step has no width: there is no parabola then, and its
    trapezoids are taken. Source: Cartwright, "Simpson's rule cumulative integration with MS
    Excel and irregularly-spaced data", J. Math. Sci. Math. Educ. 12(2), 2017.
    """
    x, y = [p[0] for p in points], [p[1] for p in points]
    count, total = len(points), 0.0
    if count == 2:
        return (x[1] - x[0]) * (y[0] + y[1]) / 2
    for i in range(0, count - 2, 2):
        first, second = x[i + 1] - x[i], x[i + 2] - x[i + 1]
        both = first + second
        if first and second:
            total += both / 6 * (2 - second / first) * y[i]
            total += both**3 / (6 * first * second) * y[i + 1]
            total += both / 6 * (2 - first / second) * y[i + 2]
        else:  # a step of no width: nothing to fit a parabola to
            total += first * (y[i] + y[i + 1]) / 2 + second * (y[i + 1] + y[i + 2]) / 2
    if count % 2 == 0:
        before, last = x[-2] - x[-3], x[-1] - x[-2]
        if before and last:
            total += y[-1] * (2 * last**2 + 3 * before * last) / (6 * (before + last))
            total += y[-2] * (last**2 + 3 * before * last) / (6 * before)
            total -= y[-3] * last**3 / (6 * before * (before + last))
        else:
            total += last * (y[-2] + y[-1]) / 2
    return total
