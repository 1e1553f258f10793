"""Fit the threshold above which a verdict stands, on answers to texts that the model had not seen."""

from typing import Any

import numpy as np

from app.intent.arrays import FloatArray

LOWEST, HIGHEST, STEP = 0.50, 0.90, 0.01
TARGET_ACCURACY = 0.90


def fit_threshold(confidence: FloatArray, correct: Any, *, target: float = TARGET_ACCURACY) -> float:
    """The lowest τ in 0.50, 0.51 … 0.90 from which on answers are right in at least `target` of the cases.

    `confidence` (n,) in [0, 1] and `correct` (n,) booleans are out-of-fold. Where no τ reaches the target, or there is
    nothing to fit on, 0.90: a person rather looks once too often.
    """
    right = np.asarray(correct, dtype=bool)
    for threshold in np.round(np.arange(LOWEST, HIGHEST + STEP / 2, STEP), 2):
        above = confidence >= threshold
        if above.any() and right[above].mean() >= target:
            return float(threshold)
    return HIGHEST
