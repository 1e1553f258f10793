"""Say what a replay of strategies found: mean curves with intervals, and the labels that each needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from app.intent.arrays import FloatArray
from app.simulation.strategy_replay import Steps

SHARES: Final = (0.90, 0.95, 0.98)
"""Of the accuracy with all labels, which a strategy is to reach with few."""

RANDOM: Final = "random"


@dataclass(frozen=True, slots=True)
class MeanCurve:
    """A strategy's accuracy at each step, over the seeds.

    Args:
        labels: how many were given, ascending.
        mean, low, high: shape (n_steps,): the mean and its 95 % interval by Student's t; one seed has none.
    """

    labels: tuple[int, ...]
    mean: FloatArray
    low: FloatArray
    high: FloatArray


def labels_to(steps: Steps, accuracy: float) -> float | None:
    """How many labels it took to reach `accuracy` first, linear between two steps; None if it never did."""
    before_labels, before = 0, 0.0
    for number, (labels, reached) in enumerate(zip(steps.labels, steps.accuracies, strict=True)):
        if reached >= accuracy:
            if number == 0:  # nothing is known of what fewer would have given
                return float(labels)
            return before_labels + (accuracy - before) / (reached - before) * (labels - before_labels)
        before_labels, before = labels, reached
    return None


def mean_curve(runs: Sequence[Steps]) -> MeanCurve:
    """The mean over seeds of runs of the same steps."""
    from scipy.stats import t as student

    accuracies = np.array([run.accuracies for run in runs], dtype=np.float64)
    mean = accuracies.mean(axis=0)
    reach = np.zeros_like(mean)
    if len(runs) > 1:
        reach = student.ppf(0.975, len(runs) - 1) * accuracies.std(axis=0, ddof=1) / np.sqrt(len(runs))
    return MeanCurve(runs[0].labels, mean, np.maximum(0.0, mean - reach), np.minimum(1.0, mean + reach))


def median_labels(runs: Sequence[Steps], accuracy: float) -> float | None:
    """The median over seeds of `labels_to`; None when half of the seeds or more never reach it."""
    found = [labels_to(run, accuracy) for run in runs]
    value = float(np.median([np.inf if labels is None else labels for labels in found]))
    return value if np.isfinite(value) else None


def worst_step(runs: Sequence[Steps], others: Sequence[Steps]) -> float:
    """The lowest mean lead of `runs` over `others` at any step after the first, in accuracy; paired by seed.

    A step counts for the seeds whose two runs both have it; 0 where there is none.
    """
    n_steps = max((min(len(run.labels), len(other.labels)) for run, other in zip(runs, others, strict=True)), default=0)
    leads = []
    for step in range(1, n_steps):
        paired = [
            run.accuracies[step] - other.accuracies[step]
            for run, other in zip(runs, others, strict=True)
            if min(len(run.labels), len(other.labels)) > step
        ]
        leads.append(float(np.mean(paired)))
    return min(leads, default=0.0)


def report(found: Mapping[str, Sequence[Steps]], full: float) -> dict[str, Any]:
    """What `simulate --strategies --json` ends with. `full`: the accuracy with all labels.

    `labels_to`: by per cent of `full`; null where it was not reached. `over_random`: the same divided by random's.
    """
    strategies: dict[str, Any] = {}
    for name, runs in found.items():
        curve = mean_curve(runs)
        needed = {_percent(share): median_labels(runs, share * full) for share in SHARES}
        figures = {
            "labels": list(curve.labels),
            "accuracy": _rounded(curve.mean),
            "low": _rounded(curve.low),
            "high": _rounded(curve.high),
            "labels_to": {share: None if labels is None else round(labels, 1) for share, labels in needed.items()},
        }
        if RANDOM in found and name != RANDOM:
            figures["over_random"] = {
                _percent(share): _ratio(needed[_percent(share)], median_labels(found[RANDOM], share * full))
                for share in SHARES
            }
            figures["worst_step_over_random"] = round(worst_step(runs, found[RANDOM]), 4)
        strategies[name] = figures
    return {"full_accuracy": round(full, 4), "strategies": strategies}


def lines(figures: Mapping[str, Any]) -> list[str]:
    """The report as a table: the labels that each strategy needs, and how they compare with random's."""
    shares = [_percent(share) for share in SHARES]
    found = [f"{'strategy':<18}" + "".join(f"{f'labels to {share} %':>17}" for share in shares) + f"{'at the end':>13}"]
    for name, strategy in figures["strategies"].items():
        cells = []
        for share in shares:
            labels, ratio = strategy["labels_to"][share], strategy.get("over_random", {}).get(share)
            cells.append(("never" if labels is None else f"{labels:.0f}") + (f" ({ratio:.2f} ×)" if ratio else ""))
        found.append(f"{name:<18}" + "".join(f"{cell:>17}" for cell in cells) + f"{strategy['accuracy'][-1]:>13.4f}")
    return found


def _percent(share: float) -> str:
    return str(round(share * 100))


def _rounded(values: FloatArray) -> list[float]:
    return [round(float(value), 4) for value in values]


def _ratio(labels: float | None, others: float | None) -> float | None:
    return None if labels is None or others is None else round(labels / others, 3)
