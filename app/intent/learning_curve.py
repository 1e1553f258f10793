"""Fit how macro-F1 grows with labels, and say what further ones would bring, as an inverse power law.

f(n) = a - b * n**-c, with 0 <= a <= 1, b >= 0 and 0 < c <= 2: an error that falls with a power of the labels to what no
label takes away (Cortes et al. 1994; for text classification, weighted: Figueroa et al. 2012). In this module `labels`
and `values` have shape (k,): how many labels each version was trained on, and its macro-F1, in [0, 1].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from app.intent.arrays import FloatArray
from app.intent.proportions import wilson

LEAST_SIZES: Final = 4
"""Different numbers of labels below which nothing is said: a curve has three parameters."""

REDRAWS: Final = 200
FARTHEST: Final = 1_000_000
"""Labels beyond which a curve that still rises counts as one that never arrives."""

# Half of it would be a curve like a logarithm; above 2 all of it is learned with the first few labels.
_POWERS: Final = np.geomspace(0.05, 2.0, 60)
# The same gold judges all versions: that much of the variance of their figures is common to them.
_SHARED: Final = 0.5
# No curve keeps to the law. By so much (standard deviation of the logarithm) the rise that is still to come may differ
# from what the law says: with it, forecasts for twice the labels were covered as often as promised on real curves.
_MISFIT: Final = 0.4
_Z95: Final = 1.959963984540054
_INTERVAL: Final = (2.5, 97.5)


@dataclass(frozen=True, slots=True)
class Point:
    """One version: its labels, its macro-F1 on `count` gold texts, and the 95 % interval of that where it is known."""

    labels: int
    value: float
    count: int
    low: float | None = None
    high: float | None = None

    @property
    def deviation(self) -> float:
        """One standard deviation of the value; never less than a share over as many texts has."""
        low, high = wilson(round(self.value * self.count), self.count)
        width = high - low
        if self.low is not None and self.high is not None:
            width = max(width, self.high - self.low)
        return width / (2 * _Z95)


@dataclass(frozen=True, slots=True)
class Estimate:
    """What the curve says, and in what interval that lies with 95 %."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class LabelsNeeded:
    """Labels beyond those of now; None stands for never by this curve. `reached`: the curve is there already."""

    more: int | None
    low: int | None
    high: int | None

    @property
    def reached(self) -> bool:
        """Whether no further label is needed."""
        return self.more == 0


@dataclass(frozen=True, slots=True)
class LearningCurve:
    """The fitted law and what it says beyond `labels`, those of now.

    `parameters`: shape (3,), a, b, c; `redrawn`: shape (REDRAWS, 3), laws that might be true beyond `labels`.
    """

    labels: int
    parameters: FloatArray
    redrawn: FloatArray

    @property
    def asymptote(self) -> Estimate:
        """What it comes to with labels without end."""
        return self._estimate(self.parameters[:1], np.clip(self.redrawn[:, 0], 0.0, 1.0))

    def at(self, labels: float) -> Estimate:
        """Macro-F1 with so many labels; the interval is meant for as many as now, or more."""
        return self._estimate(_law(self.parameters[None], labels), _law(self.redrawn, labels))

    def gain(self, further: int = 100) -> Estimate:
        """What so many further labels add to macro-F1."""
        now, then = float(self.labels), float(self.labels + further)
        point, drawn = self.parameters[None], self.redrawn
        return self._estimate(_law(point, then) - _law(point, now), _law(drawn, then) - _law(drawn, now))

    def needed(self, target: float) -> LabelsNeeded:
        """Further labels until macro-F1 reaches `target`."""
        [point] = _labels_to(self.parameters[None], target, self.labels)
        drawn = _labels_to(self.redrawn, target, self.labels)
        # By rank: between a number and never there is nothing to interpolate.
        low, high = np.percentile(drawn, _INTERVAL, method="closest_observation")
        return LabelsNeeded(_whole(point), _whole(min(low, point)), _whole(max(high, point)))

    @staticmethod
    def _estimate(point: FloatArray, drawn: FloatArray) -> Estimate:
        value = float(point[0])
        low, high = np.percentile(drawn, _INTERVAL)
        return Estimate(value, min(float(low), value), max(float(high), value))


def fit_learning_curve(points: Sequence[Point], *, seed: int = 0, redraws: int = REDRAWS) -> LearningCurve | None:
    """The law nearest to the points by weighted least squares; None below LEAST_SIZES different numbers of labels.

    The weight of a point is one over its variance, times its share of the labels of now: the law holds the better the
    more labels there are (so Figueroa et al. weigh). Intervals are a parametric bootstrap: every point is drawn anew
    around its value, the law is fitted again, and its further rise is stretched as real curves differ from the law.
    Where the points scatter more about the law than their own intervals let them, they are drawn from wider ones.
    """
    used = [point for point in points if point.labels > 0 and point.count > 0]
    if len({point.labels for point in used}) < LEAST_SIZES:
        return None
    labels = np.array([point.labels for point in used], dtype=np.float64)
    values = np.array([point.value for point in used])
    deviations = np.array([point.deviation for point in used])
    weights = labels / labels.max() / deviations**2
    [parameters] = _fit(labels, values[None], weights)
    away = (values - _law(parameters[None], labels[:, None])[:, 0]) / deviations
    deviations = deviations * max(1.0, float(away @ away) / max(len(used) - 3, 1)) ** 0.5
    rng = np.random.default_rng(seed)
    common, own = rng.standard_normal((redraws, 1)), rng.standard_normal((redraws, len(used)))
    noise = deviations * (_SHARED**0.5 * common + (1.0 - _SHARED) ** 0.5 * own)
    redrawn = _fit(labels, np.clip(values + noise, 0.0, 1.0), weights)
    stretch = np.exp(_MISFIT * rng.standard_normal(redraws))
    return LearningCurve(int(labels.max()), parameters, _stretched(redrawn, labels.max(), stretch))


def _stretched(parameters: FloatArray, labels: float, stretch: FloatArray) -> FloatArray:
    """The laws that rise `stretch` times as much from `labels` on, shape (rows, 3)."""
    now = _law(parameters, labels)
    a, b, c = parameters.T
    return np.stack([now + stretch * (a - now), stretch * b, c], axis=1)


def _fit(labels: FloatArray, values: FloatArray, weights: FloatArray) -> FloatArray:
    """The best a, b, c for each row of `values`, shape (rows, k); shape (rows, 3).

    With c given, the law is a line in n**-c: a and b are known in closed form, and where a bound is passed the best on
    it. So c is looked for on a grid, for all rows at once.
    """
    first, share = labels.min(), weights / weights.sum()
    mean, square = values @ share, values**2 @ share
    best = np.full(len(values), np.inf)
    found = np.zeros((len(values), 3))
    for power in _POWERS:
        falling = (labels / first) ** -power
        middle, second = float(share @ falling), float(share @ falling**2)
        product = values @ (share * falling)
        slope = np.maximum((middle * mean - product) / (second - middle**2), 0.0)
        top = mean + slope * middle
        over = top > 1.0
        slope, top = np.where(over, (middle - product) / second, slope), np.where(over, 1.0, np.maximum(top, 0.0))
        cost = square - 2.0 * top * mean + 2.0 * slope * product
        cost += top**2 - 2.0 * top * slope * middle + slope**2 * second
        better = cost < best
        best = np.where(better, cost, best)
        law = np.stack([top, slope * first**power, np.full(len(values), power)], axis=1)
        found[better] = law[better]
    return found


def _law(parameters: FloatArray, labels: float | FloatArray) -> FloatArray:
    a, b, c = parameters.T
    values: FloatArray = np.clip(a - b * np.asarray(labels) ** -c, 0.0, 1.0)
    return values


def _labels_to(parameters: FloatArray, target: float, labels: int) -> FloatArray:
    """Further labels until each law reaches the target, shape (rows,); infinite where it does not."""
    a, b, c = parameters.T
    room = a - target
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        needed = np.where(room > 0.0, (b / room) ** (1.0 / c), np.inf) - labels
    needed = np.where(_law(parameters, float(labels)) >= target, 0.0, np.maximum(needed, 1.0))
    return np.where(needed > FARTHEST, np.inf, needed)


def _whole(labels: float) -> int | None:
    return int(np.ceil(labels)) if np.isfinite(labels) else None
